"""Programs that begin at once: forked from a process that has imported them already.

    forks = Forks("deployments.desk", environment, output)
    async with forks.begin(QUARTERDECK_CRASH_AT="after claim") as desk:
        await desk.ended

A desk needs seconds to import everything: a test that kills a hundred of them would do little else.
What is forked is a process like any other, and has done nothing yet but import.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import IO

from deployments.supervisor import ROOT


@dataclass(frozen=True)
class Fork:
    """A program that was begun; `ended` gives its exit code, negative for a signal."""

    pid: int
    ended: asyncio.Task[int]


class Forks:
    """The process to fork from; one program of it runs at a time."""

    def __init__(self, module: str, environment: Mapping[str, str], output: IO[bytes] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.forks", module],
            env=dict(environment),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )

    @asynccontextmanager
    async def begin(self, *arguments: str, **environment: str) -> AsyncIterator[Fork]:
        """Run its `main`; told to stop at the end, if it still runs."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([arguments, environment]) + "\n")
        self._process.stdin.flush()
        fork = Fork(await asyncio.to_thread(self._told), asyncio.create_task(asyncio.to_thread(self._told)))
        try:
            yield fork
        finally:
            if not fork.ended.done():
                os.kill(fork.pid, signal.SIGTERM)
            await fork.ended

    def _told(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """No more of them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def main(name: str) -> None:
    """Import the module; then for every line one child, of which two lines are told: its number, its end."""
    module = importlib.import_module(name)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _be(module, *json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _be(module: ModuleType, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    sys.argv[1:] = arguments
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    module.main()
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1])
