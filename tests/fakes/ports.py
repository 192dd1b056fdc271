"""Ports for programs that are told theirs before they listen on it, and again after a restart.

They lie below those that the system gives away (Linux from 32768, macOS from 49152): meanwhile nobody who
asked for any free port, and no client, can get one. Each process of the tests has a row of its own.
"""

import os
import socket
from itertools import count

FIRST, ROWS, LONG = 15_000, 400, 40
_next = count()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens; never the same one twice until the row is through."""
    row = FIRST + os.getpid() % ROWS * LONG
    while True:
        port = row + next(_next) % LONG
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
