"""Heartbeats that stopped are told of: one alone by itself, all of them together, and once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.crew.waking import Wake
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from tests.fakes.watch import Watch

ALONE, TOGETHER = ("heartbeat_stale", "coo, owner"), ("heartbeats_stopped", "coo, owner")


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def told(watch: Watch) -> list[tuple[str, str]]:
    return await watch.told("heartbeat_stale", "heartbeats_stopped")


async def only_the_developer_beats(watch: Watch, times: int = 3) -> list[str]:
    stale: list[str] = []
    for _ in range(times):
        watch.minutes(15)
        await watch.sweep()
        stale = await watch.sweeper.watch()
    return stale


async def test_a_heartbeat_that_stopped_is_told_once_until_it_beats_again(watch: Watch) -> None:
    assert await only_the_developer_beats(watch) == ["coo"]
    assert await told(watch) == [ALONE]
    await watch.sweep("coo")
    assert await watch.sweeper.watch() == []
    assert await only_the_developer_beats(watch) == ["coo"]
    assert await told(watch) == [ALONE] * 2


async def test_that_nobody_is_woken_any_more_is_told_once_until_somebody_is(watch: Watch) -> None:
    watch.minutes(31)
    assert await watch.sweeper.watch() == ["coo"]
    watch.minutes(30)
    for _ in range(2):
        assert await watch.sweeper.watch() == ["coo", "developer"]
    assert await told(watch) == [TOGETHER]
    [fact] = await watch.facts("heartbeats_stopped")
    assert (fact["scheduler"], fact["number"], fact["agents"]) == ("Prefect", 2, "coo, developer")
    assert [card.is_stale for card in await watch.sweeper.overview()] == [True, True]


async def test_once_they_come_again_each_has_its_time_and_whoever_still_stands_still_is_told(
    watch: Watch,
) -> None:
    watch.minutes(61)
    await watch.sweeper.watch()
    await watch.sweep()
    watch.minutes(1)
    assert await watch.sweeper.watch() == []
    assert await told(watch) == [TOGETHER]
    assert await only_the_developer_beats(watch) == ["coo"]
    assert await told(watch) == [TOGETHER, ALONE]
    watch.minutes(61)
    assert await watch.sweeper.watch() == ["coo", "developer"]
    assert await told(watch) == [TOGETHER, ALONE, TOGETHER]


async def test_an_agent_of_another_scheduler_that_beats_on_is_no_sign_of_life(watch: Watch) -> None:
    await watch.enrol(scheduler="openclaw")
    assert await only_the_developer_beats(watch) == ["coo"]
    assert await told(watch) == [ALONE], "it is the only one that Prefect wakes"


class Calls:
    """A runtime whose agents can be called. `down`: its gateway does not answer."""

    def __init__(self) -> None:
        self.down, self.said = False, list[str]()

    async def wake(self, _: Mapping[str, Any], wanted: Wake) -> str:
        if self.down:
            raise Unavailable("The gateway does not answer.")
        self.said.append(wanted.text)
        return "queued"


async def test_an_agent_whose_turns_come_no_more_is_called_once_per_outage_when_its_gateway_is_back(
    watch: Watch,
) -> None:
    calls = Calls()
    watch.runtimes["command"] = calls
    await watch.enrol(scheduler="openclaw")
    calls.down = True
    watch.minutes(32)
    await watch.sweeper.watch()
    calls.down = False
    for _ in range(3):
        assert await watch.sweeper.watch() == ["coo", "developer"]
    [said] = calls.said
    assert "`quarterdeck heartbeat developer`" in said
    assert len(await watch.told("heartbeat_stale")) == 2
    await watch.sweep()
    watch.minutes(32)
    await watch.sweeper.watch()
    assert len(calls.said) == 2


async def test_an_agent_that_cannot_be_called_is_told_to_people_alone(watch: Watch) -> None:
    await watch.enrol(scheduler="openclaw")
    watch.minutes(32)
    for _ in range(2):
        assert await watch.sweeper.watch() == ["coo", "developer"]
    assert len(await watch.told("heartbeat_stale")) == 2
