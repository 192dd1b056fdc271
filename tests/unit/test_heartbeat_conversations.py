"""A heartbeat never interrupts: while a person talks to an agent its sweeps are put off, and made up for."""

from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.heartbeat.model import Result
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.surfaces import conversations
from quarterdeck.surfaces.conversations import LONGEST, PAUSE, Conversations
from quarterdeck.surfaces.store import MemoryStore, PostgresStore
from tests.fakes.chatting import chatting
from tests.fakes.clock import ManualClock
from tests.fakes.company import settings_of
from tests.fakes.platform import FakePlatform
from tests.fakes.watch import Watch

SECOND = timedelta(seconds=1).total_seconds()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_an_agent_is_in_a_conversation_until_a_while_after_its_answer(clock: ManualClock) -> None:
    talks = Conversations(MemoryStore(), clock)
    assert not await talks.is_in_conversation("helm")
    async with talks.held("helm", "41"):
        clock.go(LONGEST.total_seconds() - SECOND)
        assert await talks.is_in_conversation("helm")
        assert not await talks.is_in_conversation("hel") and not await talks.is_in_conversation("galley")
    clock.go(PAUSE.total_seconds() - SECOND)
    assert await talks.is_in_conversation("helm")
    clock.go(SECOND)
    assert not await talks.is_in_conversation("helm")


async def test_an_answer_that_broke_off_ends_its_turn_and_no_other(clock: ManualClock) -> None:
    talks = Conversations(MemoryStore(), clock)
    async with talks.held("helm", "41"):
        with pytest.raises(RuntimeError):
            async with talks.held("helm", "42"):
                raise RuntimeError("the agent broke off")
        clock.go(PAUSE.total_seconds() + SECOND)
        assert await talks.is_in_conversation("helm")
    clock.go(PAUSE.total_seconds())
    assert not await talks.is_in_conversation("helm")


async def test_a_process_that_died_in_a_turn_puts_no_sweep_off_for_ever(clock: ManualClock) -> None:
    talks = Conversations(MemoryStore(), clock)
    await talks.held("helm", "41").__aenter__()
    clock.go(LONGEST.total_seconds())
    assert not await talks.is_in_conversation("helm")


async def test_conversations_that_are_over_are_forgotten_and_no_other(
    database: Database, clock: ManualClock
) -> None:
    database.clock = clock
    store = PostgresStore(database)
    talks = Conversations(store, clock)
    for conversation in ("41", "42"):
        async with talks.held("helm", conversation):
            pass
    await store.set("talkative:helm", {})
    clock.go(LONGEST.total_seconds() + SECOND)
    async with talks.held("helm", "42"):
        assert (await talks.forget_old(), await talks.forget_old()) == (1, 0)
        assert await talks.is_in_conversation("helm")
    assert await store.keys("talk") == ["talk:helm:42", "talkative:helm"]


async def test_a_word_in_a_messenger_puts_the_sweep_of_that_agent_off_and_its_work_is_made_up_for(
    database: Database, tmp_path: Path
) -> None:
    watch = Watch(database, tmp_path)
    await watch.enrol()
    watch.cards.put("c1")
    async with chatting(database, tmp_path) as desk:
        desk.agents.clients["developer"] = FakePlatform()
        watch.sweeper.conversations = Conversations(desk.store, watch.clock)
        await desk.writes("hello", bot="developer")
        assert desk.asked("developer") == ["hello"]
    assert ((await watch.sweep()).result, watch.cards.asked) == (Result.DEFERRED, 0)
    assert [card.is_deferred for card in await watch.sweeper.overview()] == [False, True]
    assert (await watch.sweep("coo")).result is not Result.DEFERRED
    watch.clock.go(PAUSE.total_seconds())
    assert (await watch.sweep()).started == 1
    assert [card.is_deferred for card in await watch.sweeper.overview()] == [False, False]


async def test_what_nobody_has_to_act_upon_is_told_at_the_next_heartbeat_that_is_not_put_off(
    database: Database, tmp_path: Path
) -> None:
    watch = Watch(database, tmp_path)
    await watch.enrol()
    watch.multica.put("ENG-1")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="it broke")
    watch.talking.agents.add("developer")
    await watch.sweep()
    assert await watch.told("work_unfinished") == []
    watch.talking.agents.clear()
    for _ in range(2):
        await watch.sweep()
    assert await watch.told("work_unfinished") == [("work_unfinished", "coo")]


async def test_in_the_house_sweeps_know_the_conversations_of_the_surfaces(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "PAUSE", timedelta(0))
    house = House(settings_of(tmp_path, database_url), database)
    talks = Conversations(house.surface_store, database.clock)
    async with talks.held("developer", "1"):
        assert await house.sweeper.conversations.is_in_conversation("developer")
    assert not await house.sweeper.conversations.is_in_conversation("developer")
    await house.close()
