"""Foreign programs: started from argument lists, within limits of time and output, without our secrets.

    ran = await run(("openclaw", "workboard", "list", "--json"), seconds=60, environment=environment({}))
    cards = await json_of(ran)

What went wrong stays apart (spec heartbeat.md, H3 and H8): the program is missing, took too long, said too
much (`Unavailable`), ended with an exit code (`Ran.code`), or said something that is no JSON.
"""

import asyncio
import json
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.crew.command import PASSED_ON
from quarterdeck.heartbeat.sources.reading import tame
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel import children, log

SECONDS = 30.0
"""How long a program may take."""
MOST_BYTES = 16_000_000
"""The most that is read of what it prints; a program that says more is stopped."""
_KEPT_ERRORS, _SHOWN_ERRORS, _CHUNK = 16_000, 300, 65_536


@dataclass(frozen=True)
class Ran:
    """How a program ended and what it printed; `complaint` is the end of its error output, for people."""

    name: str
    code: int
    output: bytes = field(repr=False)
    complaint: str


def environment(
    given: Mapping[str, str], desk: Mapping[str, str] = os.environ, *, path: str = ""
) -> dict[str, str]:
    """A few of the desk's own variables and what this one command needs; `path` comes first in PATH."""
    passed_on = {name: desk[name] for name in PASSED_ON if name in desk}
    if path:
        passed_on["PATH"] = os.pathsep.join(filter(None, (path, passed_on.get("PATH", ""))))
    return passed_on | dict(given)


def found(program: str, told: Mapping[str, str]) -> str | None:
    """Where a program is, for somebody with this environment."""
    return shutil.which(program, path=told.get("PATH"))


async def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    seconds: float = SECONDS,
    most_bytes: int = MOST_BYTES,
    said: str | None = None,
) -> Ran:
    """Run a program to its end; `said` is what it reads. Whatever it started ends with it.

    Raises `Unavailable` when it is missing, takes too long or prints too much.
    """
    name = os.path.basename(argv[0])  # noqa: PTH119
    process = await _started(argv, environment, wants_input=said is not None)
    try:
        async with asyncio.timeout(seconds):
            output, complaint, _ = await asyncio.gather(
                _output(process, name, most_bytes), _complaint(process), _tell(process, said)
            )
            code = await process.wait()
    except TimeoutError:
        raise unavailable(Trouble.TIMED_OUT, f"{name} did not end within {seconds:g} s.") from None
    finally:
        await children.end(process)  # a child that outlives its parent would go on unseen
    return Ran(name, code, output, complaint)


async def _started(argv: Sequence[str], told: Mapping[str, str], *, wants_input: bool) -> Process:
    program = found(argv[0], told)
    if program is None:
        raise _missing(argv[0])
    try:
        return await asyncio.create_subprocess_exec(
            program,
            *argv[1:],
            stdin=PIPE if wants_input else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(told),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise unavailable(Trouble.FAILED, f"{argv[0]} cannot be started: {reason}.") from None


def _missing(program: str) -> Exception:
    return unavailable(
        Trouble.MISSING,
        f"There is no program {program}.",
        "Install it, or enter where it is in its connection.",
    )


async def _output(process: Process, name: str, most_bytes: int) -> bytes:
    assert process.stdout is not None
    read = bytearray()
    while chunk := await process.stdout.read(_CHUNK):
        read += chunk
        if len(read) > most_bytes:
            raise unavailable(Trouble.TOO_LARGE, f"{name} printed more than {most_bytes} bytes.")
    return bytes(read)


async def _complaint(process: Process) -> str:
    """The end of the error output, without secrets; all of it is read, so that nobody waits for us."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(_CHUNK):
        kept = (kept + chunk)[-_KEPT_ERRORS:]
    return tame(log.redact(kept.decode("utf-8", "replace"))[-_SHOWN_ERRORS:], _SHOWN_ERRORS)


async def _tell(process: Process, said: str | None) -> None:
    if process.stdin is None or said is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):  # it did not want to hear all of it
        process.stdin.write(said.encode())
        await process.stdin.drain()
    process.stdin.close()


async def json_of(ran: Ran) -> Any:
    """What a program that ended well said. Raises `Unavailable` when that is no JSON."""
    return await asyncio.to_thread(_parsed, ran)


def _parsed(ran: Ran) -> Any:
    if not ran.output.strip():
        raise unavailable(Trouble.UNREADABLE, f"{ran.name} said nothing, where JSON was expected.")
    try:
        return json.loads(ran.output)
    except json.JSONDecodeError as error:
        how = "breaks off in the middle" if _is_half(error) else "is no JSON"
    except (ValueError, RecursionError):
        how = "is no JSON that can be read"
    raise unavailable(Trouble.UNREADABLE, f"What {ran.name} said {how}.")


def _is_half(error: json.JSONDecodeError) -> bool:
    began = error.doc.lstrip()[:1] in ("{", "[")
    return began and (error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated"))
