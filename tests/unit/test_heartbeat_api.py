"""The HTTP door of heartbeats: how each stands, and what people may do about work that is held back."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from quarterdeck.heartbeat.work import Status, Trouble
from quarterdeck.kernel.database import Database
from tests.fakes.doors import heartbeats_behind_doors
from tests.fakes.watch import Watch

Client = httpx.AsyncClient
IN_PROGRESS = {"status": Status.IN_PROGRESS}


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


@pytest.fixture
async def door(watch: Watch) -> AsyncIterator[Client]:
    transport = httpx.ASGITransport(heartbeats_behind_doors(watch.sweeper))
    headers = {"Authorization": "Bearer owners-token"}
    async with Client(transport=transport, base_url="http://desk/api/v1", headers=headers) as client:
        yield client


async def shown(door: Client, agent: str = "developer") -> dict[str, Any]:
    """The card of one agent."""
    answer = await door.get("/heartbeats")
    assert (answer.status_code, answer.json()["next_cursor"]) == (200, None)
    [card] = [card for card in answer.json()["items"] if card["agent"] == agent]
    found: dict[str, Any] = card
    return found


async def test_before_its_first_sweep_an_agent_is_shown_with_its_next_one(watch: Watch, door: Client) -> None:
    card = await shown(door)
    assert (card["last"], card["last_finished"], card["is_stale"], card["breakers"]) == (
        None,
        None,
        False,
        [],
    )
    assert (card["category"], card["scheduler"], card["skipped"]) == ("development", "prefect", 0)
    ahead = datetime.fromisoformat(card["next_at"]) - watch.clock.now()
    assert timedelta(0) < ahead <= timedelta(minutes=16)


async def test_a_card_tells_the_last_sweep_each_source_and_what_stands_still(
    watch: Watch, door: Client
) -> None:
    watch.cards.put("c1", **IN_PROGRESS)
    watch.minutes(16)
    watch.multica.put("ENG-1", **IN_PROGRESS)
    watch.minutes(31)
    watch.board.down = Trouble.TIMED_OUT
    await watch.sweep()
    card = await shown(door)
    last = card["last"]
    assert datetime.fromisoformat(card["last_finished"]) == watch.clock.now()
    assert (last["result"], last["suspected"], last["confirmed"]) == (
        "degraded",
        ["multica:ENG-1"],
        ["workboard:c1"],
    )
    assert {name: (s["state"], s["found"], s["own"]) for name, s in last["sources"].items()} == {
        "board": ("timed out", 0, 0),
        "workboard": ("ok", 1, 1),
        "multica": ("ok", 1, 1),
    }
    assert last["sources"]["board"]["detail"] == "board is down"


async def test_a_heartbeat_that_stopped_is_shown_as_stale(watch: Watch, door: Client) -> None:
    await watch.sweep()
    watch.minutes(31)
    assert (await shown(door))["is_stale"] is False
    watch.clock.go(1)
    assert (await shown(door))["is_stale"] is True


async def test_held_back_work_is_shown_with_its_reason_until_somebody_unblocks_it(
    watch: Watch, door: Client
) -> None:
    watch.multica.put("ENG-1")
    for _ in range(3):
        await watch.sweep()
        await watch.end_runs(exit_code=1, error="it broke")
        watch.minutes(15)
    [breaker] = (await shown(door))["breakers"]
    assert (breaker["work"], breaker["item"]) == ("multica:ENG-1", "HB-001")
    assert breaker["reason"].startswith("3 runs in a row ended the same way")
    wish = {"json": {"work": "multica:ENG-1"}, "headers": {"Idempotency-Key": "once"}}
    freed = await door.post("/heartbeats/developer/unblock", **wish)
    assert (freed.status_code, freed.json()["reason"]) == (200, "")
    assert (await shown(door))["breakers"] == []
    assert (await watch.sweep()).started == 1
    again = await door.post("/heartbeats/developer/unblock", **wish)
    assert (again.status_code, again.json()) == (200, freed.json()), "a repeated request answers the same"
    assert (await door.post("/heartbeats/developer/unblock", json=wish["json"])).status_code == 409


async def test_a_limit_is_raised_and_only_above_what_is_used(watch: Watch, door: Client) -> None:
    watch.multica.put("ENG-1", rounds=100, **IN_PROGRESS)
    await watch.sweep()
    assert [b["reason"] for b in (await shown(door))["breakers"]] == ["100 of 100 rounds are used"]
    wanted = {"work": "multica:ENG-1", "rounds": 100}
    refused = await door.post("/heartbeats/developer/limit", json=wanted)
    assert (refused.status_code, refused.json()["detail"]) == (422, "100 rounds are used already.")
    raised = await door.post("/heartbeats/developer/limit", json=wanted | {"rounds": 120})
    assert (raised.status_code, raised.json()["reason"]) == (200, "")


async def test_money_begins_with_a_yes(watch: Watch, door: Client) -> None:
    watch.multica.put("ENG-1", requires_approval=True)
    assert (await watch.sweep()).started == 0
    assert (await door.post("/heartbeats/developer/allow", json={"work": "multica:ENG-1"})).status_code == 200
    assert (await watch.sweep()).started == 1


@pytest.mark.parametrize("verb", ["unblock", "limit", "allow"])
async def test_unknown_work_is_named_with_what_there_is_and_viewers_may_nothing(
    watch: Watch, door: Client, verb: str
) -> None:
    watch.multica.put("ENG-1", requires_approval=True)
    await watch.sweep()
    wanted = {"work": "multica:ENG-9", "rounds": 9}
    unknown = await door.post(f"/heartbeats/developer/{verb}", json=wanted)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_work")
    assert "multica:ENG-1" in unknown.json()["instruction"]
    viewer = {"Authorization": "Bearer viktors-token"}
    for headers, status in ((viewer, 403), ({"Authorization": ""}, 401)):
        refused = await door.post(f"/heartbeats/developer/{verb}", json=wanted, headers=headers)
        assert refused.status_code == status
    assert (await door.get("/heartbeats", headers=viewer)).status_code == 200
