"""Which of xdist's workers runs what: a file stays together, and so do files that share a heavy import.

What a file sets up is then set up once, and litellm, which takes seconds, is loaded by one worker.
"""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

LITELLM = "litellm"
GROUPS = {
    "test_router_litellm": LITELLM,
    "test_router_litellm_requests": LITELLM,
    "test_router_faults": LITELLM,
    "test_router_invoice": LITELLM,
    "test_router_sdks": LITELLM,
}

LONGEST = (
    "tests/chaos/test_kill_at_every_point",
    "tests/services/test_up",
    "tests/services/test_full_disk",
    "tests/services/test_outages",
    "tests/services/test_openapi",
    "tests/services/test_desk",
    "tests/unit/test_crew_runtimes",
    *(f"tests/unit/{name}" for name in GROUPS),
    "tests/flows/",
    "tests/unit/test_router_process",
)
"""What takes longest is begun first, so that none of it is what everybody waits for at the end."""


def place(nodeid: str) -> int:
    """Its place in the queue."""
    return next((number for number, name in enumerate(LONGEST) if nodeid.startswith(name)), len(LONGEST))


class ByFile(LoadScopeScheduling):
    """Hands out a file, or a group of files, at a time."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GROUPS.get(PurePosixPath(file).stem, file)
