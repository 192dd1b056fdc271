"""The inbox: a delivery is kept once, worked on once as far as anybody can, and never lost."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from quarterdeck.kernel import inbox as inboxes
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Unavailable
from quarterdeck.kernel.inbox import Delivery, Ignored, Inbox, Standing, pause
from tests.fakes.clock import ManualClock


@pytest.fixture
def clock(database: Database) -> ManualClock:
    """The inbox's clock."""
    database.clock = clock = ManualClock()
    return clock


@pytest.fixture
def inbox(database: Database, clock: ManualClock) -> Inbox:
    return Inbox(database)


async def send(inbox: Inbox, number: int, source: str = "plane") -> bool:
    return await inbox.accept(source, f"id-{number}", "issue", {"a": "b"}, b'{"number": %d}' % number)


class Notebook:
    """A handler that writes down what it gets, and then does what it is told."""

    def __init__(self, then: Callable[[Delivery], Awaitable[str]] | None = None) -> None:
        self.seen: list[int] = []
        self._then = then

    async def __call__(self, delivery: Delivery) -> str:
        self.seen.append(delivery.payload()["number"])
        return await self._then(delivery) if self._then else f"took {delivery.delivery_id}"


def ends_with(outcome: Exception | str) -> Notebook:
    async def then(delivery: Delivery) -> str:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Notebook(then)


async def settled(inbox: Inbox, number: int = 1) -> tuple[Standing, str]:
    entry = await inbox.show(number)
    return entry.state, entry.outcome


async def test_a_delivery_is_kept_and_handed_to_the_handler_of_its_source(inbox: Inbox):
    assert await send(inbox, 1)
    plane, gitea = Notebook(), Notebook()
    assert await inbox.work_off({"plane": plane, "gitea": gitea}) is None
    assert (await settled(inbox), plane.seen, gitea.seen) == ((Standing.DONE, "took id-1"), [1], [])


async def test_the_same_id_or_the_same_body_is_the_same_delivery(inbox: Inbox):
    assert await send(inbox, 1)
    assert not await send(inbox, 1)
    assert not await inbox.accept("plane", "id-1", "issue", {}, b'{"number": 2}')
    assert not await inbox.accept("plane", "another-id", "issue", {}, b'{"number": 1}')
    assert await send(inbox, 1, source="gitea")
    plane = Notebook()
    await inbox.work_off({"plane": plane})
    assert plane.seen == [1]


async def test_of_many_that_arrive_at_once_each_is_new_once(inbox: Inbox):
    told = await asyncio.gather(*(send(inbox, number % 50) for number in range(300)))
    assert told.count(True) == 50
    plane = Notebook()
    await inbox.work_off({"plane": plane})
    assert sorted(plane.seen) == list(range(50))


async def test_deliveries_of_one_source_are_worked_on_one_by_one_in_the_order_of_arrival(inbox: Inbox):
    for number in range(20):
        await send(inbox, number)
    at_once = most = 0

    async def alone(delivery: Delivery) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)  # work that lets others run
        at_once -= 1
        return "done"

    plane = Notebook(alone)
    await asyncio.gather(*(inbox.work_off({"plane": plane}) for _ in range(3)))
    assert (plane.seen, most) == (list(range(20)), 1)


async def test_one_that_hangs_holds_up_neither_its_own_source_for_long_nor_any_other(
    inbox: Inbox, clock: ManualClock
):
    release, hung = asyncio.Event(), asyncio.Event()

    async def hangs(delivery: Delivery) -> str:
        if delivery.delivery_id == "id-1":
            hung.set()
            await release.wait()
        return "done"

    plane, gitea = Notebook(hangs), Notebook()
    for number in (1, 2, 3):
        await send(inbox, number)
    await send(inbox, 4, source="gitea")
    working = asyncio.create_task(inbox.work_off({"plane": plane, "gitea": gitea}))
    await hung.wait()
    while gitea.seen != [4]:
        await asyncio.sleep(0.01)
    assert plane.seen == [1]
    clock.go(inboxes.HURRY.total_seconds() + 0.1)
    while plane.seen != [1, 2, 3]:
        await asyncio.sleep(0.01)
    assert (await settled(inbox, 1))[0] is Standing.WAITING
    release.set()
    await working
    assert (await settled(inbox, 1))[0] is Standing.DONE


async def test_a_part_that_is_down_is_waited_for_with_growing_pauses(inbox: Inbox, clock: ManualClock):
    await send(inbox, 1)
    plane = ends_with(Unavailable("Prefect is down.", "Wait."))
    for seconds in (1, 2, 4, 8):
        assert await inbox.work_off({"plane": plane}) == seconds
        clock.go(seconds - 0.001)
        assert await inbox.work_off({"plane": plane}) == pytest.approx(0.001)
        clock.go(0.001)
    assert len(plane.seen) == 4
    assert await settled(inbox) == (Standing.WAITING, "Prefect is down. Wait.")
    await inbox.work_off({"plane": Notebook()})
    assert await settled(inbox) == (Standing.DONE, "took id-1")


async def test_a_day_of_pauses_is_the_end(inbox: Inbox, clock: ManualClock):
    waited = sum((pause(number) for number in range(1, inboxes.TRIES)), timedelta())
    assert timedelta(hours=23) < waited < timedelta(hours=26)


async def test_what_is_refused_fails_at_once_and_says_why(inbox: Inbox):
    await send(inbox, 1)
    plane = ends_with(Invalid("The title is missing.", "Send one."))
    assert await inbox.work_off({"plane": plane}) is None
    assert await settled(inbox) == (Standing.FAILED, "The title is missing. Send one.")
    assert len(plane.seen) == 1


async def test_what_nobody_foresaw_is_tried_a_few_times_and_tells_nothing_of_the_inside(
    inbox: Inbox, clock: ManualClock
):
    await send(inbox, 1)
    await send(inbox, 2)
    plane = ends_with(RuntimeError("canary"))
    while (seconds := await inbox.work_off({"plane": plane})) is not None:
        clock.go(seconds)
    assert plane.seen.count(1) == plane.seen.count(2) == inboxes.TRIES_OF_BROKEN
    state, outcome = await settled(inbox)
    assert state is Standing.FAILED and "RuntimeError" in outcome and "canary" not in outcome


async def test_what_needs_nothing_is_ignored_and_says_why(inbox: Inbox):
    await send(inbox, 1)
    await send(inbox, 2, source="openclaw")
    await inbox.work_off({"plane": ends_with(Ignored("We made this change ourselves."))})
    assert await settled(inbox, 1) == (Standing.IGNORED, "We made this change ourselves.")
    state, outcome = await settled(inbox, 2)
    assert state is Standing.IGNORED and "openclaw" in outcome


async def test_a_settled_delivery_is_replayed_once_for_each_time_somebody_asks(inbox: Inbox):
    await send(inbox, 1)
    plane = ends_with(Invalid("no"))
    await inbox.work_off({"plane": plane})
    assert (await inbox.replay(1)).state is Standing.WAITING
    await inbox.replay(1)
    better = Notebook()
    await inbox.work_off({"plane": better})
    await inbox.work_off({"plane": better})
    assert (better.seen, await settled(inbox)) == ([1], (Standing.DONE, "took id-1"))
    with pytest.raises(NotFound):
        await inbox.replay(99)


async def test_who_is_told_to_stop_leaves_the_delivery_to_the_next_at_once(inbox: Inbox):
    await send(inbox, 1)
    begun = asyncio.Event()

    async def waits(delivery: Delivery) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    working = asyncio.create_task(inbox.work_off({"plane": Notebook(waits)}))
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    plane = Notebook()
    await inbox.work_off({"plane": plane})
    entry = await inbox.show(1)
    assert (plane.seen, entry.attempts, entry.deaths) == ([1], 1, 0)


async def test_who_slept_through_its_lease_settles_nothing(inbox: Inbox, clock: ManualClock):
    await send(inbox, 1)
    turns = {"first": asyncio.Event(), "second": asyncio.Event()}
    begun: list[str] = []

    def slow(name: str) -> Notebook:
        async def then(delivery: Delivery) -> str:
            begun.append(name)
            await turns[name].wait()
            return name

        return Notebook(then)

    async def at_work(name: str) -> asyncio.Task[float | None]:
        working = asyncio.create_task(inbox.work_off({"plane": slow(name)}))
        while name not in begun:
            await asyncio.sleep(0.01)
        return working

    first = await at_work("first")
    clock.go(inboxes.LEASE.total_seconds() + 1)
    second = await at_work("second")
    turns["first"].set()
    await first
    assert (await settled(inbox))[0] is Standing.WAITING
    turns["second"].set()
    await second
    assert await settled(inbox) == (Standing.DONE, "second")


async def test_a_handler_that_never_ends_is_ended_and_tried_again(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(inboxes, "PATIENCE", 0.05)
    await send(inbox, 1)

    async def hangs(delivery: Delivery) -> str:
        await asyncio.Event().wait()
        return ""

    assert await inbox.work_off({"plane": Notebook(hangs)}) is not None
    state, outcome = await settled(inbox)
    assert state is Standing.WAITING and "longer" in outcome


async def test_a_lease_is_renewed_while_somebody_is_at_work(
    inbox: Inbox, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(inboxes, "LEASE", timedelta(seconds=0.3))
    await send(inbox, 1)
    begun, end = asyncio.Event(), asyncio.Event()

    async def long(delivery: Delivery) -> str:
        begun.set()
        await end.wait()
        return "done"

    plane = Notebook(long)
    working = asyncio.create_task(inbox.work_off({"plane": plane}))
    await begun.wait()
    for _ in range(4):
        clock.go(0.2)
        before = (await inbox.show(1)).leased_until
        while (await inbox.show(1)).leased_until == before:
            await asyncio.sleep(0.01)
        await inbox.work_off({"plane": plane})
    end.set()
    await working
    assert plane.seen == [1]


async def test_contents_are_forgotten_after_a_month_and_replays_known_for_a_year(
    inbox: Inbox, clock: ManualClock
):
    await send(inbox, 1)
    await inbox.work_off({"plane": Notebook()})
    await send(inbox, 2)
    clock.go(inboxes.KEPT.total_seconds() + 1)
    assert await inbox.forget_old() == 1
    assert await inbox.forget_old() == 0
    entry = await inbox.show(1)
    assert (entry.body, entry.headers, entry.outcome) == (None, {}, "took id-1")
    with pytest.raises(Conflict, match="forgotten"):
        await inbox.replay(1)
    assert not await send(inbox, 1)
    clock.go((inboxes.KNOWN - inboxes.KEPT).total_seconds())
    await inbox.forget_old()
    with pytest.raises(NotFound):
        await inbox.show(1)
    assert (await inbox.show(2)).body, "what waits is kept"
