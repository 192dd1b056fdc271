"""The folder of one run of the `command` runtime: everything about it that any process may look up.

order.json    for the keeper           result.json   by the agent
job.json      for the agent            agent.log, started.json, launched, exit.json: by the keeper
"""

import contextlib
import fcntl
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from quarterdeck.crew import keeper
from quarterdeck.crew.report import read_report
from quarterdeck.crew.runtime import LOST as LOST_RUN
from quarterdeck.crew.runtime import Outcome

KEEPER_LOG = "keeper.log"

MOST_READ = 1 << 16

LOST = "lost-"
"""Beginnings of the names under which the start of a program that was lost is kept."""

CLEAN_LOOKS = 3
"""Looks without a find that prove nothing is left: a process hides while it forks or executes."""


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Methods touch the disk and raise `OSError` when it does not serve."""

    path: Path

    def create(self) -> None:
        """For the owner's eyes alone: a log may show what the agent was told."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, name: str, facts: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(facts))

    def write_text(self, name: str, text: str) -> None:
        """A file that is there whole or not at all."""
        handle, part = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            Path(part).replace(self.path / name)
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise

    @property
    def was_started(self) -> bool:
        return (self.path / keeper.STARTED).exists()

    @property
    def has_outcome(self) -> bool:
        return (self.path / keeper.EXIT).exists()

    @property
    def is_begun(self) -> bool:
        """Was the run started, or settled that it never will?"""
        return self.was_started or self.has_outcome

    @property
    def was_launched(self) -> bool:
        return (self.path / keeper.LAUNCHED).exists()

    @property
    def is_decided(self) -> bool:
        """Is it known whether the program could be launched?"""
        return self.was_launched or self.is_over

    @property
    def is_over(self) -> bool:
        """Will nothing more come of this run?"""
        return self.has_outcome or (self.was_started and not self.is_kept)

    @property
    def is_kept(self) -> bool:
        """Does a keeper hold this run?"""
        with self._lock() as is_free:
            return not is_free

    @contextlib.contextmanager
    def _lock(self) -> Iterator[bool]:
        """The keeper's lock, for a moment; whether it was free."""
        with (self.path / keeper.LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def outcome(self) -> Outcome:
        """How the run ended; only after it has."""
        ended = self.facts(keeper.EXIT)
        outcome = Outcome(
            exit_code=ended["exit_code"],
            timed_out=ended["timed_out"],
            cancelled=ended["cancelled"],
            error=ended["error"] or (self._why_stopped() if ended["cancelled"] else ""),
            ended_at=_time(ended["at"]),
        )
        if ended["exit_code"] is None:
            return outcome
        started = _time(self.facts(keeper.STARTED)["at"])
        return read_report(self.path, replace(outcome, started_at=started))

    def reopen(self, most: int) -> bool | None:
        """Make room for another keeper after the first one or its program was killed; at most so often.

        None: somebody else did that meanwhile. The log stays, and the files of the agent do.
        """
        with self._lock() as is_free:
            if not is_free or not self.has_outcome:
                return None
            number = len(list(self.path.glob(f"{LOST}*")))
            if number >= most or (self.path / keeper.STOP).exists():
                return False
            (self.path / keeper.LAUNCHED).unlink(missing_ok=True)
            (self.path / keeper.EXIT).unlink()  # from here on a crash is found as a lost keeper
            (self.path / keeper.STARTED).rename(self.path / f"{LOST}{number + 1}.json")
            return True

    def first_started_at(self) -> datetime:
        """When the first of its programs was started."""
        first = f"{LOST}1.json"
        return _time(self.facts(first if (self.path / first).exists() else keeper.STARTED)["at"])

    def facts(self, name: str) -> dict[str, Any]:
        """A file of the folder. Raises `OSError`, and `ValueError` if it is no JSON."""
        facts: dict[str, Any] = json.loads((self.path / name).read_bytes())
        return facts

    def _why_stopped(self) -> str:
        try:
            return (self.path / keeper.STOP).read_text(encoding="utf-8")
        except FileNotFoundError:
            return "its keeper was told to stop"

    def ask_to_stop(self, why: str) -> None:
        """Leave word for the keeper; where there is none yet, see that the run never starts."""
        self.write_text(keeper.STOP, why)
        with self._lock() as is_free:
            if is_free and not self.is_begun:
                self.record_end(cancelled=True, error=why)

    def settle_if_lost(self) -> None:
        """If the keeper of a started run is gone without a word: kill what it left, and say so for it."""
        with self._lock() as is_free:
            if is_free and not self.has_outcome:
                self._kill_left_over()
                self.record_end(exit_code=LOST_RUN, error="its keeper was killed, and the program with it")

    def record_end(self, *, exit_code: int | None = None, cancelled: bool = False, error: str) -> None:
        """Write what the keeper would have written."""
        facts = {"exit_code": exit_code, "timed_out": False, "cancelled": cancelled, "error": error}
        self.write(keeper.EXIT, facts | {"at": datetime.now(UTC).timestamp()})

    def _kill_left_over(self) -> None:
        """Kill the program's group, and whatever else carries the run's mark."""
        started = self.facts(keeper.STARTED)
        if started["born"] and keeper.born(started["pid"]) == started["born"]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(started["pid"], signal.SIGKILL)
        clean, until = 0, time.monotonic() + keeper.PATIENCE
        while clean < CLEAN_LOOKS and time.monotonic() < until:
            clean = 0 if self._kill_marked() else clean + 1
            time.sleep(0.02)

    def _kill_marked(self) -> int:
        """Kill what inherited the mark, in whatever group it is; returns how many there were."""
        killed, mark = 0, os.path.realpath(self.path)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(keeper.MARK) == mark:
                    process.kill()
                    killed += 1
        return killed

    def read_log(self, place: int) -> bytes:
        """What the program said from a byte on, at most 64 KiB."""
        try:
            with (self.path / keeper.LOG).open("rb") as file:
                file.seek(place)
                return file.read(MOST_READ)
        except FileNotFoundError:
            return b""

    def keeper_trouble(self) -> str:
        """The last thing a keeper said before it died."""
        said = (self.path / KEEPER_LOG).read_text(encoding="utf-8", errors="replace")
        return (said.strip().splitlines() or ["its keeper ended at once"])[-1]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
