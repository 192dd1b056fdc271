"""The end of a day: what agents and CI do when everything is closed in order.

Keepers survive the desk, so that a crash costs no work. But when somebody closes the whole desk, nothing
may go on behind their back: every run is asked to stop, and begun anew when the desk opens again. That
is no fault of the agent and costs it no round (see `pipeline.rules`).
"""

import asyncio
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from quarterdeck.crew.folder import RunFolder
from quarterdeck.crew.keeper import MARK
from quarterdeck.crew.runtime import CLOSED
from quarterdeck.kernel.settings import Settings

CI = "ci-"
"""How the folders of CI runs begin; they are thrown away, and the run starts from nothing."""


async def stop_runs(settings: Settings, seconds: float) -> int:
    """Stop every program that a keeper of this home watches, by force after `seconds`; how many runs."""
    home = settings.runs_folder.resolve()  # as keepers know it
    folders = {folder for folder, _ in await asyncio.to_thread(_marked, home)}
    for folder in folders:
        with suppress(OSError):
            await asyncio.to_thread(RunFolder(folder).ask_to_stop, CLOSED)
    if not await _are_over(folders, seconds):
        await asyncio.to_thread(_kill, home)
        await _are_over(folders, 0.5)
    for folder in folders:
        if folder.name.startswith(CI):
            shutil.rmtree(folder, ignore_errors=True)
    return len(folders)


async def _are_over(folders: Iterable[Path], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not all(RunFolder(folder).has_outcome for folder in folders):
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(0.05)
    return True


def _marked(home: Path) -> list[tuple[Path, psutil.Process]]:
    """Every process that carries the mark of a run of this home, with the run's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            folder = Path(process.environ().get(MARK, "/"))
            if folder.is_relative_to(home):
                found.append((folder, process))
    return found


def _kill(home: Path) -> None:
    for _, process in _marked(home):
        with suppress(psutil.Error):
            process.kill()
