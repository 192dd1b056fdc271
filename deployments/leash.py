"""A leash on a child process: when the supervisor is gone, however it died, the child stops as well.

    python -m deployments.leash 7 deployments.desk --flag     # 7: the child's end of a socket pair

The supervisor keeps the other end open as long as it lives; the end of file tells the child that it is
alone. It then stops its whole process group in order, and by force after `GRACE` seconds. The same
socket carries the child's word that it is ready.
"""

import importlib
import os
import runpy
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

GRACE = 8.0
"""Seconds between the polite and the forced end of an orphan."""

READY = b"ready\n"
_leash: socket.socket | None = None


def ready() -> None:
    """Tell the supervisor, if there is one, that this process does its work now."""
    if _leash is not None:
        _leash.sendall(READY)


def is_held() -> bool:
    """Whether a supervisor holds the other end."""
    return _leash is not None


def attach(leash: socket.socket) -> None:
    """Stop this process, and its group with it, when the other end of `leash` closes."""
    global _leash  # one process has one leash
    _leash = leash
    threading.Thread(target=_watch, args=(leash,), name="leash", daemon=True).start()


def _watch(leash: socket.socket) -> None:
    with suppress(ConnectionResetError):  # it went without hearing our last word
        while leash.recv(64):
            pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Put this process on the leash, then be the module that the arguments name."""
    descriptor, module = int(arguments[0]), arguments[1]
    os.set_inheritable(descriptor, False)  # a grandchild must not take the leash for its own
    importlib.import_module("deployments.leash").attach(socket.socket(fileno=descriptor))
    sys.argv = [module, *arguments[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
