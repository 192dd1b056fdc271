"""Hosts that are gone for good: a person says so, their runs end as lost, and all that waited goes on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from deployments.cli import run as run_command
from quarterdeck.board.model import State
from quarterdeck.crew.callbacks import Callback
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.runtime import Job, Outcome
from quarterdeck.crew.service import Crew
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound, Stale, Unavailable
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.assignments import Assignments, Wish
from quarterdeck.pipeline.hosts import Hosts
from quarterdeck.pipeline.rules import Repair, StartRun
from quarterdeck.pipeline.service import Engine
from quarterdeck.pipeline.work import StageWork
from tests.fakes.company import environment
from tests.fakes.doors import desk_doors
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, kinds, state, taken

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


class Elsewhere:
    """A desk of another host, on the same database."""

    def __init__(self, house: House, folder: Path) -> None:
        self.crew = Crew(house.database, {"command": CommandRuntime(grace=0.2)}, folder)
        self.engine = Engine(house.database, self.crew)
        self.assignments = Assignments(house.database, self.crew)
        self.hosts = Hosts(house.database, self.crew)
        self.name = self.crew.host

    async def at_work(self, key: str) -> tuple[StageWork, AgentRun]:
        """The item's stage, worked on there by an agent that has started."""
        work = await self.engine.claim(await self.engine.current(key))
        run = await work.open_run("0" * 40)
        await work.run_started(run.id or 0)
        return work, await self.crew.run(run.id or 0)

    async def begin(self, run: AgentRun, program: str, tree: Path) -> None:
        """Start this shell script for a run."""
        job = Job(
            run_id=run.id or 0,
            item_key=run.item_key,
            title="Greet",
            description="",
            stage=run.stage,
            round=run.round,
            agent=run.agent,
            folder=self.crew.folder_of(run),
            work_tree=tree,
            branch="",
            limit=timedelta(seconds=60),
            parameters={"program": "sh", "args": ["-c", program]},
        )
        assert await self.crew.start(run, job)


@pytest.fixture
def elsewhere(house: House, tmp_path: Path) -> Elsewhere:
    return Elsewhere(house, tmp_path / "elsewhere")


async def slots(house: House, agent: str = "analyst") -> int:
    async with house.database.read() as session:
        return (await house.crew.free_slots(session))[agent]


async def test_the_run_of_a_host_that_is_gone_ends_as_one_whose_keeper_was_killed_and_its_item_goes_on(
    house: House, elsewhere: Elsewhere
) -> None:
    key = await filed(house)
    _, run = await elsewhere.at_work(key)
    assert await slots(house) == 0
    gone = await house.hosts.declare_gone(OWNER, elsewhere.name)
    assert [card.id for card in gone.runs] == [run.id]
    ended = await house.crew.run(run.id or 0)
    why = f"its host {elsewhere.name} is gone"
    assert (ended.state, ended.exit_code, ended.cancelled, ended.error) == (RunState.ENDED, 137, False, why)
    assert await slots(house) == 1
    assert (await kinds(house, key))[-2:] == ["run_given_up", "agent_failed"]
    assert [candidate.key for candidate in await house.engine.candidates(5)] == [
        key
    ]  # no lease is waited for
    work = await taken(house, key)
    step = await work.next_step()
    assert step == Repair("analysis", "analyst", "agent:analysis", why)
    await work.record(step)
    item = await state(house, key)
    assert (item.state, item.round, item.spent) == (State.QUEUED, 2, {"agent:analysis": 1})


async def test_a_desk_leaves_alone_whom_only_another_host_can_see_ending(
    house: House, elsewhere: Elsewhere
) -> None:
    """It could do nothing but fail, again and again."""
    key = await filed(house)
    work, _ = await elsewhere.at_work(key)
    await work.release(0)
    assert await house.engine.candidates(5) == []
    assert [candidate.key for candidate in await elsewhere.engine.candidates(5)] == [key]


async def test_a_run_that_was_not_started_yet_when_its_host_went_is_tried_again_too(
    house: House, elsewhere: Elsewhere
) -> None:
    key = await filed(house)
    work = await elsewhere.engine.claim(await elsewhere.engine.current(key))
    run = await work.open_run("0" * 40)
    await house.hosts.declare_gone(OWNER, elsewhere.name)
    ended = await house.crew.run(run.id or 0)
    assert (ended.exit_code, ended.started_at) == (None, None)
    assert isinstance(await (await taken(house, key)).next_step(), Repair)


async def test_what_comes_later_from_a_host_that_was_declared_gone_changes_nothing(
    house: House, elsewhere: Elsewhere
) -> None:
    key = await filed(house)
    late, run = await elsewhere.at_work(key)
    await house.hosts.declare_gone(OWNER, elsewhere.name)
    before, told = await house.crew.run(run.id or 0), await kinds(house, key)
    well = Outcome(
        exit_code=0, started_at=run.started_at, ended_at=run.started_at, result={"summary": "Done."}
    )
    for say in (late.run_ended(run.id or 0, well), late.renew(), late.published("1" * 40)):
        with pytest.raises(Stale):
            await say
    told_late = Callback(session_key=f"task:{key}", text="Done.", run_id=run.id)
    assert (await elsewhere.crew.callbacks.take(told_late)).error == before.error
    async with house.database.command("end run") as unit:
        assert not await elsewhere.crew.close_run(unit, run.id or 0, well)
    after = await house.crew.run(run.id or 0)
    assert after == before
    assert await kinds(house, key) == told


async def test_an_agent_that_still_works_when_its_host_is_back_is_stopped_before_the_next_round_begins_there(
    house: House, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    key = await filed(house)
    _, run = await elsewhere.at_work(key)
    await elsewhere.begin(run, "exec sleep 60", tmp_path)
    await house.hosts.declare_gone(OWNER, elsewhere.name)
    work = await taken(house, key)
    await work.record(await work.next_step())
    assert await house.hosts.stop_given_up() == 0  # this is not its host
    assert [candidate.key for candidate in await house.engine.candidates(5)] == [key]
    assert await elsewhere.engine.candidates(5) == []
    there = await elsewhere.engine.claim(await elsewhere.engine.current(key))
    with pytest.raises(Conflict, match="still works on"):
        await there.must_have_the_tree()
    assert await elsewhere.hosts.stop_given_up() == 1
    assert (await elsewhere.crew.wait(run)).cancelled
    assert (await house.crew.run(run.id or 0)).exit_code == 137
    assert await elsewhere.hosts.stop_given_up() == 0
    await there.must_have_the_tree()
    assert await there.next_step() == StartRun()


async def test_an_agent_whose_folder_is_in_this_very_home_is_stopped_though_the_hosts_name_was_lost(
    house: House, tmp_path: Path
) -> None:
    before = Elsewhere(house, house.settings.runs_folder)
    _, run = await before.at_work(await filed(house))
    await before.begin(run, "exec sleep 60", tmp_path)
    (house.settings.runs_folder / "host").unlink()
    assert house.crew.host != before.name
    await house.hosts.declare_gone(OWNER, before.name)
    assert (await before.crew.wait(run)).cancelled
    assert (await house.crew.run(run.id or 0)).error == f"its host {before.name} is gone"


async def test_a_run_by_hand_and_one_of_a_cancelled_item_are_ended_too_and_give_back_their_slots(
    house: House, elsewhere: Elsewhere
) -> None:
    cancelled, other = await filed(house), await filed(house)
    _, stray = await elsewhere.at_work(cancelled)
    await house.engine.cancel(cancelled, OWNER)
    wish = Wish("developer", other, "Count the ducks.", timedelta(minutes=2))
    by_hand = await elsewhere.assignments.assign(OWNER, wish)
    await house.engine.stop_stray_runs()
    assert (await slots(house), await slots(house, "developer")) == (0, 0)
    await house.hosts.declare_gone(OWNER, elsewhere.name)
    assert (await slots(house), await slots(house, "developer")) == (1, 1)
    assert (await kinds(house, cancelled))[-2:] == ["run_given_up", "run_cancelled"]
    assert (await house.crew.run(stray.id or 0)).state is RunState.ENDED
    assert (await house.crew.run(by_hand.id or 0)).state is RunState.ENDED
    assert (await state(house, other)).state is State.QUEUED
    assert (await state(house, cancelled)).state is State.CANCELLED


async def test_runs_of_other_hosts_go_on(house: House, elsewhere: Elsewhere, tmp_path: Path) -> None:
    third = Elsewhere(house, tmp_path / "third")
    wish = Wish("developer", await filed(house), "Count the ducks.", timedelta(minutes=2))
    untouched = await third.assignments.assign(OWNER, wish)
    await elsewhere.at_work(await filed(house))
    await house.hosts.declare_gone(OWNER, elsewhere.name)
    assert [run.id for run in await house.crew.open_runs()] == [untouched.id]


async def test_this_desks_own_host_is_not_declared_gone(house: House) -> None:
    work = await taken(house, await filed(house))
    run = await work.open_run("0" * 40)
    with pytest.raises(Conflict) as refused:
        await house.hosts.declare_gone(OWNER, house.crew.host)
    assert (refused.value.code, house.crew.host in refused.value.detail) == ("own_host", True)
    assert "item cancel" in refused.value.instruction
    assert [one.id for one in await house.crew.open_runs()] == [run.id]


async def test_only_the_owner_declares_a_host_gone_and_only_one_that_has_open_runs(
    house: House, elsewhere: Elsewhere
) -> None:
    await elsewhere.at_work(await filed(house))
    with pytest.raises(Forbidden):
        await house.hosts.declare_gone(Caller("anna", "api", may_write=True), elsewhere.name)
    with pytest.raises(NotFound) as refused:
        await house.hosts.declare_gone(OWNER, "nowhere")
    assert (refused.value.code, elsewhere.name in refused.value.instruction) == ("unknown_host", True)
    await house.hosts.declare_gone(OWNER, elsewhere.name)
    with pytest.raises(NotFound, match="has no open run"):
        await house.hosts.declare_gone(OWNER, elsewhere.name)


async def test_hosts_are_listed_with_whose_runs_they_have_and_whether_anybody_looks_after_them(
    house: House, elsewhere: Elsewhere
) -> None:
    first, second, own = await filed(house), await filed(house), await filed(house)
    work, run = await elsewhere.at_work(first)
    wish = Wish("developer", second, "Count the ducks.", timedelta(minutes=2))
    await elsewhere.assignments.assign(OWNER, wish)
    (card,) = await house.hosts.all()
    assert (card.host, card.is_here, card.runs, card.silent) == (elsewhere.name, False, 2, 0)
    assert (card.agents, card.items, card.since) == (
        ["analyst", "developer"],
        [first, second],
        run.created_at,
    )
    await work.release(0)
    (card,) = await house.hosts.all()
    assert card.silent == 1
    assert not (house.settings.runs_folder / "host").exists()  # who only looks leaves no trace
    assert own not in card.items


async def test_this_host_is_named_so_in_the_list(house: House) -> None:
    await (await taken(house, await filed(house))).open_run("0" * 40)
    (card,) = await house.hosts.all()
    assert (card.host, card.is_here) == (house.crew.host, True)


async def test_whoever_comes_upon_a_run_of_another_host_is_told_how_to_declare_that_gone(
    house: House, elsewhere: Elsewhere
) -> None:
    key = await filed(house)
    _, run = await elsewhere.at_work(key)
    wish = Wish("developer", key, "Count the ducks.", timedelta(minutes=2))
    by_hand = await elsewhere.assignments.assign(OWNER, wish)
    for ask in (house.crew.wait(run), house.assignments.cancel(OWNER, by_hand.id or 0)):
        with pytest.raises(Unavailable) as refused:
            await ask
        assert f"`quarterdeck host gone {elsewhere.name}`" in refused.value.instruction


async def test_the_api_lists_hosts_and_the_owner_declares_one_gone(
    house: House, elsewhere: Elsewhere
) -> None:
    await house.crew.set_owner_token("owners-token")
    _, run = await elsewhere.at_work(await filed(house))
    transport = httpx.ASGITransport(desk_doors(house))
    async with httpx.AsyncClient(transport=transport, base_url="http://desk/api/v1") as client:
        anna, owner = ({"Authorization": f"Bearer {token}"} for token in ("anna-token", "owners-token"))
        (card,) = (await client.get("/hosts", headers=anna)).json()["items"]
        assert (card["host"], card["runs"]) == (elsewhere.name, 1)
        path = f"/hosts/{elsewhere.name}/gone"
        assert (await client.post(path, headers=anna)).status_code == 403
        done = (await client.post(path, headers=owner)).json()
        assert (done["host"], [one["id"] for one in done["runs"]]) == (elsewhere.name, [run.id])
        assert (await client.post(path, headers=owner)).status_code == 404
        own = await client.post(f"/hosts/{house.crew.host}/gone", headers=owner)
        assert (own.status_code, own.json()["code"]) == (409, "own_host")


@pytest.fixture
def host_command(
    house: House,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logs_left_as_they_were: None,
) -> Command:
    """`quarterdeck host ...` in this home: exit code, output, errors."""
    for name, value in environment(house.settings.home, database_url).items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return run_command(["host", *arguments]), *capsys.readouterr()

    return command


async def test_the_command_line_shows_what_would_end_and_asks_before_it_does_it(
    house: House, elsewhere: Elsewhere, host_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await filed(house)
    await elsewhere.at_work(key)
    code, out, _ = await asyncio.to_thread(host_command, "list")
    assert (code, elsewhere.name in out, "analyst" in out, key in out) == (0, True, True, True)

    monkeypatch.setattr("typer.confirm", _says_no)
    code, out, _ = await asyncio.to_thread(host_command, "gone", elsewhere.name)
    assert (code, key in out) == (1, True)
    assert len(await house.crew.open_runs()) == 1

    code, _, err = await asyncio.to_thread(host_command, "gone", elsewhere.name, "--json")
    assert (code, json.loads(err)["code"]) == (2, "usage")
    code, out, _ = await asyncio.to_thread(host_command, "gone", elsewhere.name, "--yes", "--json")
    assert (code, [run["item"] for run in json.loads(out)["runs"]]) == (0, [key])
    assert await house.crew.open_runs() == []
    code, out, _ = await asyncio.to_thread(host_command, "list", "--json")
    assert json.loads(out) == {"items": [], "next_cursor": None}


def _says_no(_: str, *, abort: bool) -> None:
    from typer import Abort

    assert abort
    raise Abort


async def test_the_command_line_refuses_this_host_in_words(house: House, host_command: Command) -> None:
    code, _, err = await asyncio.to_thread(host_command, "gone", house.crew.host, "--yes")
    assert (code, "is this host" in err) == (1, True)
