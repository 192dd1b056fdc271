"""What is shared by all who ask for work: one look, what was seen before, and the rate of calls."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest

from quarterdeck.heartbeat.sources.polling import MOST_WAIT, Glance, Look, Polling, Turns
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Answer, Found, Ref, Status, Trouble, Watched
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from tests.fakes.clock import ManualClock

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def work(title: str = "x") -> Found:
    return Found(Ref("workboard", "1"), title, Status.TODO, agent="developer", updated_at=NOW)


async def test_fifteen_agents_of_three_processes_look_once(database: Database) -> None:
    asked = 0

    async def ask() -> Look:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return Look((work(),))

    processes = [Polling(database, "workboard") for _ in range(3)]
    seen = await asyncio.gather(*(p.look(ask) for p in processes for _ in range(5)))
    assert asked == 1
    assert {s.look.found for s in seen} == {(work(),)} and not any(s.is_cached for s in seen)


async def test_what_was_seen_before_stands_in_for_a_failure_as_cached_and_not_for_ever(
    database: Database,
) -> None:
    database.clock = clock = ManualClock()
    broken = False

    async def ask() -> Look:
        if broken:
            raise unavailable(Trouble.TIMED_OUT, "It hangs.")
        return Look((work(),))

    polling = Polling(database, "workboard")
    first = await polling.look(ask)
    broken = True
    clock.go(61)
    second = await polling.look(ask)
    assert second.is_cached and second.look.found == first.look.found and second.at == first.at
    assert second.look.trouble is Trouble.TIMED_OUT
    clock.go(900)
    third = await polling.look(ask)
    assert not third.is_cached and third.look.found == () and third.look.trouble is Trouble.TIMED_OUT


async def test_somebody_who_died_while_looking_holds_nobody_up_for_long(database: Database) -> None:
    database.clock = clock = ManualClock()

    async def die() -> Look:
        raise asyncio.CancelledError

    async def ask() -> Look:
        return Look((work(),))

    with pytest.raises(asyncio.CancelledError):
        await Polling(database, "workboard").look(die)
    clock.go(1)
    assert (await Polling(database, "workboard").look(ask)).look.found == (work(),)


class Looking:
    """A look that takes its time, by a clock of its own."""

    def __init__(self, seconds: float = 0) -> None:
        self.clock = ManualClock()
        self.seconds = seconds
        self.looks = 0
        self.glance = Glance(SimpleNamespace(clock=self.clock), timedelta(seconds=5))  # type: ignore[arg-type]

    async def __call__(self, agents: object) -> Answer:
        self.looks += 1
        began = self.clock.now()
        await asyncio.sleep(0)
        self.clock.go(self.seconds)
        return Answer("board", began)

    async def ask(self) -> Answer:
        return await self.glance.answer((Watched("developer"),), self)


async def test_whoever_asks_during_a_look_takes_what_it_saw() -> None:
    looking = Looking()
    answers = await asyncio.gather(*(looking.ask() for _ in range(20)))
    assert (looking.looks, len({id(answer) for answer in answers})) == (1, 1)
    looking.clock.go(5)
    await looking.ask()
    assert looking.looks == 2


async def test_a_look_that_takes_long_is_believed_for_longer_but_for_no_more_than_a_minute() -> None:
    looking = Looking(seconds=3)
    await looking.ask()
    looking.clock.go(26)
    await looking.ask()
    assert looking.looks == 1
    looking.clock.go(1)
    looking.seconds = 30
    await looking.ask()
    looking.clock.go(30)
    await looking.ask()
    assert looking.looks == 3


async def test_what_was_changed_during_a_look_is_looked_at_again() -> None:
    looking = Looking()
    first = asyncio.create_task(looking.ask())
    await asyncio.sleep(0)
    looking.glance.forget()
    await first
    await looking.ask()
    assert looking.looks == 2


async def test_calls_through_one_door_keep_apart_over_all_processes(database: Database) -> None:
    database.clock = clock = ManualClock()
    left: list[float] = []
    began = clock.now()

    async def sleep(seconds: float) -> None:
        left.append((clock.now() - began).total_seconds() + seconds)

    doors = [Turns(database, "openclaw", timedelta(seconds=2), sleep=sleep) for _ in range(3)]
    await asyncio.gather(*(turns.take() for turns in doors for _ in range(2)))
    assert left == [0, 2, 4, 6, 8, 10], "nobody waits longer than the rate asks for"
    for gap in (9, 0, 1, 5, 0, 0.5, 30):
        clock.go(gap)
        await doors[int(gap) % 3].take()
    assert all(later - earlier >= 2 for earlier, later in pairwise(left))
    assert left[-1] == (clock.now() - began).total_seconds(), "after a quiet time at once"
    await Turns(database, "multica", timedelta(seconds=2), sleep=sleep).take()
    assert left[-1] == left[-2], "another door has a rate of its own"


async def test_a_call_that_would_have_to_wait_for_too_long_is_refused(database: Database) -> None:
    database.clock = ManualClock()
    turns = Turns(database, "openclaw", timedelta(seconds=MOST_WAIT / 2), sleep=lambda _: asyncio.sleep(0))
    for _ in range(3):
        await turns.take()
    with pytest.raises(Unavailable, match="Too many calls wait"):
        await turns.take()
