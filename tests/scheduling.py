"""Which of xdist's workers runs what: a file stays together, and so do files that share something heavy.

What a file sets up is then set up once; litellm, which takes seconds, is loaded by one worker, and the
Prefect server that several files use is started by one.
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

TOGETHER = ("tests/services/one_prefect/",)
"""Folders whose files stay together."""

LONGEST = (
    "tests/chaos/test_kill_at_every_point",
    "tests/services/one_prefect/",
    "tests/services/test_heartbeat_weeks",
    "tests/services/test_outages",
    "tests/services/test_up",
    "tests/services/test_canary",
    "tests/services/test_full_disk",
    "tests/chaos/test_kill_sweep",
    "tests/chaos/test_kill_clients",
    "tests/services/test_openapi",
    "tests/chaos/test_kill_messages",
    "tests/services/test_demo",
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
        folder = next((folder for folder in TOGETHER if file.startswith(folder)), None)
        return folder or GROUPS.get(PurePosixPath(file).stem, file)
