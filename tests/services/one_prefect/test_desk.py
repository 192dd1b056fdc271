"""The desk with a real Prefect: runs by hand, Cancel in the UI, stages sent elsewhere."""

from typing import Any

import httpx
import pytest

from deployments.api import run_by_name
from quarterdeck.board.cards import Card, Draft, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.crew.roster import read_roster
from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from tests.services.one_prefect.conftest import RunningPrefect, desk
from tests.services.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

OWNER = owner("test")
LONG = """
name: long
stages:
  - {name: sleeping, agent: sleeper, limit: 5m}
"""


@pytest.fixture
async def sleeper(house: House) -> None:
    """An agent that works for minutes, and a pipeline of one stage for it."""
    roster = house.settings.crew_file
    if "sleeper" not in roster.read_text():
        entry = "  - {slug: sleeper, parameters: {program: sleep, args: ['600']}, max_concurrent: 4}\n"
        roster.write_text(roster.read_text().replace("agents:\n", "agents:\n" + entry, 1))
        (house.settings.pipelines_folder / "long.yaml").write_text(LONG)
    await house.crew.import_roster(read_roster(roster), {})
    await house.engine.pipelines.import_from(
        house.settings.pipelines_folder, sorted(await house.crew.names())
    )


async def filed(house: House, project: str, pipeline: str = "long") -> str:
    await house.board.create_project(OWNER, ProjectDraft(key=project, name=project, pipeline=pipeline))
    return (await house.board.file(OWNER, Draft(project=project, title="Sleep"))).key


async def at_work(house: House, key: str) -> Any:
    """The item's open run, once its program runs."""

    async def running() -> Any:
        runs = [run for run in await house.crew.open_runs() if run.item_key == key]
        return runs[0] if runs and runs[0].state.value == "running" else None

    return await until(running)


async def resting(house: House, key: str, state: State) -> Card:
    async def there() -> Card | None:
        card = await house.board.item(key)
        return card if card.state is state else None

    found: Card = await until(there)
    return found


async def runs_of(api: httpx.AsyncClient, key: str) -> list[dict[str, Any]]:
    """The item's stage runs in Prefect, oldest first."""
    wanted = {"flow_runs": {"tags": {"all_": [key]}}, "sort": "START_TIME_ASC"}
    found: list[dict[str, Any]] = (await api.post("/flow_runs/filter", json=wanted)).json()
    return found


async def test_cancel_in_the_ui_stops_the_agent_and_asks_a_person(
    prefect: RunningPrefect, house: House, sleeper: None, api: httpx.AsyncClient
) -> None:
    async with desk(prefect):
        key = await filed(house, "CANCEL")
        run = await at_work(house, key)
        (flow_run,) = await runs_of(api, key)
        assert flow_run["name"] == f"{key} · sleeping · 1"
        asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        await api.post(f"/flow_runs/{flow_run['id']}/set_state", json=asked)
        card = await resting(house, key, State.BLOCKED)
        assert card.move is not None
        assert "cancelled" in card.move["why"]
        assert (await house.crew.run(run.id)).cancelled

        async def ended() -> bool:
            return (await runs_of(api, key))[0]["state_type"] == "CANCELLED"

        await until(ended)


async def test_a_stage_run_by_hand_works_and_a_second_one_finds_it_claimed(
    prefect: RunningPrefect, house: House, sleeper: None, runner: None, api: httpx.AsyncClient
) -> None:
    key = await filed(house, "HAND")
    first = await run_by_name(prefect.settings, "stage", {"item": key})
    await at_work(house, key)
    second = await run_by_name(prefect.settings, "stage", {"item": key})

    async def ended() -> Any:
        state = (await api.get(f"/flow_runs/{second.flow_run_id}")).json()["state"]
        return state if state["type"] == "COMPLETED" else None

    state = await until(ended)
    assert "already claimed" in state["message"]
    assert len(await house.crew.runs_of(key)) == 1

    asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    await api.post(f"/flow_runs/{first.flow_run_id}/set_state", json=asked)

    async def stopped() -> bool:
        return not [
            run for run in await house.crew.open_runs() if run.item_key == key and run.ended_at is None
        ]

    async with desk(prefect):  # the run's own process is gone: whoever comes next closes it
        await until(stopped)
        await resting(house, key, State.BLOCKED)


async def test_stages_can_be_sent_to_the_deployment_instead(
    prefect: RunningPrefect, house: House, sleeper: None, runner: None, api: httpx.AsyncClient
) -> None:
    async with desk(prefect, QUARTERDECK_STAGES="deployment"):
        key = await filed(house, "AWAY")
        run = await at_work(house, key)
        (flow_run,) = await runs_of(api, key)
        assert flow_run["deployment_id"] is not None
        await house.engine.cancel(key, OWNER)

        async def stopped() -> bool:
            return (await house.crew.run(run.id)).ended_at is not None

        await until(stopped)
