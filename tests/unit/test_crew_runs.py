"""Agent runs: slots that are never exceeded, rows that are opened and closed once, and real executions."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import quarterdeck.crew.api
from quarterdeck.board.model import Project, WorkItem
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.roster import Roster
from quarterdeck.crew.runtime import Job, Outcome
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound, Unavailable
from quarterdeck.kernel.web import furnish
from tests.fakes.forking import Forks

Client = httpx.AsyncClient


@pytest.fixture
async def item(database: Database) -> WorkItem:
    """A work item to run agents on."""
    async with database.command("file item") as unit:
        project = Project(key="ET", name="Enduro", created_at=unit.now)
        unit.session.add(project)
        await unit.session.flush()
        filed = WorkItem(
            project_id=project.id,
            number=7,
            key="ET-007",
            title="Count",
            created_at=unit.now,
            updated_at=unit.now,
            pipeline="default",
            stage="development",
        )
        unit.session.add(filed)
    return filed


@pytest.fixture
async def crew(database: Database, tmp_path: Path) -> Crew:
    """A developer with two slots and a disabled reviewer."""
    made = Crew(database, {"command": CommandRuntime(grace=0.2)}, tmp_path / "runs")
    agents: list[dict[str, Any]] = [
        {"slug": "developer", "max_concurrent": 2, "parameters": {"program": "sh"}},
        {"slug": "reviewer", "enabled": False, "parameters": {"program": "sh"}},
    ]
    await made.import_roster(Roster.model_validate({"agents": agents}), {})
    return made


async def opened(crew: Crew, item: WorkItem, key: str = "ET-007 · development · 1", **facts: Any) -> AgentRun:
    wanted = {"stage": "development", "round": 1, "agent": "developer", "limit_seconds": 20.0}
    async with crew.database.command("open run") as unit:
        return await crew.open_run(
            unit, item_id=item.id, item_key=item.key, idempotency_key=key, **(wanted | facts)
        )


async def closed(crew: Crew, run: AgentRun, outcome: Outcome) -> bool:
    assert run.id
    async with crew.database.command("close run") as unit:
        return await crew.close_run(unit, run.id, outcome)


async def free(crew: Crew) -> dict[str, int]:
    async with crew.database.read() as session:
        return await crew.free_slots(session)


def job(crew: Crew, run: AgentRun, script: str, tmp_path: Path) -> Job:
    assert run.id
    return Job(
        run_id=run.id,
        item_key=run.item_key,
        title="Count",
        description="",
        stage=run.stage,
        round=run.round,
        agent=run.agent,
        folder=crew.folder_of(run),
        work_tree=tmp_path,
        branch="item/ET-007",
        limit=timedelta(seconds=run.limit_seconds),
        parameters={"program": "sh", "args": ["-c", script]},
    )


async def test_opening_a_run_takes_a_slot_and_closing_it_gives_the_slot_back(
    crew: Crew, item: WorkItem
) -> None:
    assert await free(crew) == {"developer": 2, "reviewer": 0}
    run = await opened(crew, item)
    assert (run.state, run.runtime, run.host) == (RunState.STARTING, "command", crew.host)
    assert (await free(crew))["developer"] == 1
    assert [found.id for found in await crew.open_runs(crew.host)] == [run.id]
    assert await closed(crew, run, Outcome(exit_code=0))
    assert (await free(crew))["developer"] == 2
    assert await crew.open_runs() == []


async def test_slots_are_never_exceeded_however_many_ask_at_once(crew: Crew, item: WorkItem) -> None:
    answers = await asyncio.gather(
        *(opened(crew, item, f"key {n}") for n in range(8)), return_exceptions=True
    )
    runs = [answer for answer in answers if isinstance(answer, AgentRun)]
    refusals = [answer for answer in answers if isinstance(answer, Conflict)]
    assert (len(runs), len(refusals)) == (2, 6)
    assert {refusal.code for refusal in refusals} == {"busy"}


async def test_the_same_key_gives_the_same_run_even_at_once_and_after_its_end(
    crew: Crew, item: WorkItem
) -> None:
    runs = await asyncio.gather(*(opened(crew, item) for _ in range(5)))
    assert len({run.id for run in runs}) == 1
    await closed(crew, runs[0], Outcome(exit_code=0))
    again = await opened(crew, item)
    assert (again.id, again.state) == (runs[0].id, RunState.ENDED)


async def test_a_disabled_agent_gets_no_run(crew: Crew, item: WorkItem) -> None:
    with pytest.raises(Conflict, match="disabled"):
        await opened(crew, item, agent="reviewer")


async def test_an_unknown_agent_is_answered_with_those_there_are(crew: Crew, item: WorkItem) -> None:
    with pytest.raises(NotFound, match="There is: developer, reviewer"):
        await opened(crew, item, agent="ghost")


async def test_start_and_end_are_recorded_once(crew: Crew, item: WorkItem) -> None:
    run = await opened(crew, item)
    assert run.id
    async with crew.database.command("mark started") as unit:
        assert await crew.mark_started(unit, run.id)
        assert not await crew.mark_started(unit, run.id)
    assert await closed(crew, run, Outcome(exit_code=3, error="first"))
    assert not await closed(crew, run, Outcome(exit_code=0))
    found = await crew.run(run.id)
    assert (found.state, found.exit_code, found.error) == (RunState.ENDED, 3, "first")
    async with crew.database.command("mark started") as unit:
        assert not await crew.mark_started(unit, run.id)


async def test_two_runs_never_share_a_folder(crew: Crew, item: WorkItem) -> None:
    one, two = await opened(crew, item, "one"), await opened(crew, item, "two")
    assert crew.folder_of(one) != crew.folder_of(two)


async def test_a_run_is_executed_and_its_outcome_kept(crew: Crew, item: WorkItem, tmp_path: Path) -> None:
    run = await opened(crew, item)
    script = (
        """echo hello; printf '{"summary": "done", "tokens": 7, "cost_usd": 0.5}' > $QUARTERDECK_RESULT"""
    )
    assert await crew.start(run, job(crew, run, script, tmp_path))
    outcome = await crew.wait(run)
    assert outcome.succeeded
    assert await closed(crew, run, outcome)
    assert run.id
    assert await crew.result_of(run.id) == {"summary": "done"}
    found = await crew.run(run.id)
    assert (found.exit_code, found.tokens, found.cost_micro_usd) == (0, 7, 500_000)
    assert "".join([text async for text in await crew.log(run.id)]) == "hello\n"


async def test_a_program_that_cannot_be_launched_is_told_apart(
    crew: Crew, item: WorkItem, tmp_path: Path
) -> None:
    run = await opened(crew, item)
    asked = job(crew, run, "", tmp_path / "nowhere")
    assert not await crew.start(run, asked)
    outcome = await crew.wait(run)
    await closed(crew, run, outcome)
    assert run.id
    found = await crew.run(run.id)
    assert (found.exit_code, found.started_at) == (None, None)
    assert "is not there" in found.error


async def test_a_run_can_be_stopped_before_and_after_it_started(
    crew: Crew, item: WorkItem, tmp_path: Path
) -> None:
    one, two = await opened(crew, item, "one"), await opened(crew, item, "two")
    await crew.start(one, job(crew, one, "exec sleep 60", tmp_path))
    for run in (one, two):
        outcome = await crew.stop(run, "not wanted")
        assert outcome and outcome.cancelled
    assert not await crew.start(two, job(crew, two, "touch ran", tmp_path))
    assert not (tmp_path / "ran").exists()


async def test_a_run_of_another_host_is_left_to_it(crew: Crew, item: WorkItem, tmp_path: Path) -> None:
    run = await opened(crew, item)
    elsewhere = Crew(crew.database, {"command": CommandRuntime()}, tmp_path / "other")
    assert elsewhere.host != crew.host
    with pytest.raises(Unavailable, match="belongs to the host"):
        await elsewhere.start(run, job(crew, run, "true", tmp_path))
    with pytest.raises(Unavailable):
        await elsewhere.wait(run)
    assert await elsewhere.stop(run, "x") is None
    assert await elsewhere.open_runs(elsewhere.host) == []


async def test_processes_with_the_same_runs_folder_are_one_host(
    crew: Crew, item: WorkItem, tmp_path: Path
) -> None:
    other = Crew(crew.database, {"command": CommandRuntime()}, tmp_path / "runs")
    run = await opened(crew, item)
    assert await crew.start(run, job(crew, run, "exit 4", tmp_path))
    assert (await other.wait(run)).exit_code == 4


@pytest.mark.parametrize("point", ["before agent start", "after agent start"])
async def test_a_desk_killed_around_the_start_costs_no_run_and_starts_none_twice(
    forks: Forks, crew: Crew, item: WorkItem, tmp_path: Path, point: str
) -> None:
    run = await opened(crew, item)
    asked = job(crew, run, "echo x >> starts; exit 5", tmp_path)
    desk = f"""
import asyncio
from datetime import timedelta
from pathlib import Path, PosixPath
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.runtime import Job
from quarterdeck.crew.service import Crew
job = {asked!r}
object.__setattr__(job, "parameters", {dict(asked.parameters)!r})
crew = Crew(None, {{"command": CommandRuntime()}}, Path({str(tmp_path / "runs")!r}))
asyncio.run(crew.start(AgentRun(runtime="command", host=crew.host, folder={run.folder!r}), job))
""".replace("datetime.timedelta", "timedelta")
    ended = await forks.run(desk, QUARTERDECK_CRASH_AT=point)
    assert ended.code == -9
    assert await crew.start(run, asked)
    assert (await crew.wait(run)).exit_code == 5
    assert (tmp_path / "starts").read_text() == "x\n"


@pytest.fixture
async def client(crew: Crew) -> AsyncIterator[Client]:
    """The owner at the crew's doors."""
    await crew.set_owner_token("owners-token")
    app = FastAPI(redirect_slashes=False)
    app.state.crew = crew
    app.include_router(quarterdeck.crew.api.router, prefix="/api/v1")
    furnish(app)
    headers = {"Authorization": "Bearer owners-token"}
    transport = httpx.ASGITransport(app)
    async with Client(transport=transport, base_url="http://desk/api/v1", headers=headers) as found:
        yield found


async def test_the_api_lists_agents_and_how_busy_they_are(crew: Crew, item: WorkItem, client: Client) -> None:
    await opened(crew, item)
    found = (await client.get("/agents")).json()
    assert found["next_cursor"] is None
    assert [(a["slug"], a["status"], a["current_tasks"]) for a in found["items"]] == [
        ("developer", "working", 1),
        ("reviewer", "offline", 0),
    ]
    assert "parameters" not in found["items"][0]
    assert (await client.get("/agents/developer")).json() == found["items"][0]
    missing = await client.get("/agents/ghost")
    assert (missing.status_code, missing.json()["instruction"]) == (404, "There is: developer, reviewer.")


async def test_the_api_shows_a_run(crew: Crew, item: WorkItem, client: Client) -> None:
    run = await opened(crew, item)
    at = datetime(2026, 5, 4, tzinfo=UTC)
    ended = at + timedelta(seconds=90)
    await closed(
        crew, run, Outcome(exit_code=0, started_at=at, ended_at=ended, tokens=5, cost_micro_usd=1_500_000)
    )
    shown = (await client.get(f"/runs/{run.id}")).json()
    assert (shown["item"], shown["state"], shown["exit_code"], shown["seconds"]) == ("ET-007", "ended", 0, 90)
    assert (shown["tokens"], shown["cost_usd"]) == (5, "1.5")
    missing = await client.get("/runs/999999")
    assert (missing.status_code, missing.json()["instruction"]) == (404, f"There is: {run.id}.")
    assert (await client.get("/runs/0")).status_code == 422


async def test_the_api_follows_a_log_to_its_end(
    crew: Crew, item: WorkItem, client: Client, tmp_path: Path
) -> None:
    run = await opened(crew, item)
    script = "printf 'caf\\303'; while [ ! -e go ]; do sleep 0.01; done; printf '\\251 \\377'"
    await crew.start(run, job(crew, run, script, tmp_path))
    following = asyncio.create_task(client.get(f"/runs/{run.id}/log", params={"follow": "true"}))
    said = ""
    while said != "caf\ufffd":  # one look at a time, of a run that goes on
        said = (await client.get(f"/runs/{run.id}/log")).text
    (tmp_path / "go").touch()
    answer = await following
    assert answer.text == "café \ufffd"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    await closed(crew, run, await crew.wait(run))
    assert (await client.get(f"/runs/{run.id}/log", params={"follow": "true"})).text == answer.text


async def test_the_log_of_another_hosts_run_is_not_here(crew: Crew, item: WorkItem, tmp_path: Path) -> None:
    run = await opened(crew, item)
    elsewhere = Crew(crew.database, {"command": CommandRuntime()}, tmp_path / "other")
    assert run.id
    with pytest.raises(NotFound, match="is on the host"):
        await elsewhere.log(run.id)
