"""Where calls wait for a token."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quarterdeck.router import steady
from quarterdeck.router.backend import Backend
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Admission, Balancer
from quarterdeck.router.limits.line import Line
from quarterdeck.router.limits.rules import Hint, LimitHint
from tests.fakes.backends import MODEL, START, backend

FOREVER = START * 2


class Hall:
    """A line whose clock stands until it is turned."""

    def __init__(self, *backends: Backend, tuning: Tuning | None = None) -> None:
        self.now = START
        self.balancer = Balancer(tuning or Tuning(queue_timeout_seconds=100))
        self.balancer.adopt(backends, START)
        self.line = Line(self.balancer, lambda: self.now)

    def come(
        self, model: str = MODEL, tried: Sequence[str] = (), deadline: float = FOREVER
    ) -> "asyncio.Task[Admission | None]":
        return asyncio.ensure_future(self.line.admit(model, tried, deadline))

    async def turn(self, seconds: float) -> None:
        self.now += seconds
        self.line.wake()
        await settle()


async def settle() -> None:
    """Let everybody go on who can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def come(hall: Hall, count: int) -> list["asyncio.Task[Admission | None]"]:
    tasks = [hall.come() for _ in range(count)]
    await settle()
    return tasks


async def leave(*tasks: "asyncio.Task[Admission | None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def served(tasks: Sequence["asyncio.Task[Admission | None]"]) -> list[bool]:
    return [task.done() and not task.cancelled() and task.result() is not None for task in tasks]


async def test_nobody_waits_where_there_is_a_token() -> None:
    hall = Hall(backend("a"))
    admission = await hall.line.admit(MODEL, (), FOREVER)
    assert admission
    assert hall.line.depth == 0


async def test_tokens_go_to_those_who_wait_in_the_order_of_their_coming() -> None:
    hall = Hall(backend("a", rpm_limit=2))
    tasks = await come(hall, 5)
    assert served(tasks) == [True, True, False, False, False]
    assert hall.line.depth == 3
    await hall.turn(59.9)
    assert served(tasks) == [True, True, False, False, False]
    await hall.turn(0.1)
    assert served(tasks) == [True, True, True, True, False]
    await leave(*tasks)
    assert hall.line.depth == 0


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    hall = Hall(backend("a", rpm_limit=1))
    tasks = await come(hall, 2)
    hall.now += 60
    late = hall.come()
    await settle()
    assert served([*tasks, late]) == [True, True, False]
    await leave(late)


async def test_models_that_share_a_backend_wait_in_one_line() -> None:
    tuning = Tuning(queue_timeout_seconds=1000)
    hall = Hall(backend("a", "one", "two", rpm_limit=1), tuning=tuning)
    tasks = [hall.come(model) for model in ("one", "two", "one", "two")]
    await settle()
    for done in range(1, 5):
        assert served(tasks) == [True] * done + [False] * (4 - done)
        await hall.turn(60)


async def test_a_model_with_free_tokens_does_not_wait_for_another() -> None:
    tuning = Tuning(queue_max_depth=1)
    hall = Hall(backend("a", "one", rpm_limit=1), backend("b", "two"), tuning=tuning)
    tasks = [hall.come("one") for _ in range(2)]
    await settle()
    assert hall.line.depth == tuning.queue_max_depth
    assert await hall.line.admit("two", (), FOREVER)
    await leave(*tasks)


async def test_one_who_may_not_use_a_token_lets_those_behind_have_it() -> None:
    hall = Hall(backend("a", rpm_limit=1), backend("b", rpm_limit=2))
    for name in ("a", "b", "a"):
        hall.balancer.admit(MODEL, (name,), START)
    picky = hall.come(tried=("a",))
    await settle()
    other = hall.come()
    await settle()
    hall.balancer.adopt([backend("a", rpm_limit=5), backend("b", rpm_limit=2)], START)
    await hall.turn(30)
    assert served([picky, other]) == [False, True]
    await leave(picky)


async def test_too_many_are_sent_away_at_once() -> None:
    hall = Hall(backend("a", rpm_limit=1), tuning=Tuning(queue_max_depth=2))
    tasks = await come(hall, 4)
    assert [task.done() for task in tasks] == [True, False, False, True]
    assert tasks[3].result() is None
    assert (hall.line.depth, hall.line.full, hall.line.timeouts) == (2, 1, 0)
    await leave(*tasks)


async def test_a_line_of_no_length_sends_everybody_away() -> None:
    hall = Hall(backend("a", rpm_limit=1), tuning=Tuning(queue_max_depth=0))
    assert await hall.line.admit(MODEL, (), FOREVER)
    assert await hall.line.admit(MODEL, (), FOREVER) is None


async def test_whoever_waited_too_long_gets_nothing() -> None:
    hall = Hall(backend("a", rpm_limit=1), tuning=Tuning(queue_timeout_seconds=30))
    _, late = await come(hall, 2)
    await hall.turn(29)
    assert not late.done()
    await hall.turn(1)
    assert late.result() is None
    assert (hall.line.depth, hall.line.timeouts) == (0, 1)


async def test_a_deadline_before_the_time_limit_counts() -> None:
    hall = Hall(backend("a", rpm_limit=1))
    await hall.line.admit(MODEL, (), FOREVER)
    hurried = hall.come(deadline=START + 3)
    await settle()
    await hall.turn(3)
    assert hurried.result() is None
    assert await hall.line.admit(MODEL, (), hall.now) is None
    assert (hall.line.depth, hall.line.timeouts) == (0, 1)  # who comes too late does not wait at all


@pytest.mark.parametrize("values", [{"enabled": False}, {"fault": "locked"}])
async def test_nobody_waits_for_what_time_does_not_mend(values: dict[str, object]) -> None:
    hall = Hall(backend("a", **values))
    assert await hall.line.admit(MODEL, (), FOREVER) is None
    assert await hall.line.admit("unknown", (), FOREVER) is None
    assert (hall.line.full, hall.line.timeouts) == (0, 0)


async def test_waiting_ends_when_it_has_become_useless() -> None:
    hall = Hall(backend("a", rpm_limit=1))
    first, second = await come(hall, 2)
    hall.balancer.limited(first.result(), START, LimitHint(), "")  # type: ignore[arg-type]
    await hall.turn(0)
    assert second.result() is None
    assert hall.line.timeouts == 0


async def test_a_cooldown_that_ends_soon_is_waited_for() -> None:
    hall = Hall(backend("a"))
    admission = await hall.line.admit(MODEL, (), FOREVER)
    assert admission
    hall.balancer.limited(admission, START, LimitHint(seconds=11, source=Hint.RETRY_AFTER), "")
    assert await hall.line.admit(MODEL, (), FOREVER) is None
    hall.now += 1
    waiting = await come(hall, 2)
    await hall.turn(9.9)
    assert served(waiting) == [False, False]
    await hall.turn(0.1)
    assert served(waiting) == [True, False]  # one trial first
    trial = waiting[0].result()
    assert trial
    hall.balancer.succeeded(trial, hall.now)
    await hall.turn(0)
    assert served(waiting) == [True, True]


async def test_a_new_backend_serves_those_who_wait() -> None:
    hall = Hall(backend("a", rpm_limit=1))
    tasks = await come(hall, 3)
    hall.balancer.adopt([backend("a", rpm_limit=1), backend("b", rpm_limit=1)], START)
    await hall.turn(0)
    assert served(tasks) == [True, True, False]
    await leave(*tasks)


async def test_who_leaves_takes_no_token() -> None:
    hall = Hall(backend("a", rpm_limit=1))
    tasks = await come(hall, 3)
    tasks[1].cancel()
    await hall.turn(60)
    assert served(tasks) == [True, False, True]
    assert hall.line.depth == 0


async def test_who_leaves_in_the_moment_of_being_served_gives_the_token_to_the_next() -> None:
    hall = Hall(backend("a", rpm_limit=1))
    tasks = await come(hall, 3)
    hall.now += 60
    hall.line.wake()  # the second has its token, and does not know it yet
    tasks[1].cancel()
    await settle()
    assert served(tasks) == [True, False, True]
    assert hall.balancer.view("a", hall.now).in_flight == 2
    assert hall.balancer.view("a", hall.now).level.last_minute == 1


@pytest.mark.parametrize("interval_ms", [1, 40])
async def test_the_line_looks_by_itself_as_often_as_it_is_told_to(interval_ms: int) -> None:
    loop = asyncio.get_running_loop()
    balancer = Balancer(Tuning(rate_limiter_refill_interval_ms=interval_ms))
    balancer.adopt([backend("a", rpm_limit=1)], steady.now())
    taken = balancer.admit(MODEL, (), steady.now())
    assert taken
    began = loop.time()
    waiting = asyncio.ensure_future(Line(balancer).admit(MODEL, (), steady.now() + 60))
    await settle()
    balancer.unused(taken, steady.now())
    assert await waiting
    assert loop.time() - began >= interval_ms / 1000 - 0.001


async def test_the_line_goes_on_looking_until_there_is_a_token() -> None:
    hall = Hall(backend("a", rpm_limit=1), tuning=Tuning(queue_timeout_seconds=100))
    looks = iter([START] * 5)
    line = Line(hall.balancer, lambda: next(looks, START + 60))
    assert await line.admit(MODEL, (), FOREVER)
    assert await line.admit(MODEL, (), FOREVER)


class Queue(RuleBasedStateMachine):
    """Requests that come, wait, leave and are served, beside a plain list of who waits."""

    @initialize(depth=st.integers(0, 6), rpm=st.integers(1, 4))
    def begin(self, depth: int, rpm: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.tuning = Tuning(queue_max_depth=depth, queue_timeout_seconds=90)
        self.hall = Hall(backend("a", "one", "two", rpm_limit=rpm), tuning=self.tuning)
        self.rpm = rpm
        self.waiting: list[tuple[float, asyncio.Task[Admission | None]]] = []
        self.spent: list[float] = []
        self.full = self.timeouts = 0

    def teardown(self) -> None:
        self.loop.run_until_complete(leave(*(task for _, task in self.waiting)))
        assert self.hall.line.depth == 0
        self.loop.close()

    def free(self) -> int:
        return self.rpm - sum(at > self.hall.now - 60 for at in self.spent)

    @rule(model=st.sampled_from(["one", "two"]), patience=st.sampled_from([5.0, 200.0]))
    def one_comes(self, model: str, patience: float) -> None:
        async def start() -> "asyncio.Task[Admission | None]":
            task = self.hall.come(model, (), self.hall.now + patience)
            await settle()
            return task

        task = self.loop.run_until_complete(start())
        self.serve()
        if self.free() > 0:
            assert task.done()
            assert task.result()
            self.spent.append(self.hall.now)
        elif len(self.waiting) >= self.tuning.queue_max_depth:
            assert task.result() is None
            self.full += 1
        else:
            assert not task.done()
            self.waiting.append((self.hall.now + min(patience, 90), task))

    def serve(self) -> None:
        """Those in front have got what was free."""
        while self.waiting and self.free() > 0:
            _, task = self.waiting.pop(0)
            assert task.result()
            self.spent.append(self.hall.now)

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.9, 15.0, 30.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(self.hall.turn(seconds))
        for late in [entry for entry in self.waiting if entry[0] <= self.hall.now]:
            assert late[1].result() is None
            self.waiting.remove(late)
            self.timeouts += 1
        self.serve()

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def time_passes_and_nobody_looks(self, seconds: float) -> None:
        self.hall.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 60.0]))
    def one_leaves_in_the_very_moment_of_a_look(self, data: st.DataObject, seconds: float) -> None:
        entry = data.draw(st.sampled_from(self.waiting))

        async def go() -> None:
            self.hall.now += seconds
            if data.draw(st.booleans()):
                entry[1].cancel()
            self.hall.line.wake()
            entry[1].cancel()
            await settle()

        is_late = entry[0] <= self.hall.now + seconds
        self.loop.run_until_complete(go())
        if not (is_late and entry[1].done() and not entry[1].cancelled()):
            assert entry[1].cancelled()
        self.waiting.remove(entry)
        self.timeouts = self.hall.line.timeouts
        self.waiting = [other for other in self.waiting if other[0] > self.hall.now]
        self.serve()

    @invariant()
    def the_line_is_as_long_as_it_should_be(self) -> None:
        assert self.hall.line.depth == len(self.waiting)
        assert not any(task.done() for _, task in self.waiting)
        assert (self.hall.line.full, self.hall.line.timeouts) == (self.full, self.timeouts)

    @invariant()
    def nobody_took_more_than_there_was(self) -> None:
        view = self.hall.balancer.view("a", self.hall.now)
        assert view.in_flight == len(self.spent)
        assert view.level.last_minute == sum(at > self.hall.now - 60 for at in self.spent) <= self.rpm


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
