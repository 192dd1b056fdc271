"""Bots that are flooded wait for one another and never keep a quiet one waiting: who comes when, no times."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.telegram import store
from quarterdeck.telegram.batches import Batches, FairQueue
from quarterdeck.telegram.model import StoredUpdate
from quarterdeck.telegram.turns import FULL, Readers, Turns

FLOODED = [f"flooded-{number:02}" for number in range(31)]


class Table:
    """Where batches go; each is written when the test says so."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = asyncio.Semaphore(0)

    async def commit(self, items: list[str]) -> list[str]:
        self.batches.append(list(items))
        await self.go.acquire()
        return items


async def test_a_quiet_bots_update_goes_into_the_next_transaction_whoever_waits() -> None:
    table = Table()
    batches: Batches[str, str] = Batches(table.commit, most=100)

    async def flood(party: str) -> None:
        while True:
            await batches.add(party, party, 100)

    flooding = [asyncio.create_task(flood(party)) for party in FLOODED]
    for _ in range(5):
        table.go.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    before = len(table.batches)
    quiet = asyncio.create_task(batches.add("quiet", "quiet", 1))
    await asyncio.sleep(0)
    table.go.release()
    for _ in range(5):
        await asyncio.sleep(0)
    assert "quiet" in table.batches[before]
    for task in [*flooding, quiet]:
        task.cancel()
    table.go.release()
    await asyncio.gather(*flooding, quiet, return_exceptions=True)
    for _ in range(100):
        table.go.release()
    await batches.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), max_size=60))
def test_everything_is_handed_out_once_and_each_party_in_its_order(puts: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for place, (party, weight) in enumerate(puts):
        queue.put(party, (party, place), weight)
    taken = []
    while queue:
        taken += queue.take(100)
    for party in "abc":
        of_party = [place for one, place in taken if one == party]
        assert of_party == [place for place, (one, _) in enumerate(puts) if one == party]
    assert len(taken) == len(puts)


def test_parties_that_always_wait_get_equal_shares() -> None:
    queue: FairQueue[str] = FairQueue()
    shares: Counter[str] = Counter()
    sizes = {"small": 1, "middle": 10, "large": 100}
    for party, weight in sizes.items():
        queue.put(party, party, weight)
    for _ in range(3000):
        (party,) = queue.take(0)
        shares[party] += sizes[party]
        queue.put(party, party, sizes[party])
    assert max(shares.values()) - min(shares.values()) <= 200


class Day:
    """Time that passes when somebody rests; what a poll brought is told when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []
        self.told = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)

    async def caught_up(self, agent_id: str) -> None:
        await self.told.wait()


async def test_bots_that_are_behind_take_turns_and_a_quiet_one_needs_none() -> None:
    day, stored = Day(), []
    turns = Turns(day.caught_up, day.sleep, day.monotonic)

    async def store_poll(agent: str, updates: int) -> None:
        async with turns.of(agent, updates):
            stored.append(agent)
            day.now += 3

    first = asyncio.create_task(store_poll("first", 100))
    await asyncio.sleep(0)
    second = asyncio.create_task(store_poll("second", FULL))
    await asyncio.sleep(0)
    await store_poll("quiet", FULL - 1)
    assert stored == ["first", "quiet"]
    day.told.set()
    await asyncio.gather(first, second)
    assert stored == ["first", "quiet", "second"]
    assert day.rests == [6, 3]  # as long as the turn took, the quiet one's work in between


async def test_one_bot_never_takes_all_connections_to_the_database() -> None:
    readers, reading = Readers(most=4, of_one=2), []
    go = asyncio.Event()

    async def read(agent: str) -> None:
        async with readers.place(agent):
            reading.append(agent)
            await go.wait()

    tasks = [asyncio.create_task(read(agent)) for agent in ["flooded"] * 50 + ["quiet"]]
    for _ in range(3):
        await asyncio.sleep(0)
    assert sorted(reading) == ["flooded", "flooded", "quiet"]
    go.set()
    await asyncio.gather(*tasks)


async def test_what_is_published_next_is_taken_from_every_bot(database) -> None:
    async with database.command("a night of floods") as unit:
        for number in range(300):
            unit.session.add(_update(unit.now, "flooded", number))
        unit.session.add(_update(unit.now, "quiet", 300))
        unit.session.add(_update(unit.now, "gone", 301))
    async with database.read() as session:
        rows = await store.unpublished(session, None, of_one=8, most=9)
    assert Counter(row.agent_id for row in rows) == {"flooded": 7, "quiet": 1, "gone": 1}
    assert [row.update_id for row in rows] == [*range(7), 300, 301]


def _update(now, agent: str, number: int) -> StoredUpdate:
    return StoredUpdate(
        event_id=f"{agent}:{number}",
        agent_id=agent,
        bot_id=agent,
        update_id=number,
        kind="message",
        chat_id=1,
        user_id=1,
        ts=now,
        received_at=now,
    )
