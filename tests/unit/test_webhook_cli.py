"""`quarterdeck webhook`: the owner sees what came, and has it worked on again."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.cli import run
from quarterdeck.kernel.inbox import Ignored
from tests.fakes.company import company, environment

pytestmark = pytest.mark.usefixtures("logs_left_as_they_were")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quarterdeck(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The program in a company to which two deliveries came, one of them worked on."""

    async def move_in() -> None:
        async with company(tmp_path, database_url) as house:

            async def ignore(_: object) -> str:
                return Ignored("We made this change ourselves.")

            house.deliveries.add("plane", ignore)
            body = json.dumps({"text": "[bold]as it came[/bold]", "token": "canary-of-a-token"}).encode()
            await house.inbox.accept("plane", "d-1", "issue.created", {"x-plane-delivery": "d-1"}, body)
            await house.deliveries.work_off()
            await house.inbox.accept("gitea", "d-2", "push", {}, b"{}")

    asyncio.run(move_in())
    for name, value in environment(tmp_path, database_url).items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return (run(["webhook", *arguments]), *capsys.readouterr())

    return command


def test_deliveries_are_listed_for_people_and_programs(quarterdeck: Command):
    code, out, _ = quarterdeck("list")
    assert code == 0 and "ignored" in out and "push" in out
    code, out, _ = quarterdeck("list", "--limit", "1", "--json")
    page = json.loads(out)
    assert [one["id"] for one in page["items"]] == [2] and page["next_cursor"]
    code, out, _ = quarterdeck("list", "--cursor", page["next_cursor"], "--json")
    assert [one["id"] for one in json.loads(out)["items"]] == [1]
    code, out, _ = quarterdeck("list", "--source", "gitea", "--state", "done")
    assert (code, out.strip()) == (0, "No deliveries.")
    assert quarterdeck("list", "--source", "gitae")[0] == 2


def test_a_delivery_is_shown_as_it_came_without_its_secrets(quarterdeck: Command):
    code, out, _ = quarterdeck("show", "1")
    assert code == 0 and "[bold]as it came[/bold]" in out and "d-1" in out
    assert "canary" not in out
    code, out, _ = quarterdeck("show", "1", "--json")
    assert json.loads(out)["body"] == {"text": "[bold]as it came[/bold]", "token": "***"}


def test_a_delivery_is_replayed(quarterdeck: Command):
    code, out, _ = quarterdeck("replay", "1")
    assert (code, out.strip()) == (0, "Delivery 1 waits for the desk.")
    assert json.loads(quarterdeck("show", "1", "--json")[1])["state"] == "waiting"


def test_a_door_that_cannot_be_tried_is_said_with_what_to_do(quarterdeck: Command):
    code, _, err = quarterdeck("test", "gitea", "--url", "http://127.0.0.1:9")
    assert code == 1 and "not connected" in err and "block `Quarterdeck Gitea`" in err
    code, _, err = quarterdeck("test", "nonsense")
    assert code == 1 and "generic, gitea" in err


def test_what_is_unknown_is_said(quarterdeck: Command):
    for words in (("show", "99"), ("replay", "99")):
        code, _, err = quarterdeck(*words)
        assert code == 1 and "no delivery 99" in err and "webhook list" in err
    assert quarterdeck("list", "--cursor", "rubbish")[0] == 2
    assert quarterdeck("list", "--state", "rubbish")[0] == 2
