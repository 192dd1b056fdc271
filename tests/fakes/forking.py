"""Programs that tests kill: each starts with its imports done, forked from a process that does them once.

    ended = await forks.run("tests.fakes.listening", url, home, QUARTERDECK_CRASH_AT="after store updates")
    ended = await forks.run(SCRIPT, url)  # the text of a program
    assert ended.code == -9

    async with forks.begin("deployments.desk", QUARTERDECK_CRASH_AT="after claim") as desk:
        await desk.ended  # or leave: then it is told to stop

The program is executed as Python would: a fresh `__main__`, its arguments, its environment. A start costs
a hundredth of a second instead of seconds. One program runs at a time.
"""

import ast
import asyncio
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
LIMIT = 60
"""Seconds after which a program of `run` is ended; its code is then -14 (SIGALRM)."""


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, or minus the signal that killed it; and what it printed."""

    code: int
    said: str
    complained: str


@dataclass(frozen=True)
class Fork:
    """A program that was begun."""

    pid: int
    ended: "asyncio.Task[Ended]"


class Forks:
    """The process that forks. What programs print goes to `log`, if there is one."""

    def __init__(self, environment: Mapping[str, str] | None = None, log: IO[bytes] | None = None) -> None:
        self._environment = environment
        self._is_logged = log is not None
        self._turn = asyncio.Lock()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.forking"],
            env=None if environment is None else dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        )

    async def run(self, program: str, *arguments: str, **environment: str) -> Ended:
        """Run a module by its name, or a program by its text, to its end."""
        async with self._begun(program, arguments, environment, LIMIT) as fork:
            return await fork.ended

    @asynccontextmanager
    async def begin(self, program: str, *arguments: str, **environment: str) -> AsyncIterator[Fork]:
        """The same, besides whatever is done inside of this; if it still runs then, it is told to stop."""
        async with self._begun(program, arguments, environment, 0) as fork:
            try:
                yield fork
            finally:
                if not fork.ended.done():
                    os.kill(fork.pid, signal.SIGTERM)

    @asynccontextmanager
    async def _begun(
        self, program: str, arguments: tuple[str, ...], environment: dict[str, str], limit: int
    ) -> AsyncIterator[Fork]:
        assert self._server.stdin
        inherited = os.environ if self._environment is None else self._environment
        order = {"program": program, "arguments": arguments, "environment": {**inherited, **environment}}
        async with self._turn:
            self._server.stdin.write(json.dumps(order | {"limit": limit, "log": self._is_logged}) + "\n")
            self._server.stdin.flush()
            pid = await asyncio.to_thread(self._told)
            ended = asyncio.create_task(self._end())
            try:
                yield Fork(pid, ended)
            finally:
                await ended

    async def _end(self) -> Ended:
        return Ended(**await asyncio.to_thread(self._told))

    def _told(self) -> Any:
        assert self._server.stdout
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._server.communicate()


def _serve() -> None:
    """For each order two lines: the process id of the program, and how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        _prepare(order["program"])
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            pid = os.fork()
            if pid == 0:
                _become(order, *((2, 2) if order["log"] else (output.fileno(), errors.fileno())))
            print(pid, flush=True)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            ended = {"code": code, "said": _text(output), "complained": _text(errors)}
        print(json.dumps(ended), flush=True)


def _prepare(program: str) -> None:
    """Import what the program imports at its beginning."""
    if _is_module(program):
        import_module(program)
        return
    imports = [node for node in ast.parse(program).body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "<imports>", "exec"), {})


def _become(order: dict[str, Any], output: int, errors: int) -> None:
    """Be the program; never returns."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        signal.alarm(order["limit"])
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = [order["program"], *order["arguments"]]
        if _is_module(order["program"]):
            runpy.run_module(order["program"], run_name="__main__", alter_sys=True)
        else:
            exec(compile(order["program"], "<program>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _is_module(program: str) -> bool:
    return "\n" not in program


if __name__ == "__main__":
    _serve()
