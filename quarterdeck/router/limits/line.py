"""Where calls wait for a token, first come first served (section 6)."""

import asyncio
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

from quarterdeck.router import steady
from quarterdeck.router.limits.balancer import Admission, Balancer


@dataclass(slots=True, eq=False)
class _Waiter:
    number: int
    model: str
    tried: Container[str]
    until: float
    answer: asyncio.Future[Admission | None]


class Line:
    """One line for all models; whom a free token cannot help does not keep it from those behind.

    While somebody waits it looks every `rate_limiter_refill_interval_ms`. `depth` is how many wait; `full`
    and `timeouts` count those who were sent away because too many waited, or because they waited too long.
    """

    def __init__(self, balancer: Balancer, now: Callable[[], float] = steady.now) -> None:
        self._balancer = balancer
        self._now = now
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self.depth = 0
        self.full = 0
        self.timeouts = 0

    async def admit(self, model: str, tried: Container[str], deadline: float) -> Admission | None:
        """A backend's leave to call, at once where possible. `deadline` is in steady epoch seconds.

        None when waiting is of no use, too many wait, or the time is over. Whoever is cancelled while it
        waits takes no token with it.
        """
        now = self._now()
        if self.depth:
            self._serve(now)
        if admission := self._balancer.admit(model, tried, now):
            return admission
        tuning = self._balancer.tuning
        until = min(now + tuning.queue_timeout_seconds, deadline)
        if until <= now or self._balancer.wait_hint(model, tried, now) is None:
            return None
        if self.depth >= tuning.queue_max_depth:
            self.full += 1
            return None
        return await self._wait(model, tried, until)

    async def _wait(self, model: str, tried: Container[str], until: float) -> Admission | None:
        answer: asyncio.Future[Admission | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(next(self._numbers), model, tried, until, answer)
        self._waiting.setdefault(model, deque()).append(waiter)
        self.depth += 1
        self._set_timer()
        try:
            return await answer
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        """The client has gone, maybe in the very moment in which it was served."""
        if waiter.answer.cancelled():
            self._drop(waiter)
        elif admission := waiter.answer.result():
            self._balancer.unused(admission, self._now())
            self.wake()

    def wake(self) -> None:
        """Something changed: whoever can be served is served now, and whose time is over goes."""
        now = self._now()
        late = [waiter for queue in self._waiting.values() for waiter in queue if waiter.until <= now]
        for waiter in late:
            if not waiter.answer.done():
                self.timeouts += 1
                self._answer(waiter, None)
        self._serve(now)
        self._set_timer()

    def _serve(self, now: float) -> None:
        """In the order of arrival. Where one who may go anywhere gets nothing, nobody behind it would."""
        heads = [(queue[0].number, 0, queue) for queue in self._waiting.values()]
        heapify(heads)
        served: list[tuple[_Waiter, Admission | None]] = []
        while heads:
            _, place, queue = heappop(heads)
            waiter = queue[place]
            if not waiter.answer.done():  # else it was cancelled just now
                admission = self._balancer.admit(waiter.model, waiter.tried, now)
                if admission or self._balancer.wait_hint(waiter.model, waiter.tried, now) is None:
                    served.append((waiter, admission))
                elif not waiter.tried:
                    continue
            if place + 1 < len(queue):
                heappush(heads, (queue[place + 1].number, place + 1, queue))
        for waiter, admission in served:
            self._answer(waiter, admission)

    def _answer(self, waiter: _Waiter, admission: Admission | None) -> None:
        self._drop(waiter)
        waiter.answer.set_result(admission)

    def _drop(self, waiter: _Waiter) -> None:
        queue = self._waiting[waiter.model]
        queue.remove(waiter)
        self.depth -= 1
        if not queue:
            del self._waiting[waiter.model]
        if not self.depth and self._timer:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self.depth and not self._timer:
            seconds = max(self._balancer.tuning.rate_limiter_refill_interval_ms, 1) / 1000
            self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.wake()
