"""What sources tell when the outside is broken, slow, huge or full of rubbish."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quarterdeck.heartbeat.sources import multica as multica_source
from quarterdeck.heartbeat.sources import multica_cli, programs, reading, workboard
from quarterdeck.heartbeat.sources.multica import Multica
from quarterdeck.heartbeat.sources.multica import look_of as multica_look
from quarterdeck.heartbeat.sources.openclaw_cli import TEMPLATES, filled
from quarterdeck.heartbeat.sources.polling import is_strange
from quarterdeck.heartbeat.sources.reading import Times, tame
from quarterdeck.heartbeat.work import Ref, Status, Trouble
from quarterdeck.house import House
from quarterdeck.kernel.errors import Invalid, Unavailable
from tests.fakes.clock import ManualClock
from tests.fakes.company import company
from tests.fakes.multica import FakeMultica
from tests.fakes.programs import written
from tests.fakes.work_places import FakeOpenClaw, connect, watched
from tests.processes import is_alive
from tests.waiting import until

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
async def house(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("QUARTERDECK_SOURCE_SPACING", "0")
    async with company(tmp_path / "home", database_url) as house:
        yield house


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [("exit", Trouble.FAILED), ("rubbish", Trouble.UNREADABLE), ("half", Trouble.UNREADABLE),
     ("empty", Trouble.UNREADABLE), ("huge", Trouble.TOO_LARGE), ("hang", Trouble.TIMED_OUT)],
)  # fmt: skip
async def test_every_fault_of_openclaw_is_a_trouble_of_its_own(
    house: House, tmp_path: Path, fault: str, trouble: Trouble
) -> None:
    openclaw = FakeOpenClaw(tmp_path / "openclaw")
    await connect(house, "openclaw_cli", openclaw.connection | {"seconds": 1 if fault == "hang" else 30})
    openclaw.card("There is work")
    openclaw.set(fault=fault)
    answer = await house.sources.workboard.look(watched(tmp_path))
    assert answer.trouble is trouble and answer.found == () and answer.detail
    assert "abcdef1234567890" not in answer.detail, "a secret on the error output stays ours"
    assert (await house.sources.workboard.look(())).trouble is trouble, "the failure is shared, too"
    assert len(openclaw.calls) == 1


@pytest.mark.parametrize("via", ["cli", "rest"])
@pytest.mark.parametrize(
    ("fault", "trouble"),
    [("exit", Trouble.FAILED), ("rubbish", Trouble.UNREADABLE), ("half", Trouble.UNREADABLE)],
)
async def test_every_fault_of_multica_is_a_trouble(
    house: House, tmp_path: Path, via: str, fault: str, trouble: Trouble
) -> None:
    with FakeMultica(tmp_path / "multica") as multica:
        await connect(house, "multica", multica.connection(via))
        multica.set(fault=fault)
        answer = await house.sources.multica.look(watched(tmp_path))
        assert answer.trouble is trouble and answer.found == ()


@pytest.mark.parametrize("via", ["cli", "rest"])
async def test_a_bad_token_is_refused_and_a_missing_workspace_is_told(
    house: House, tmp_path: Path, via: str
) -> None:
    with FakeMultica(tmp_path / "multica") as multica:
        told = multica.connection(via)
        await connect(house, "multica", told | {"token": "mul_wrong"})
        assert (await house.sources.multica.look(())).trouble is Trouble.REFUSED
        await connect(house, "multica", told | {"workspace_id": ""})
        await house.sources.polls["multica"].invalidate()
        answer = await house.sources.multica.look(())
        assert answer.trouble is Trouble.NOT_CONFIGURED and "MULTICA_WORKSPACE_ID" in answer.detail


async def test_every_call_of_multicas_program_names_the_workspace_and_starts_nobody(
    house: House, tmp_path: Path
) -> None:
    agents = watched(tmp_path)
    for via in ("cli", "rest"):
        with FakeMultica(tmp_path / via) as multica:
            await connect(house, "multica", multica.connection(via))
            await house.sources.polls["multica"].invalidate()
            issue = multica.file("Renew it", assignee_id=agents[0].multica_id)
            [found] = (await house.sources.multica.look(agents)).found
            await house.sources.multica.start(found.ref, "developer")
            await house.sources.multica.comment(found.ref, r"Ask @bob: see [x](/etc/x) and C:\new")
            await house.sources.multica.finish(found.ref, "Done.", is_reviewed=False)
            state = multica.state
            assert state["runs"] == [], "no agent was started there"
            assert r"C:\new" in multica.comments(issue["id"])[0], "told by its input, word for word"
            assert "@bob" not in multica.comments(issue["id"])[0]
            assert multica.issue(issue["id"])["status"] == "in_review"
            for call in state["calls"]:
                assert state["workspace"] in call, call


class FailingDoor:
    """A way to an issue of Multica on which comments stand, and whose status changes at the third try."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tries = 0

    async def comments(self, _: str) -> list[dict[str, str]]:
        return [{"id": str(number), "content": said} for number, said in enumerate(self.said)]

    async def comment(self, _: str, text: str) -> None:
        self.said.append(text)

    async def set_status(self, *_: str) -> None:
        self.tries += 1
        if self.tries < 3:
            raise Unavailable("Multica is down.")


async def test_a_remark_in_multica_is_made_once_however_often_the_change_after_it_fails() -> None:
    async def connected(_: str) -> dict[str, str]:
        return {"via": "rest", "workspace_id": "w"}

    async def invalidate() -> None:
        return

    door: Any = FailingDoor()
    connections: Any = SimpleNamespace(get=connected)
    polling: Any = SimpleNamespace(invalidate=invalidate)
    multica, ref = Multica({"rest": door}, connections, polling, ManualClock()), Ref("multica", "1")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await multica.release(ref, "It failed.")
    await multica.release(ref, "It failed.")
    await multica.finish(ref, "It is done.", is_reviewed=False)
    await multica.release(ref, "It failed.")
    assert [said.splitlines()[0] for said in door.said] == ["It failed.", "It is done.", "It failed."]


async def test_pages_are_read_to_the_end_and_own_statuses_count_by_their_category(
    house: House, tmp_path: Path
) -> None:
    agents = watched(tmp_path)
    for via in ("cli", "rest"):
        with FakeMultica(tmp_path / via) as multica:
            await connect(house, "multica", multica.connection(via))
            await house.sources.polls["multica"].invalidate()
            for number in range(130):
                multica.file(f"Issue {number}", assignee_id=agents[0].multica_id)
            assert len((await house.sources.multica.look(agents)).found) == 130
    custom = {"id": "1", "status": "qa", "status_category": "in_review", "assignee_id": None}
    [found] = multica_look([custom], Times(NOW)).found
    assert (found.status, found.agent) == (Status.IN_REVIEW, None)


@pytest.mark.parametrize("via", ["cli", "rest"])
async def test_work_in_statuses_of_the_workspaces_own_is_found_by_either_way(
    house: House, tmp_path: Path, via: str
) -> None:
    agents = watched(tmp_path)
    with FakeMultica(tmp_path / via) as multica:
        await connect(house, "multica", multica.connection(via))
        multica.set(custom={"ready": "todo", "qa": "in_review", "shipped": "done"})
        for status in ("ready", "qa", "shipped", "todo", "done"):
            multica.file(status, status=status, assignee_id=agents[0].multica_id)
        found = (await house.sources.multica.look(agents)).found
    told = {f.title: f.status for f in found}
    assert told == {"ready": Status.TODO, "qa": Status.IN_REVIEW, "todo": Status.TODO}


async def test_where_there_is_much_in_multica_its_own_statuses_are_learned_look_by_look(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multica_cli, "LEARNED", 2)
    monkeypatch.setattr(multica_cli, "PAGE", 2)
    agents = watched(tmp_path)
    with FakeMultica(tmp_path / "multica") as multica:
        await connect(house, "multica", multica.connection("cli"))
        multica.set(custom={"ready": "todo"})
        for status in ("done", "done", "done", "ready", "done", "todo", "ready"):
            multica.file(status, status=status, assignee_id=agents[0].multica_id)
        seen = []
        for _ in range(6):
            await house.sources.polls["multica"].invalidate()
            seen.append(sorted(f.title for f in (await house.sources.multica.look(agents)).found))
    assert seen == [["todo"], *[["ready", "ready", "todo"]] * 5]


async def test_a_parent_that_cannot_be_looked_up_is_unknown(house: House, tmp_path: Path) -> None:
    agents = watched(tmp_path)
    with FakeMultica(tmp_path / "multica") as multica:
        await connect(house, "multica", multica.connection("rest"))
        done = multica.file("Before", status="done")
        multica.file("A", assignee_id=agents[0].multica_id, parent_issue_id=done["id"])
        gone = "99999999-9999-4999-8999-999999999999"
        multica.file("B", assignee_id=agents[0].multica_id, parent_issue_id=gone)
        found = {f.title: f for f in (await house.sources.multica.look(agents)).found}
        assert [need.status for need in found["A"].needs] == [Status.DONE]
        assert [need.status for need in found["B"].needs] == [None]


async def test_however_many_closed_parents_there_are_each_is_looked_up_and_once(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multica_source, "MOST_PARENTS", 2)
    agents = watched(tmp_path)
    with FakeMultica(tmp_path / "multica") as multica:
        await connect(house, "multica", multica.connection("rest"))
        gone = [f"99999999-9999-4999-8999-99999999999{number}" for number in range(2)]
        done = [multica.file(f"Before {number}", status="done")["id"] for number in range(4)]
        for parent in (*gone, *done):
            multica.file("After", assignee_id=agents[0].multica_id, parent_issue_id=parent)
        met = []
        for _ in range(4):
            await house.sources.polls["multica"].invalidate()
            found = (await house.sources.multica.look(agents)).found
            met.append(sum(need.status is Status.DONE for f in found for need in f.needs))
        read = [path for _, path, _ in multica.state["calls"]]
    assert met == [0, 2, 4, 4]
    assert [read.count(f"/api/issues/{parent}") for parent in done] == [1, 1, 1, 1]


class SlowDoor:
    """A way to six issues of Multica, each with a parent that is done, and told after twenty seconds."""

    def __init__(self, clock: ManualClock) -> None:
        self.asked: list[str] = []
        self._clock = clock

    async def open_issues(self) -> list[dict[str, str]]:
        return [{"id": f"i{n}", "status": "todo", "parent_issue_id": f"p{n}"} for n in range(6)]

    async def issue(self, identity: str) -> dict[str, str]:
        self.asked.append(identity)
        self._clock.go(20)
        return {"id": identity, "status": "done"}


async def test_parents_that_take_long_are_looked_up_some_at_each_look_and_hold_up_none() -> None:
    async def connected(_: str) -> dict[str, str]:
        return {"via": "rest", "workspace_id": "w"}

    async def answer(_: str, __: object, ask: Any, ___: object) -> Any:
        return await ask()

    async def before() -> tuple[()]:
        return ()

    clock = ManualClock()
    door: Any = SlowDoor(clock)
    connections: Any = SimpleNamespace(get=connected)
    polling: Any = SimpleNamespace(answer=answer, before=before)
    multica = Multica({"rest": door}, connections, polling, clock)
    for looks in (1, 2):
        found = (await multica.look(())).found
        assert (len(found), len(door.asked)) == (6, 3 * looks)
    assert sorted(door.asked) == [f"p{n}" for n in range(6)]


async def test_a_plug_in_that_is_off_and_a_missing_program_say_what_to_do(
    house: House, tmp_path: Path
) -> None:
    openclaw = FakeOpenClaw(tmp_path / "openclaw")
    openclaw.set(workboard=False)
    await connect(house, "openclaw_cli", openclaw.connection)
    answer = await house.sources.workboard.look(())
    assert answer.trouble is Trouble.NOT_CONFIGURED and "openclaw plugins enable workboard" in answer.detail
    await connect(house, "openclaw_cli", {"program": str(tmp_path / "nowhere")})
    await house.sources.polls["workboard"].invalidate()
    assert (await house.sources.workboard.look(())).trouble is Trouble.MISSING
    nowhere = {"via": "cli", "program": str(tmp_path / "nowhere"), "workspace_id": "w"}
    await connect(house, "multica", nowhere)
    assert (await house.sources.multica.look(watched(tmp_path))).trouble is Trouble.MISSING


async def test_a_program_that_takes_too_long_ends_with_all_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = written(tmp_path, "slow", f"sleep 60 & echo $! > {pid}; wait")
    with pytest.raises(Unavailable, match=r"within 0\.5 s"):
        await programs.run([str(slow)], environment=programs.environment({}), seconds=0.5)
    child = int(pid.read_text())
    await until(lambda: not is_alive(child))  # killed, but the system may take a moment


@pytest.mark.skipif(sys.platform != "linux", reason="other pipes cannot be made wider")
async def test_a_program_that_says_more_than_anybody_reads_is_left_at_once(tmp_path: Path) -> None:
    wide = "import fcntl, sys; fcntl.fcntl(1, 1031, 1 << 20); sys.stdout.write('x' * 2_000_000)"
    loud = written(tmp_path, "loud", f'exec {sys.executable} -S -E -c "{wide}"')
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="more than 10 bytes"):
            await programs.run([str(loud)], environment=programs.environment({}), most_bytes=10)


async def test_a_program_gets_none_of_our_secrets(tmp_path: Path) -> None:
    shown = written(tmp_path, "shown", "env")
    desk = {**os.environ, "QUARTERDECK_TOKEN": "secret-1", "PLANE_API_KEY": "secret-2"}
    told = programs.environment({"MULTICA_TOKEN": "mine"}, desk)
    ran = await programs.run([str(shown)], environment=told)
    assert b"MULTICA_TOKEN=mine" in ran.output and b"secret" not in ran.output


def test_values_are_filled_in_once_and_are_never_options() -> None:
    made = filled(TEMPLATES["create"], {"title": "--json {agent}", "agent": "bob", "text": "{title}"})
    assert made[-2:] == ("--", "--json {agent}") and "{title}" in made
    with pytest.raises(Invalid):
        filled(TEMPLATES["move"], {"id": "--help", "status": "done"})


def test_times_have_an_offset_or_are_utc_and_never_lie_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        times = Times(NOW)
        a_minute_ago = NOW - timedelta(minutes=1)
        told = ["2026-01-05T11:59:00Z", "2026-01-05T11:59:00", "2026-01-05T19:59:00+08:00",
                a_minute_ago.timestamp() * 1000, a_minute_ago.timestamp()]  # fmt: skip
        assert {times.read(one) for one in told} == {a_minute_ago}
        assert times.read("2031-01-01T00:00:00Z") == NOW and times.ahead == 1 and "future" in times.note
        assert [times.read(x) for x in (None, "", "soon", True, [], 1e300, float("nan"))] == [None] * 7
    finally:
        monkeypatch.undo()
        time.tzset()


def test_titles_are_tamed() -> None:
    assert tame("a\x00b\x1b[31m\u202ec\n\td") == "a b [31m c d"
    assert len(tame("x" * 10_000)) == reading.LONGEST_TITLE
    assert tame(None) == tame(7) == ""


@pytest.mark.parametrize("rubbish", [None, 7, "x", [], {}, {"id": None}, {"id": {}}, {"id": True}])
def test_nulls_and_rubbish_in_place_of_cards_and_issues_are_told_and_hurt_nobody(rubbish: object) -> None:
    good = {"id": "1", "title": None, "status": None, "labels": [None, {"name": None}], "metadata": None,
            "assignee_id": None, "dependsOn": [None, {"id": None}], "updated_at": {},
            "priority": []}  # fmt: skip
    for look in (
        workboard.look_of([good, rubbish], Times(NOW), {}),
        multica_look([good, rubbish], Times(NOW)),
    ):
        assert look.trouble is Trouble.UNREADABLE
        [found] = look.found
        assert (found.title, found.status, found.agent) == ("(no title)", Status.OTHER, None)


def test_both_spellings_of_dependencies_and_parents_among_links_count() -> None:
    cards = [
        {"id": "a", "status": "todo", "dependsOn": [{"id": "b", "status": "done"}], "depends_on": ["c"],
         "metadata": {"links": [{"type": "parent", "targetCardId": "d"}, {"type": "child"}]}},
        {"id": "d", "status": "done"}, {"id": "old", "status": "todo", "metadata": {"archivedAt": 1}},
    ]  # fmt: skip
    look = workboard.look_of(cards, Times(NOW), {})
    assert [f.ref.id for f in look.found] == ["a"]
    assert {n.ref.id: n.status for n in look.found[0].needs} == {
        "b": Status.DONE,
        "c": None,
        "d": Status.DONE,
    }


def test_the_programs_of_these_tests_start_fast(tmp_path: Path) -> None:
    openclaw = FakeOpenClaw(tmp_path)
    assert "-S" in openclaw.program.read_text() and sys.executable in openclaw.program.read_text()
    assert json.loads(json.dumps(openclaw.connection))["program"].endswith("openclaw")


def test_work_of_people_is_theirs_and_work_of_agents_that_nobody_sweeps_is_strange() -> None:
    issue = {"id": "1", "title": "x", "status": "todo", "assignee_id": "u1"}
    for kind, is_theirs in (("member", True), ("agent", False)):
        found = multica_source.issue_of(issue | {"assignee_type": kind}, Times(NOW))
        assert found is not None
        assert is_strange(found.agent, {"u2"}) is not is_theirs
    assert not is_strange(None, ())
    assert not is_strange("u1", {"u1"})


def test_activity_in_multica_that_leaves_the_issue_as_it_was_is_a_sign_of_life() -> None:
    issue = {"id": "1", "updated_at": "2026-01-05T10:00:00Z", "last_activity_at": "2026-01-05T11:00:00Z"}
    found = multica_source.issue_of(issue, Times(NOW))
    assert found is not None and found.updated_at == NOW - timedelta(hours=1)
