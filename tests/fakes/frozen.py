"""A PostgreSQL that is frozen: its connections stay open, and nothing answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from quarterdeck.kernel.postgres import EmbeddedPostgres
from quarterdeck.kernel.postgres.processes import find_postmaster


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """All its processes stand still, and go on afterwards."""
    found = find_postmaster(server.data)
    assert found is not None
    processes = [psutil.Process(found.pid)]
    try:
        processes[0].suspend()  # none comes any more, and none is let go
        processes += processes[0].children(recursive=True)
        for process in processes[1:]:
            process.suspend()
        yield
    finally:
        for process in processes:
            process.resume()
