"""The router process stays below 120 MB: what calls do not need is not imported."""

import asyncio
import gc
import subprocess
import sys
import weakref
from contextlib import suppress

import pytest

from deployments.litter import tidy
from deployments.supervisor import ROOT

HEAVY = (
    *("litellm", "prefect", "fastapi", "typer", "httpx", "openai", "anthropic", "alembic", "numpy"),
    "sqlite3",  # backups are made in a process of their own
    *("rich", "watchfiles"),  # for what is installed beside the router, see deployments/lean.py
)


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """The packages that the router process has before its first call."""
    script = "import sys, deployments.router; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", HEAVY)
def test_the_router_process_does_not_import(imported: set[str], package: str) -> None:
    assert "quarterdeck" in imported
    assert package not in imported


class Circle:
    """What a connection and its parser are to each other."""

    def __init__(self) -> None:
        self.other = self


async def test_what_was_long_in_use_is_freed_soon_after_its_end() -> None:
    gc.freeze()  # as the router does: else each look would go through all that the tests have imported
    circle = Circle()
    for _ in range(3):
        gc.collect()  # it survives, and is not looked at again but by a full look
    left = weakref.ref(circle)
    del circle
    tidying = asyncio.create_task(tidy(every=0.01))
    try:
        async with asyncio.timeout(10):
            while left() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.unfreeze()
        tidying.cancel()
        with suppress(asyncio.CancelledError):
            await tidying
