"""The command line: it answers people and programs, with the exit codes 0, 1 and 2, and no traceback."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from deployments.cli import run
from deployments.commands.item import Priority as Offered
from quarterdeck import __version__
from quarterdeck.board.model import Priority
from quarterdeck.house import open_house
from quarterdeck.kernel.journal import Delivery, OutboxMessage
from tests.fakes.company import company, environment
from tests.fakes.said import Said
from tests.fakes.telegram import TOKEN, FakeTelegram

pytestmark = pytest.mark.usefixtures("logs_left_as_they_were")


Command = Callable[..., Said]


@pytest.fixture
def quarterdeck(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The program `quarterdeck` in a company with the project ET."""

    async def move_in() -> None:
        async with company(tmp_path, database_url):
            pass

    asyncio.run(move_in())
    for name, value in environment(tmp_path, database_url).items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(list(arguments))
        return Said(code, *capsys.readouterr())

    assert command("project", "create", "ET", "Enduro").code == 0
    return command


def test_an_item_is_filed_shown_edited_and_found(quarterdeck: Command):
    filed = quarterdeck("item", "create", "ET", "Greet", "--priority", "high", "--label", "a", "--label", "b")
    assert (filed.code, filed.out.strip()) == (0, "Filed ET-001; it waits in analysis.")
    edited = quarterdeck(
        "item", "edit", "ET-001", "--title", "Greet me", "--assignee", "developer", "--label", "", "--json"
    )
    assert (edited.json["title"], edited.json["assignee"], edited.json["labels"]) == (
        "Greet me",
        "developer",
        [],
    )
    assert quarterdeck("item", "edit", "ET-001", "--assignee", "", "--json").json["assignee"] is None
    shown = quarterdeck("item", "show", "ET-001")
    assert shown.code == 0
    assert "Greet me" in shown.out and "queued in analysis" in shown.out
    listed = quarterdeck("item", "list", "--state", "queued", "--search", "greet", "--json").json
    assert [item["key"] for item in listed["items"]] == ["ET-001"]
    assert "ET-001" in quarterdeck("item", "list").out


def test_a_connection_is_listed_without_its_secrets_and_forgotten(
    quarterdeck: Command, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ORCH_TELEGRAM_BOT_TOKEN", TOKEN)
    monkeypatch.setenv("ORCH_TELEGRAM_CHAT_ID", "-1001")
    assert quarterdeck("connection", "list", "--json").json["items"] == []
    asyncio.run(filled())
    listed = quarterdeck("connection", "list")
    assert "telegram" in listed.out and "environment" in listed.out and TOKEN not in listed.out
    assert quarterdeck("connection", "forget", "telegram").out.strip() == "telegram/default is forgotten."
    assert quarterdeck("connection", "forget", "telegram").code == 1


async def filled() -> None:
    """What a set-up takes over from the environment."""
    async with open_house() as house:
        await house.connections.fill_from_environment(house.settings)


def test_what_goes_into_a_pipe_is_not_cut(quarterdeck: Command):
    title = "A title of many words " * 10
    quarterdeck("item", "create", "ET", title)
    assert title.strip() in quarterdeck("item", "list").out
    assert title.strip() in quarterdeck("item", "show", "ET-001").out


def test_a_project_is_shown_edited_put_away_and_taken_back(quarterdeck: Command):
    edited = quarterdeck(
        "project", "edit", "ET", "--name", "Trails", "--branch", "trunk", "--version", "1", "--json"
    )
    assert (edited.json["name"], edited.json["default_branch"], edited.json["version"]) == (
        "Trails",
        "trunk",
        2,
    )
    assert quarterdeck("project", "edit", "ET", "--name", "Other", "--version", "1").code == 1
    assert quarterdeck("project", "archive", "ET").out.strip() == "ET is archived."
    shown = quarterdeck("project", "show", "ET").out
    assert "ET: Trails (archived)" in shown and "trunk" in shown
    quarterdeck("project", "edit", "ET", "--name", "[/x] Trails")
    assert "ET: [/x] Trails" in quarterdeck("project", "show", "ET").out
    assert quarterdeck("item", "create", "ET", "Greet").code == 1
    assert quarterdeck("project", "unarchive", "ET", "--json").json["archived"] is False
    quarterdeck("project", "create", "WEB", "Site")
    listed = quarterdeck("project", "list", "--limit", "1")
    assert "Trails" in listed.out and "There are more: --cursor" in listed.out


def test_a_bot_is_registered_moved_to_another_server_and_forgotten(
    quarterdeck: Command, monkeypatch: pytest.MonkeyPatch
):
    with FakeTelegram(TOKEN) as telegram:
        monkeypatch.setenv("TELEGRAM_API_BASE", telegram.base)
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{TOKEN}\n"))
        said = [quarterdeck("bot", "register", "analyst", "--json")]
        assert said[0].json["bot_id"] == "bot:7000000001"
        said += [quarterdeck("bot", "move", "analyst"), quarterdeck("bot", "move", "analyst", "--close")]
        assert [len(telegram.done(method, token=TOKEN)) for method in ("logOut", "close")] == [1, 1]
        telegram.fail("logOut", 429, "Too Many Requests: retry after 540", retry_after=540)
        said += [quarterdeck("bot", "move", "analyst"), quarterdeck("bot", "move", "nobody")]
        assert [one.code for one in said] == [0, 0, 0, 1, 1]
        assert "set TELEGRAM_API_BASE" in said[1].out
        assert "in 540 s" in said[3].err and "analyst" in said[4].err
        said += [quarterdeck("bot", "forget", "analyst", "--json"), quarterdeck("bot", "list", "--json")]
        assert said[-1].json == {"items": [], "next_cursor": None}
        assert not any(TOKEN in one.out + one.err for one in said)


def test_events_are_told_one_a_line(quarterdeck: Command):
    quarterdeck("item", "create", "ET", "Greet")
    quarterdeck("item", "cancel", "ET-001", "--comment", "no")
    for more in ([], ["--follow"]):
        lines = quarterdeck("item", "events", "ET-001", "--json", *more).out.splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["item_filed", "item_cancelled"]
    assert "ET-001" in quarterdeck("item", "events", "ET-001").out


def test_an_item_is_cancelled_and_taken_up_again(quarterdeck: Command):
    quarterdeck("item", "create", "ET", "Greet")
    assert quarterdeck("item", "cancel", "ET-001", "--json").json["state"] == "cancelled"
    assert quarterdeck("item", "retry", "ET-001", "--json").json["state"] == "queued"
    again = quarterdeck("item", "retry", "ET-001")
    assert again.code == 1
    assert "queued" in again.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["item", "show", "ET-999"], "ET-001"),
        (["item", "runs", "ET-999"], "ET-001"),
        (["item", "log", "ET-999"], "ET-001"),
        (["item", "approve", "ET-999"], "ET-001"),
        (["item", "approve", "ET-001"], "does not wait"),
        (["item", "create", "XX", "Greet"], "ET"),
        (["item", "create", "ET", "Greet", "--assignee", "nobody"], "developer"),
        (["item", "list", "--stage", "nonsense"], "analysis"),
        (["project", "create", "ET", "Again"], "already"),
        (["project", "create", "XX", "New", "--pipeline", "nonsense"], "default"),
        (["agent", "show", "nobody"], "developer"),
        (["item", "show", "17"], "ET-007"),
        (["item", "log", "ET-001"], "no run of ET-001 yet"),
        (["item", "log", "ET-001", "--run", "9"], "no run of ET-001 yet"),
        (["item", "stop", "ET-001"], "given by hand goes on for ET-001"),
        (["item", "stop", "ET-001", "--run", "9"], "no run of ET-001 yet"),
        (["notify", "test", "pigeon"], "telegram"),
        (["dead-letters", "resend", "999"], "999"),
    ],
)
def test_what_fails_says_why_and_what_to_do(quarterdeck: Command, arguments, named):
    quarterdeck("item", "create", "ET", "Greet")
    said = quarterdeck(*arguments)
    assert (said.code, said.out) == (1, "")
    assert named in said.err
    assert len(said.err.splitlines()) >= 2
    assert "Traceback" not in said.err


def test_an_error_for_programs_is_json_too(quarterdeck: Command):
    said = quarterdeck("item", "show", "ET-999", "--json")
    assert (said.code, said.out) == (1, "")
    assert set(json.loads(said.err)) == {"code", "detail", "instruction"}
    assert json.loads(said.err)["code"] == "unknown_item"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["item", "show"],
        ["item", "create", "ET", "Greet", "--priority", "soon"],
        ["item", "create", "ET", ""],
        ["item", "list", "--state", "lost"],
        ["item", "list", "--limit", "0"],
        ["item", "list", "--cursor", "rubbish"],
        ["item", "reject", "ET-001"],
        ["project", "create", "e t", "x"],
    ],
)
def test_wrong_use_ends_with_two(quarterdeck: Command, arguments):
    said = quarterdeck(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["item", "list", "--limit", "999"], "--limit"),
        (["item", "show"], "KEY"),
        (["item", "create", "ET", "Greet", "--priority", "soon"], "soon"),
        (["item", "list", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["demo"], "--heartbeat"),
    ],
)
def test_wrong_use_is_told_to_programs_as_json(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
):
    code = run([*arguments, "--json"])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    told = json.loads(said.err)
    assert told["code"] == "usage" and named in told["detail"] and "--help" in told["instruction"]


def test_a_good_end_stays_one_for_programs(quarterdeck: Command):
    assert quarterdeck("item", "list", "--json").code == 0
    assert quarterdeck("item", "list", "--json", "--help").code == 0
    assert quarterdeck("notify", "test", "telegram", "--json").code == 1


def test_a_misspelt_key_is_told_in_words(quarterdeck: Command):
    for arguments, named in (
        (["project", "create", "et", "Lower"], "key: must be 2 to 10 capital letters"),
        (["project", "create", "XX", "New", "--branch", "a b"], "default_branch: must be letters, digits"),
    ):
        said = quarterdeck(*arguments)
        assert said.code == 2 and named in said.err


def test_help_is_told_by_its_short_option_too(capsys: pytest.CaptureFixture[str]):
    for arguments in (["-h"], ["item", "-h"], ["item", "show", "-h"]):
        assert run(arguments) == 0
        assert "Usage: quarterdeck" in capsys.readouterr().out


def test_ctrl_c_ends_with_130(quarterdeck: Command, monkeypatch: pytest.MonkeyPatch):
    async def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quarterdeck.board.service.Board.item", stopped)
    for more in ([], ["--json"]):
        assert quarterdeck("item", "show", "ET-001", *more).code == 130


def test_agents_and_their_work_are_listed(quarterdeck: Command):
    slugs = [agent["slug"] for agent in quarterdeck("agent", "list", "--json").json["items"]]
    assert slugs == ["analyst", "architect", "developer", "reviewer"]
    assert "idle" in quarterdeck("agent", "show", "developer").out
    quarterdeck("item", "create", "ET", "Greet")
    assert "No agent has worked on it yet." in quarterdeck("item", "runs", "ET-001").out


def test_a_test_message_goes_to_the_log_and_to_nobody_unconfigured(quarterdeck: Command):
    assert quarterdeck("notify", "test", "log", "--json").json["ok"] is True
    said = quarterdeck("notify", "test", "telegram", "--json")
    assert (said.code, said.json["ok"]) == (1, False)


def test_messages_are_listed(quarterdeck: Command):
    for command in ("outbox", "dead-letters"):
        assert quarterdeck(command, "list", "--json").json == {"items": [], "next_cursor": None}
        assert "No messages." in quarterdeck(command, "list").out


def test_all_dead_letters_are_sent_again_at_once(quarterdeck: Command):
    asyncio.run(died("one", "two"))
    assert len(quarterdeck("dead-letters", "list", "--json").json["items"]) == 2
    assert quarterdeck("dead-letters", "resend").code == 2
    assert quarterdeck("dead-letters", "resend", "--all", "--json").json == {"resent": 2}
    states = [letter["state"] for letter in quarterdeck("outbox", "list", "--json").json["items"]]
    assert states == ["queued", "queued"]


def test_dead_letters_are_dismissed_and_are_trouble_no_more(quarterdeck: Command):
    asyncio.run(died("one", "two", "three"))
    number = quarterdeck("dead-letters", "list", "--json").json["items"][0]["id"]
    assert quarterdeck("dead-letters", "dismiss").code == 2
    assert quarterdeck("dead-letters", "dismiss", str(number), "--all").code == 2
    assert quarterdeck("dead-letters", "dismiss", str(number)).out == f"Message {number} is dismissed.\n"
    assert quarterdeck("status", "--json").json["dead_letters"] == 2
    assert quarterdeck("dead-letters", "dismiss", "--all", "--json").json == {"dismissed": 2}
    assert quarterdeck("status", "--json").json["dead_letters"] == 0
    states = {letter["state"] for letter in quarterdeck("outbox", "list", "--json").json["items"]}
    assert states == {"dismissed"}


async def died(*texts: str) -> None:
    """Messages that could not be delivered."""
    async with open_house() as house, house.database.command("die") as unit:
        unit.session.add_all(
            OutboxMessage(
                kind="error",
                channel="log",
                chat="log",
                lane="log:log",
                text=text,
                state=Delivery.DEAD,
                created_at=unit.now,
            )
            for text in texts
        )


def test_keys_are_rotated(quarterdeck: Command, tmp_path: Path):
    before = len(list((tmp_path / "keys").glob("master-*")))
    sealed = quarterdeck("keys", "rotate", "--json").json["sealed_anew"]
    assert sealed == {"connections": 0, "telegram bots": 0}
    assert len(list((tmp_path / "keys").glob("master-*"))) == before + 1


def test_status_tells_what_is_going_on(quarterdeck: Command):
    quarterdeck("item", "create", "ET", "Greet")
    found = quarterdeck("status", "--json").json
    assert found["items"]["queued"] == 1
    assert (found["whose_move"], found["dead_letters"], found["processes"]) == ([], 0, {})
    shown = quarterdeck("status")
    assert shown.code == 0
    assert "queued" in shown.out and "closed" in shown.out


def test_without_a_desk_a_command_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path / "nowhere"))
    monkeypatch.delenv("QUARTERDECK_DATABASE_URL", raising=False)
    assert run(["status"]) == 1
    assert "quarterdeck setup" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_without_tables_a_command_says_how_to_make_them(quarterdeck: Command, admin, monkeypatch, postgres):
    monkeypatch.setenv("QUARTERDECK_DATABASE_URL", postgres.url("postgres"))
    said = quarterdeck("item", "list")
    assert said.code == 1
    assert "quarterdeck setup" in said.err


def test_a_wrong_setting_is_named(quarterdeck: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUARTERDECK_HTTP_PORT", "canary")
    said = quarterdeck("status")
    assert said.code == 1
    assert "HTTP_PORT" in said.err.upper()
    assert "Traceback" not in said.err


def test_an_argument_that_is_no_utf_8_is_wrong_use(quarterdeck: Command):
    said = quarterdeck("item", "create", "ET", "Gr\udcfc\udcdfe", "--json")
    assert (said.code, json.loads(said.err)["code"]) == (2, "usage")
    assert "UTF-8" in quarterdeck("item", "show", "ET-\udcff").err


def test_no_more_rounds_can_be_granted_than_over_the_api(quarterdeck: Command):
    assert quarterdeck("heartbeat", "limit", "developer", "ET-001", "100001").code == 2


def test_an_unexpected_error_shows_its_traceback_only_to_who_asks(quarterdeck: Command, monkeypatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr("quarterdeck.board.service.Board.item", broken)
    said = quarterdeck("item", "show", "ET-001")
    assert said.code == 1
    assert "--debug" in said.err
    assert "Traceback" not in said.err
    told = json.loads(quarterdeck("item", "show", "ET-001", "--json").err)
    assert (told["code"], "--debug" in told["instruction"]) == ("internal", True)
    assert "canary" not in told["detail"]
    with pytest.raises(RuntimeError, match="canary"):
        quarterdeck("--debug", "item", "show", "ET-001")


def test_the_version_is_told_without_a_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path / "nowhere"))
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"quarterdeck {__version__}\n"
    monkeypatch.setattr("deployments.checks.CHECKS", ())
    assert run(["doctor"]) == 0
    assert __version__ in capsys.readouterr().out
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("up", "demo", "setup", "doctor", "status", "item", "project", "agent", "notify", "keys"):
        assert word in shown


def test_priorities_of_the_command_line_are_those_of_the_board():
    assert set(get_args(Offered)) == {priority.value for priority in Priority}
