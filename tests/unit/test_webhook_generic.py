"""Generic webhooks: any entry of the catalogue can be started, once for each order, Prefect there or not."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.starting import asked_for, by_webhook
from quarterdeck.house import House, opened
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Invalid
from quarterdeck.kernel.inbox import Standing
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.doors import Ring
from tests.fakes import senders
from tests.fakes.clock import ManualClock
from tests.fakes.prefect_api import FakePrefect

ORDER = {"type": "stage", "data": {"item": "ET-007", "round": 1}}


@pytest.fixture
async def prefect() -> AsyncIterator[FakePrefect]:
    async with FakePrefect() as fake:
        yield fake


@pytest.fixture
async def house(tmp_path: Path, database: Database, prefect: FakePrefect) -> AsyncIterator[House]:
    """A house whose desk would start what generic webhooks ask for."""
    database.clock = ManualClock()
    settings = Settings(home=tmp_path, prefect_port=prefect.port, blocks=False)
    async with opened(House(settings, database)) as house:
        house.deliveries.add("generic", by_webhook(settings))
        async with database.command("connect") as unit:
            kind, value = senders.CONNECTIONS["generic"]
            await house.connections.put(unit, kind, "default", value, Source.API)
        yield house


def clock(house: House) -> ManualClock:
    assert isinstance(house.database.clock, ManualClock)
    return house.database.clock


async def order(house: House, number: str, payload: dict[str, Any]) -> bool:
    now = house.database.clock.now()
    sent = senders.generic(number, now, payload)
    headers = {name.lower(): value for name, value in sent.headers.items()}
    return await house.deliveries.receive("generic", Ring(headers, sent.body, now))


async def ended(house: House, number: int = 1) -> tuple[Standing, str]:
    entry = await house.inbox.show(number)
    return entry.state, entry.outcome


async def test_an_order_starts_the_entry_that_it_names_once(house: House, prefect: FakePrefect):
    assert await order(house, "n-1", ORDER)
    assert not await order(house, "n-1", ORDER)
    await house.deliveries.work_off()
    state, outcome = await ended(house)
    assert state is Standing.DONE and "Started stage" in outcome
    assert list(prefect.runs.values()) == [ORDER["data"]]


async def test_two_orders_of_the_same_start_it_twice_and_a_replay_once_more(
    house: House, prefect: FakePrefect
):
    await order(house, "n-1", ORDER)
    await order(house, "n-2", ORDER)
    await house.deliveries.work_off()
    assert len(prefect.runs) == 2
    await house.inbox.replay(1)
    await house.deliveries.work_off()
    assert len(prefect.runs) == 3


async def test_a_run_whose_start_nobody_confirmed_is_not_started_again(house: House, prefect: FakePrefect):
    await order(house, "n-1", ORDER)
    prefect.loses_answers = 1
    seconds = await house.deliveries.work_off()
    assert seconds is not None
    clock(house).go(seconds)
    await house.deliveries.work_off()
    assert ((await ended(house))[0], len(prefect.runs)) == (Standing.DONE, 1)


async def test_an_outage_of_prefect_is_waited_for(house: House, prefect: FakePrefect):
    await order(house, "n-1", ORDER)
    prefect.is_away = True
    for _ in range(12):
        seconds = await house.deliveries.work_off()
        assert seconds is not None
        clock(house).go(seconds)
    state, outcome = await ended(house)
    assert state is Standing.WAITING and "503" in outcome
    prefect.is_away = False
    assert await house.deliveries.work_off() is None
    assert (await ended(house))[0] is Standing.DONE
    assert list(prefect.runs.values()) == [ORDER["data"]]
    assert clock(house).now() - (await house.inbox.show(1)).received_at > timedelta(minutes=20)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"type": "nonsense"}, "keep-house"),
        ({"type": "stage"}, "item is missing"),
        ({"type": "stage", "data": {"item": 7}}, "item must be of type string"),
        ({"type": "stage", "data": {"item": "ET-007", "canary": 1}}, "canary is not known"),
        ({"type": "stage", "data": "ET-007"}, "must be an object"),
        ({"type": 7}, "what to start"),
        ({}, "what to start"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_fails_at_once_and_says_why(
    house: House, prefect: FakePrefect, payload: dict[str, Any], said: str
):
    await order(house, "n-1", payload)
    assert await house.deliveries.work_off() is None
    state, outcome = await ended(house)
    assert state is Standing.FAILED and said in outcome
    assert prefect.runs == {}


def test_an_order_may_say_event_and_payload():
    assert asked_for({"event": "stage", "payload": {"item": "x"}}) == ("stage", {"item": "x"})
    assert asked_for({"type": "stage", "event": "x", "timestamp": "t"}) == ("stage", {})
    with pytest.raises(Invalid):
        asked_for({"type": ""})
