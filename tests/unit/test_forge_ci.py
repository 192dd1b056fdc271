"""The repository's own test command is run once per commit, by one holder at a time, in a clean folder."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from quarterdeck.forge.ci import CIOrder
from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.protocol import CIState, CombinedStatus
from quarterdeck.kernel.bus import PostgresBus, Wake
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound, Stale
from quarterdeck.kernel.journal import Event
from tests.fakes import git_hand
from tests.fakes.clock import ManualClock
from tests.fakes.git_hand import git, write

BRANCH = "item/ET-007"
TESTED = {".quarterdeck.yaml": "test: grep -q Hello hello.txt\n"}


@pytest.fixture
def clock(database: Database) -> ManualClock:
    database.clock = ManualClock()
    return database.clock


@pytest.fixture
async def forge(database: Database, clock: ManualClock, tmp_path: Path) -> LocalForge:
    forge = LocalForge(database, tmp_path / "forge")
    await forge.ensure_repository("demo")
    return forge


async def push(forge: LocalForge, tmp_path: Path, files: dict[str, str], branch: str = BRANCH) -> str:
    work = tmp_path / "work"
    await forge.checkout("demo", branch, "main", work)
    for path, text in files.items():
        write(work, path, text, executable=path == ".ci/run")
    return await forge.publish("demo", branch, work)


async def taken(forge: LocalForge, holder: str = "desk") -> CIOrder:
    order = await forge.ci.take(holder)
    assert order is not None
    return order


async def run(forge: LocalForge, database: Database, tmp_path: Path, order: CIOrder) -> CIState:
    """Execute an order as the desk would."""
    job = await forge.ci.prepare(order)
    log = tmp_path / "ci.log"
    with log.open("wb") as file:
        started = await asyncio.create_subprocess_exec(
            *job.argv, cwd=job.folder, env=job.env, stdout=file, stderr=file
        )
        code = await started.wait()
    async with database.command("finish CI") as unit:
        state = await forge.ci.finish(unit, order, exit_code=code, log_path=str(log), item="ET-007")
    await forge.ci.clear(order)
    return state


async def events(database: Database) -> list[Event]:
    async with database.read() as session:
        return list((await session.exec(select(Event))).all())


async def test_a_commit_without_a_test_command_is_unknown_to_ci(forge: LocalForge, tmp_path: Path):
    head = await push(forge, tmp_path, {"hello.txt": "Hello\n"})
    assert await forge.combined_status("demo", head) == CombinedStatus(head, CIState.PENDING, 0)
    assert await forge.ci.take("desk") is None
    nowhere = "a" * 40
    assert await forge.combined_status("demo", nowhere) == CombinedStatus(nowhere, CIState.PENDING, 0)


@pytest.mark.parametrize(("text", "state"), [("Hello\n", CIState.SUCCESS), ("Bye\n", CIState.FAILURE)])
async def test_a_published_commit_is_tested_and_the_result_is_told(
    forge: LocalForge, database: Database, tmp_path: Path, text: str, state: CIState
):
    head = await push(forge, tmp_path, TESTED | {"hello.txt": text})
    waiting = await forge.combined_status("demo", head)
    assert (waiting.state, waiting.total) == (CIState.PENDING, 1)
    assert await run(forge, database, tmp_path, await taken(forge)) is state
    done = await forge.combined_status("demo", head)
    assert (done.state, done.total) == (state, 1)
    assert done.summary.startswith("tests: `grep -q Hello hello.txt` ")
    [event] = await events(database)
    assert (event.kind, event.item_key) == ("ci_finished", "ET-007")
    assert event.data == {"repository": "demo", "commit": head, "state": state.value}
    assert await forge.ci.take("desk") is None


async def test_who_waits_for_ci_is_woken(
    forge: LocalForge, database: Database, database_url: str, tmp_path: Path
):
    heard: list[Wake] = []
    listening = asyncio.Event()

    async def listen() -> None:
        async for wake in PostgresBus(database_url).listen("ci", "ci_waiting"):
            heard.append(wake)
            listening.set()

    ears = asyncio.create_task(listen())
    await listening.wait()
    head = await push(forge, tmp_path, TESTED)
    order = await taken(forge)
    await run(forge, database, tmp_path, order)
    async with asyncio.timeout(20):
        while Wake("ci", head) not in heard:
            listening.clear()
            await listening.wait()
    ears.cancel()
    assert [wake for wake in heard if wake.identity] == [Wake("ci_waiting", str(order.id)), Wake("ci", head)]


async def test_a_commit_is_queued_once(forge: LocalForge, tmp_path: Path):
    await push(forge, tmp_path, TESTED)
    await push(forge, tmp_path, TESTED)
    await taken(forge)
    assert await forge.ci.take("desk") is None


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({".ci/run": "#!/bin/sh\nexit 0\n"}, "./.ci/run"),
        ({"Makefile": "test:\n\ttrue\n"}, "make test"),
        ({".quarterdeck.yaml": "test: [true, echo two]\n".replace("true", '"true"')}, "true\necho two"),
    ],
)
async def test_the_command_is_found_in_the_commit_itself(
    forge: LocalForge, database: Database, tmp_path: Path, files: dict[str, str], command: str
):
    await push(forge, tmp_path, files)
    order = await taken(forge)
    assert order.command == command
    assert await run(forge, database, tmp_path, order) is CIState.SUCCESS


async def test_the_first_command_of_a_list_that_fails_ends_the_run(
    forge: LocalForge, database: Database, tmp_path: Path
):
    head = await push(forge, tmp_path, {".quarterdeck.yaml": "test: ['echo broken; exit 3', 'exit 0']\n"})
    assert await run(forge, database, tmp_path, await taken(forge)) is CIState.FAILURE
    summary = (await forge.combined_status("demo", head)).summary
    assert summary == "tests: `echo broken; exit 3 …` failed with exit code 3: broken"


@pytest.mark.parametrize("text", ["test: {}\n", "test: [\n", "x" * 1_000_001, "a\0b"])
async def test_settings_that_cannot_be_used_are_an_error_at_once(
    forge: LocalForge, database: Database, tmp_path: Path, text: str
):
    head = await push(forge, tmp_path, {".quarterdeck.yaml": text})
    status = await forge.combined_status("demo", head)
    assert (status.state, status.total) == (CIState.FAILURE, 1)
    assert ".quarterdeck.yaml" in status.summary
    assert await forge.ci.take("desk") is None
    assert [event.data["state"] for event in await events(database)] == ["error"]


async def test_tests_see_exactly_their_commit_and_nothing_of_earlier_runs(forge: LocalForge, tmp_path: Path):
    head = await push(forge, tmp_path, TESTED | {"hello.txt": "Hello\n"})
    order = await taken(forge)
    await push(forge, tmp_path, {"newer.txt": "newer\n"})
    first = await forge.ci.prepare(order)
    write(first.folder, "left-over.txt")
    job = await forge.ci.prepare(order)
    assert git(job.folder, "rev-parse", "HEAD") == head
    assert git_hand.names(job.folder) == [".git", ".quarterdeck.yaml", "hello.txt"]
    assert job.env["CI"] == "true"
    await forge.ci.clear(order)
    await forge.ci.clear(order)
    assert git_hand.names(tmp_path / "forge" / "ci") == []


async def test_tests_get_no_secrets_of_the_desk(forge: LocalForge, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_TOKEN", "qd_secret")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "secret")
    await push(forge, tmp_path, TESTED)
    job = await forge.ci.prepare(await taken(forge))
    assert "PATH" in job.env
    assert not {"QUARTERDECK_TOKEN", "PREFECT_API_AUTH_STRING"} & set(job.env)


async def test_many_takers_get_an_order_once(forge: LocalForge, tmp_path: Path):
    await push(forge, tmp_path, TESTED)
    orders = await asyncio.gather(*(forge.ci.take(f"desk-{n}") for n in range(6)))
    assert len([order for order in orders if order]) == 1


async def test_the_oldest_order_is_taken_first(forge: LocalForge, clock: ManualClock, tmp_path: Path):
    heads = []
    for branch in ("b", "a", "c"):
        heads.append(await push(forge, tmp_path, TESTED | {branch: ""}, branch=branch))
        clock.time += timedelta(seconds=1)
    assert [(await taken(forge)).commit for _ in heads] == heads


async def test_a_lease_that_is_over_goes_to_the_next_and_only_the_newest_holder_may_finish(
    forge: LocalForge, database: Database, clock: ManualClock, tmp_path: Path
):
    head = await push(forge, tmp_path, TESTED)
    dead = await taken(forge)
    clock.time = dead.leased_until - timedelta(seconds=1)
    assert await forge.ci.take("other") is None
    clock.time = dead.leased_until
    alive = await taken(forge)  # the same name: a restarted desk is another holder
    assert alive.id == dead.id
    with pytest.raises(Stale, match="no longer held by desk"):
        async with database.command("finish CI") as unit:
            await forge.ci.finish(unit, dead, exit_code=0)
    with pytest.raises(Stale):
        await forge.ci.renew(dead)
    async with database.command("finish CI") as unit:
        await forge.ci.finish(unit, alive, exit_code=1)
    assert (await forge.combined_status("demo", head)).state is CIState.FAILURE
    with pytest.raises(Stale):
        async with database.command("finish CI") as unit:
            await forge.ci.finish(unit, alive, exit_code=0)
    assert len(await events(database)) == 1


async def test_the_next_holder_removes_what_the_last_one_left(
    forge: LocalForge, clock: ManualClock, tmp_path: Path
):
    await push(forge, tmp_path, TESTED)
    dead = await taken(forge)
    left = (await forge.ci.prepare(dead)).folder
    clock.time = dead.leased_until
    job = await forge.ci.prepare(await taken(forge))
    assert git_hand.names(tmp_path / "forge" / "ci") == [job.folder.name] != [left.name]


async def test_the_run_of_a_holder_that_is_known_to_be_dead_goes_to_the_next_at_once(
    forge: LocalForge, tmp_path: Path
):
    await push(forge, tmp_path, TESTED)
    dead = await taken(forge, "dead")
    assert await forge.ci.free(lambda holder: holder == "alive") == 0
    assert await forge.ci.take("alive") is None
    assert await forge.ci.free(lambda holder: holder == "dead") == 1
    assert (await taken(forge, "alive")).id == dead.id
    assert await forge.ci.free(lambda holder: holder == "dead") == 0


async def test_a_holder_that_renews_keeps_its_order(forge: LocalForge, clock: ManualClock, tmp_path: Path):
    await push(forge, tmp_path, TESTED)
    order = await taken(forge)
    clock.time = order.leased_until - timedelta(seconds=1)
    renewed = await forge.ci.renew(order)
    clock.time = order.leased_until
    assert renewed.leased_until > order.leased_until
    assert await forge.ci.take("other") is None


@pytest.mark.parametrize(
    ("ending", "state", "words"),
    [
        ({"exit_code": -9, "timed_out": True}, CIState.FAILURE, "stopped at its time limit"),
        ({"error": "no such program: sh"}, CIState.FAILURE, "could not be run: no such program: sh"),
    ],
)
async def test_runs_that_end_badly_say_how(
    forge: LocalForge,
    database: Database,
    tmp_path: Path,
    ending: dict[str, object],
    state: CIState,
    words: str,
):
    head = await push(forge, tmp_path, TESTED)
    order = await taken(forge)
    async with database.command("finish CI") as unit:
        await forge.ci.finish(unit, order, log_path=str(tmp_path / "missing.log"), **ending)
    status = await forge.combined_status("demo", head)
    assert status.state is state
    assert words in status.summary


async def test_a_merge_is_tested_on_the_base_branch(forge: LocalForge, database: Database, tmp_path: Path):
    head = await push(forge, tmp_path, TESTED | {"hello.txt": "Hello\n"})
    await run(forge, database, tmp_path, await taken(forge))
    await forge.open_pull_request("demo", BRANCH, "main", "Greet", "", "developer")
    merged = await forge.merge("demo", 1, head, "Greet")
    order = await taken(forge)
    assert order.commit == merged == await forge.head("demo", "main")
    await run(forge, database, tmp_path, order)
    assert (await forge.combined_status("demo", merged)).state is CIState.SUCCESS


async def test_a_commit_pushed_by_hand_is_queued_by_the_first_to_ask(forge: LocalForge, tmp_path: Path):
    person = git_hand.clone(tmp_path / "forge" / "demo.git", tmp_path / "person")
    head = git_hand.commit(person, ".quarterdeck.yaml", TESTED[".quarterdeck.yaml"])
    git(person, "push", "--quiet", "origin", "main")
    assert await forge.ci.take("desk") is None
    assert (await forge.combined_status("demo", head)).total == 1
    assert (await taken(forge)).commit == head


async def test_a_copied_repository_is_tested_from_the_start(forge: LocalForge, tmp_path: Path):
    source = git_hand.repository(tmp_path / "theirs", "Makefile", "test:\n\ttrue\n")
    await forge.ensure_repository(str(source))
    order = await taken(forge)
    assert (order.repository, order.commit) == (str(source), git(source, "rev-parse", "HEAD"))


async def test_tests_that_are_run_again_can_end_otherwise(
    forge: LocalForge, database: Database, tmp_path: Path
):
    mended = tmp_path / "mended"
    head = await push(forge, tmp_path, {".quarterdeck.yaml": f"test: test -e {mended}\n"})
    await run(forge, database, tmp_path, await taken(forge))
    assert (await forge.combined_status("demo", head)).state is CIState.FAILURE
    mended.touch()
    assert await forge.test_again("demo", BRANCH, "anna", "ET-007") == head
    waiting = await forge.combined_status("demo", head)
    assert (waiting.state, waiting.total) == (CIState.PENDING, 1)
    order = await taken(forge)
    assert await forge.test_again("demo", head, "anna") == head, "under way: nothing changes"
    assert await forge.ci.take("desk") is None
    assert await run(forge, database, tmp_path, order) is CIState.SUCCESS
    assert (await forge.combined_status("demo", head)).state is CIState.SUCCESS
    told = [(event.kind, event.item_key, event.data.get("by")) for event in await events(database)]
    assert told == [
        ("ci_finished", "ET-007", None),
        ("ci_again", "ET-007", "anna"),
        ("ci_finished", "ET-007", None),
    ]


@pytest.mark.parametrize(
    ("files", "what", "error", "words"),
    [
        ({"hello.txt": "Hello\n"}, BRANCH, Conflict, "names no tests"),
        ({".quarterdeck.yaml": "test: 7\n"}, BRANCH, Conflict, ".quarterdeck.yaml"),
        (TESTED, "item/ET-008", NotFound, BRANCH),
        (TESTED, "a" * 40, NotFound, "has no commit"),
    ],
)
async def test_what_cannot_be_tested_is_not_tested_again(
    forge: LocalForge, tmp_path: Path, files: dict[str, str], what: str, error: type[Exception], words: str
):
    await push(forge, tmp_path, files)
    with pytest.raises(error, match=words):
        await forge.test_again("demo", what, "anna")


async def test_a_commit_that_nobody_tested_yet_is_tested_when_a_person_asks(
    forge: LocalForge, tmp_path: Path
):
    work = tmp_path / "work"
    await forge.checkout("demo", "main", "main", work)
    write(work, ".quarterdeck.yaml", "test: 'true'\n")
    git(work, "add", "--all")
    git(work, "commit", "-q", "-m", "By hand")
    git(work, "push", "-q", str(tmp_path / "forge" / "demo.git"), "HEAD:refs/heads/main")
    head = await forge.test_again("demo", "main", "anna")
    assert (await taken(forge)).commit == head
