"""How long a process that ended by itself is left alone before it is started again."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY_AFTER = 60.0
"""A process that lived this many seconds is taken for healthy: its earlier failures are forgotten."""

CRASH_LOOP = 3
"""From this many failures in a row on, people are shown the end of the log."""


def failures_in_a_row(before: int, lived: float) -> int:
    """The count after one more failure of a process that lived `lived` seconds."""
    return 1 if lived >= STEADY_AFTER else before + 1


def pause(failures: int) -> float:
    """Seconds to wait after this many failures in a row: 0.5, 1, 2, 4 ... at most 30."""
    return min(FIRST_PAUSE * 2.0 ** min(max(failures, 1) - 1, 16), LONGEST_PAUSE)
