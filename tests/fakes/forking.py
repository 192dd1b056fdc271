"""Programs that tests kill: each starts with its imports done, forked from a process that does them once.

    ended = await forks.run("tests.fakes.listening", url, home, QUARTERDECK_CRASH_AT="after store updates")
    ended = await forks.run(SCRIPT, url)  # the text of a program
    assert ended.code == -9

The program is executed as Python would: a fresh `__main__`, its arguments, its environment. A start costs
a hundredth of a second instead of seconds.
"""

import ast
import asyncio
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
LIMIT = 60
"""Seconds after which a program is ended; its code is then -14 (SIGALRM)."""


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, or minus the signal that killed it; and what it printed."""

    code: int
    said: str
    complained: str


class Forks:
    """The process that forks."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._turn = threading.Lock()

    async def run(self, program: str, *arguments: str, **environment: str) -> Ended:
        """Run a module by its name, or a program by its text, to its end; one at a time."""
        order = {"program": program, "arguments": arguments, "environment": {**os.environ, **environment}}
        return await asyncio.to_thread(self._run, json.dumps(order))

    def close(self) -> None:
        """End the process."""
        self._server.communicate()

    def _run(self, order: str) -> Ended:
        assert self._server.stdin and self._server.stdout
        with self._turn:
            self._server.stdin.write(order + "\n")
            self._server.stdin.flush()
            return Ended(**json.loads(self._server.stdout.readline()))


def _serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        _prepare(order["program"])
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            pid = os.fork()
            if pid == 0:
                _become(order, output.fileno(), errors.fileno())
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
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdin, sys.stdout = io.StringIO(), os.fdopen(1, "w", closefd=False)
        signal.alarm(LIMIT)
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = [order["program"], *order["arguments"]]
        if _is_module(order["program"]):
            runpy.run_module(order["program"], run_name="__main__", alter_sys=True)
        else:
            exec(compile(order["program"], "<program>", "exec"), {"__name__": "__main__"})
        code = 0
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
