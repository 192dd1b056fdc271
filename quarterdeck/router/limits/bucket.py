"""How often a backend may be called: a token bucket, and never more than its limit in any rolling minute.

A bucket of r calls per minute holds r tokens and fills in a minute, so that one number says all of it: when
it will be full. Used tokens are (full_at - now) * r / 60, and of two buckets the one that is full earlier is
the less used, now and later: this order does not change while nobody takes from them.
"""

from array import array
from bisect import bisect_right
from dataclasses import dataclass

MINUTE = 60.0
_ROUNDING = 0.001
"""Epoch seconds as floats are good for a microsecond; the rolling minute keeps the count exact."""

_SLACK = 16
"""Old entries that may lie before the first one that counts."""


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket's state for people (section 5). `utilization` is the used share, `last_minute` is counted."""

    tokens: float
    capacity: int
    rate_per_minute: float
    utilization: float
    last_minute: int


class Bucket:
    """`full_at` (epoch seconds) orders buckets by use. All times must come from one clock."""

    __slots__ = ("_first", "_interval", "_taken", "full_at", "rpm")

    def __init__(self, rpm: int) -> None:
        self.full_at = 0.0
        self._taken = array("d")  # a quarter of what a deque of floats takes
        self._first = 0  # those before it are older than a minute
        self._set(rpm)

    def _set(self, rpm: int) -> None:
        self.rpm = max(rpm, 1)
        self._interval = MINUTE / self.rpm

    def free_at(self, now: float) -> float:
        """When the next call may go; `now` or earlier = at once."""
        self._forget(now)
        token = self.full_at + self._interval - MINUTE - _ROUNDING
        over = len(self._taken) - self.rpm
        return max(token, self._taken[over] + MINUTE) if over >= 0 else token

    def take(self, now: float) -> None:
        """One call goes; `free_at` must have said that it may."""
        self.full_at = max(self.full_at, now) + self._interval
        self._taken.append(now)

    def give_back(self, taken_at: float) -> None:
        """A call did not go after all."""
        if taken_at in self._taken[self._first :]:
            del self._taken[self._taken.index(taken_at, self._first)]
            self.full_at -= self._interval

    def change(self, rpm: int, now: float) -> None:
        """Another limit from now on: what was refilled so far stays, as far as it fits."""
        if max(rpm, 1) == self.rpm:
            return
        tokens = self._tokens(now)
        self._set(rpm)
        self.full_at = now + (self.rpm - min(tokens, self.rpm)) * self._interval

    def level(self, now: float) -> Level:
        self._forget(now)
        tokens = self._tokens(now)
        return Level(
            tokens=round(tokens, 2),
            capacity=self.rpm,
            rate_per_minute=round(self.rpm, 1),
            utilization=round(1 - tokens / self.rpm, 4),
            last_minute=len(self._taken) - self._first,
        )

    def _tokens(self, now: float) -> float:
        used = max(self.full_at - now, 0.0) / self._interval
        return max(self.rpm - used, 0.0)

    def _forget(self, now: float) -> None:
        first = bisect_right(self._taken, now - MINUTE, self._first)
        if first > _SLACK:
            del self._taken[:first]
            first = 0
        self._first = first
