"""The router's one clock: seconds since 1970 that never go back, whatever happens to the machine's clock."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the former goes on while a machine sleeps
_START = time.time() - time.clock_gettime(_CLOCK)


def now() -> float:
    """Epoch seconds: the wall time when the process began, and what has passed since."""
    return _START + time.clock_gettime(_CLOCK)
