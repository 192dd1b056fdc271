"""Ending programs that we started, each at the head of a process group (`start_new_session=True`)."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from contextlib import suppress


async def end(process: Process) -> None:
    """Leave nothing running: neither the program nor whatever it started. Safe for one that has ended.

    Its pipes are closed first: asyncio's `wait` waits for their end, and a full one that nobody reads any
    more has none.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process._transport.close()  # type: ignore[attr-defined]
    await asyncio.shield(process.wait())
