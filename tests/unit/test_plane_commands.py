"""`quarterdeck plane`, the doctor's look at Plane, and how the connection gets in."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocks.plane import PlaneWorkspace
from deployments.checks import plane_is_followed
from deployments.cli import run
from deployments.doctor import Finding, Patient
from quarterdeck.board.cards import ProjectDraft
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.identity import owner
from tests.fakes.company import company, environment
from tests.fakes.plane import KEY, SLUG, FakePlane
from tests.fakes.plane_hooks import SECRET
from tests.fakes.plane_house import OWNER, PlaneCompany, plane_company

pytestmark = pytest.mark.usefixtures("logs_left_as_they_were")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plane() -> Iterator[FakePlane]:
    with FakePlane() as plane:
        yield plane


@pytest.fixture
def quarterdeck(
    plane: FakePlane,
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """The program in a company that is connected to Plane by the environment."""
    told = environment(tmp_path, database_url) | {
        "PLANE_URL": plane.url,
        "PLANE_WORKSPACE": SLUG,
        "PLANE_API_KEY": KEY,
        "PLANE_WEBHOOK_SECRET": SECRET,
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)

    async def move_in() -> None:
        async with company(tmp_path, database_url) as house:
            await house.board.create_project(owner("test"), ProjectDraft(key="ET", name="Enduro"))
        async with open_house() as house:
            assert await house.connections.fill_from_environment(house.settings) == ["plane"]

    asyncio.run(move_in())
    plane.books.project("ORC", "Orchestrator")

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["plane", *arguments])
        out, err = capsys.readouterr()
        assert KEY not in out + err
        assert SECRET not in out + err
        return code, out, err

    return command


def test_a_project_is_linked_and_listed(quarterdeck: Command, plane: FakePlane) -> None:
    code, out, _ = quarterdeck("test", "--json")
    assert (code, json.loads(out)["user"], json.loads(out)["followed"]) == (0, plane.bot, [])
    assert quarterdeck("link", "ET", "orc")[:2] == (0, "ET follows ORC.\n")
    assert json.loads(quarterdeck("links", "--json")[1])["items"][0]["identifier"] == "ORC"
    assert "Orchestrator" in quarterdeck("links")[1]
    assert "ET ← ORC" in quarterdeck("test")[1]
    code, _, err = quarterdeck("link", "ET", "NONE")
    assert (code, "There is: ORC" in err) == (1, True)


def test_what_plane_is_told_is_listed_and_sent_again(quarterdeck: Command) -> None:
    assert quarterdeck("posts") == (0, "Nothing.\n", "")
    assert json.loads(quarterdeck("posts", "--json")[1]) == {"items": [], "next_cursor": None}
    code, _, err = quarterdeck("resend", "7")
    assert (code, "no post 7" in err) == (1, True)
    code, _, err = quarterdeck("dismiss", "7")
    assert (code, "no post 7" in err) == (1, True)
    assert quarterdeck("dismiss")[0] == 2
    assert quarterdeck("dismiss", "--all") == (0, "0 posts are dismissed.\n", "")


def test_a_test_says_what_is_wrong(quarterdeck: Command, plane: FakePlane) -> None:
    plane.keys.clear()
    code, _, err = quarterdeck("test")
    assert (code, "does not know our API key" in err) == (1, True)


def test_the_block_fills_the_same_connection() -> None:
    block = PlaneWorkspace(url="https://p.example.com", workspace="c", api_key="k", webhook_secret="s")
    assert block.value() == {
        "url": "https://p.example.com", "workspace": "c", "api_key": "k", "webhook_secret": "s",
    }  # fmt: skip
    assert block.kind == "plane"


async def examined(house: House) -> Finding:
    """What the doctor finds."""
    return await plane_is_followed(Patient(house.settings, house))


async def test_the_doctor_says_what_keeps_plane_from_working(database: Database, tmp_path: Path) -> None:
    async with plane_company(database, tmp_path) as company:
        assert (await examined(company.house)).detail == "Not configured; work is filed here."
        await company.open()
        assert (await examined(company.house)).detail == "ET ← ORC."
        await break_everything(company)
        found = await examined(company.house)
        assert found.verdict == "warn"
        for word in ("group completed", "no webhook secret", "The API key is anna's own"):
            assert word in found.detail


async def break_everything(company: PlaneCompany) -> None:
    """Anna's own key, no secret, and a project without an end."""
    company.plane.keys["plane_api_annas"] = company.anna
    broken = company.plane.connection | {"api_key": "plane_api_annas", "webhook_secret": ""}
    async with company.house.database.command("connect") as unit:
        await company.house.connections.put(unit, "plane", "default", broken, Source.API)
    for state in [i for i, s in company.books.states.items() if s["group"] == "completed"]:
        del company.books.states[state]


async def test_the_doctor_tells_what_plane_refused(database: Database, tmp_path: Path) -> None:
    async with plane_company(database, tmp_path) as company:
        await company.open()
        await company.asked()
        company.plane.fail("POST", "/comments/", 400)
        await company.tell()
        assert "Plane refused" in (await examined(company.house)).detail


async def test_whoever_shares_the_desks_key_cannot_approve(database: Database, tmp_path: Path) -> None:
    async with plane_company(database, tmp_path) as company:
        await company.open()
        issue, key = await company.asked()
        company.plane.keys["plane_api_annas"] = company.anna
        own = company.plane.connection | {"api_key": "plane_api_annas"}
        async with company.house.database.command("connect") as unit:
            await company.house.connections.put(unit, "plane", "default", own, Source.API)
        company.books.say(issue, company.anna, ":approved:")
        assert await company.hear() == ["It is the desk's own."]
        await company.house.engine.decide(key, OWNER, approved=True)
