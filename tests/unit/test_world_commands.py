"""`quarterdeck forge …` and `quarterdeck agent …`: exit codes, JSON, and what is said of what is wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from deployments.checks import CHECKS
from deployments.cli import run
from deployments.doctor import Result, examine
from quarterdeck.board.cards import ProjectDraft
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.identity import owner
from tests.fakes.agent_ws import FakeAgent
from tests.fakes.company import company, environment, settings_of
from tests.fakes.gitea import TOKEN, FakeGitea
from tests.fakes.openclaw import GATEWAY_TOKEN, HOOKS_TOKEN, FakeOpenClaw
from tests.fakes.said import Said

pytestmark = pytest.mark.usefixtures("logs_left_as_they_were")

OWNER = owner("test")
SECRETS = (TOKEN, GATEWAY_TOKEN, HOOKS_TOKEN, "hook-secret-0123456789")


Command = Callable[..., Awaitable[Said]]


@pytest.fixture
async def quarterdeck(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The program in a company, beside the far sides that live in this loop."""
    told = environment(tmp_path, database_url) | {"QUARTERDECK_PUBLIC_URL": "https://desk.example.org"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    async with company(tmp_path, database_url):
        pass

    async def command(*arguments: str) -> Said:
        capsys.readouterr()
        code = await asyncio.to_thread(run, list(arguments))
        said = Said(code, *capsys.readouterr())
        assert not [secret for secret in SECRETS if secret in said.out + said.err]
        assert "Traceback" not in said.err
        return said

    return command


@pytest.fixture
async def house(quarterdeck: Command, tmp_path: Path, database_url: str) -> AsyncIterator[House]:
    async with open_house(settings_of(tmp_path, database_url)) as house:
        yield house


async def connect(house: House, kind: str, value: dict[str, str]) -> None:
    async with house.database.command("connect") as unit:
        await house.connections.put(unit, kind, "default", value, Source.API)


@pytest.fixture
async def gitea(house: House, tmp_path: Path) -> AsyncIterator[FakeGitea]:
    """Connected, with a repository that the project ET has."""
    async with FakeGitea(tmp_path / "gitea") as gitea:
        await gitea.create("acme/shop")
        await connect(house, "gitea", gitea.connection)
        draft = ProjectDraft(key="ET", name="Enduro", repository="gitea:acme/shop")
        await house.board.create_project(OWNER, draft)
        yield gitea


async def test_hooks_are_installed_and_a_second_time_renewed(quarterdeck: Command, gitea: FakeGitea) -> None:
    first = await quarterdeck("forge", "install-hooks")
    assert (first.code, "acme/shop" in first.out) == (0, True), first
    assert "created hook" in first.out
    again = await quarterdeck("forge", "install-hooks", "ET", "--json")
    assert [(one["replaced"], bool(one["hook"])) for one in again.json["items"]] == [(1, True)]
    (hook,) = gitea.repos["acme/shop"].hooks
    assert (hook.url, hook.active) == ("https://desk.example.org/webhooks/gitea", True)


async def test_a_connection_that_works_is_told(quarterdeck: Command, gitea: FakeGitea) -> None:
    said = await quarterdeck("forge", "test", "--json")
    assert (said.code, said.json["login"]) == (0, "quarterdeck")
    assert [(sight["may_push"], sight["has_hook"]) for sight in said.json["repositories"]] == [(True, False)]
    await quarterdeck("forge", "install-hooks")
    people = await quarterdeck("forge", "test", "ET")
    assert (people.code, "may push" in people.out, "installed" in people.out) == (0, True, True)


async def test_what_keeps_gitea_from_working_is_told_apart(
    quarterdeck: Command, house: House, gitea: FakeGitea
) -> None:
    gitea.repos["acme/shop"].archived = True
    archived = await quarterdeck("forge", "test")
    assert (archived.code, "archived" in archived.out) == (1, True), archived
    await connect(house, "gitea", gitea.connection | {"token": "somebody-elses-token-00000000000000000000"})
    refused = await quarterdeck("forge", "test")
    assert (refused.code, "token" in refused.err.lower()) == (1, True), refused
    assert "somebody-elses" not in refused.err
    await connect(house, "gitea", gitea.connection)
    unknown = await quarterdeck("forge", "install-hooks", "NO")
    assert (unknown.code, "There is: ET" in unknown.err) == (1, True)
    await gitea.down()
    down = await quarterdeck("forge", "test", "--json")
    assert (down.code, json.loads(down.err)["code"]) == (1, "unreachable"), down


async def test_without_gitea_it_is_said_how_to_connect_it(quarterdeck: Command) -> None:
    for command in ("test", "install-hooks"):
        said = await quarterdeck("forge", command)
        assert (said.code, "No Gitea is connected" in said.err) == (1, True), said


async def hired(house: House, gateway: FakeOpenClaw) -> None:
    await connect(house, "openclaw", {"url": gateway.url, "token": GATEWAY_TOKEN, "hooks_token": HOOKS_TOKEN})
    await house.crew.create_agent(OWNER, AgentEntry(slug="claw", runtime="openclaw"))


async def test_an_agent_is_tried(quarterdeck: Command, house: House) -> None:
    async with FakeOpenClaw() as gateway:
        gateway.says("Ready.")
        await hired(house, gateway)
        said = await quarterdeck("agent", "test", "claw", "--json")
        people = await quarterdeck("agent", "test", "claw")
        reached = await quarterdeck("agent", "test", "claw", "--no-ask", "--json")
        assert len(gateway.turns) == 2
    assert (said.code, said.json["answer"], said.json["tokens"]) == (0, "Ready.", 120), said
    assert (said.json["cost_usd"], said.json["fault"], reached.code) == ("0.00045", None, 0)
    assert people.code == 0 and "Ready." in people.out and "0.00045 USD" in people.out
    down = await quarterdeck("agent", "test", "claw")
    assert (down.code, "down:" in down.out) == (1, True), down


async def test_an_agent_that_is_a_program_is_only_looked_for(quarterdeck: Command) -> None:
    said = await quarterdeck("agent", "test", "analyst", "--json")
    assert (said.code, said.json["ok"], said.json["runtime"]) == (0, True, "command")
    unknown = await quarterdeck("agent", "test", "nobody")
    assert (unknown.code, "There is: analyst" in unknown.err) == (1, True)
    assert (await quarterdeck("agent", "test", "analyst", "--seconds", "0")).code == 2


async def test_an_entered_address_is_what_every_check_goes_by(quarterdeck: Command, house: House) -> None:
    lab = AgentEntry(slug="lab", runtime="agent_api", parameters={"connection": "lab"})
    for entry in (AgentEntry(slug="talker", runtime="agent_api"), lab):
        await house.crew.create_agent(OWNER, entry)
    none = await quarterdeck("check-agents", "--json")
    assert [(one["stage"], one["error"]) for one in none.json] == [
        ("config", "There is no connection agent_api/lab."),
        ("config", "it has no address"),
    ]
    async with FakeAgent() as agent:
        await connect(house, "agent_api", {"url": agent.base("agent_3")})
        found = await quarterdeck("check-agents", "--agent", "talker", "--json")
        tried = await quarterdeck("agent", "test", "talker", "--no-ask", "--json")
        given = await quarterdeck("check-agents", "--base-url", agent.base("agent_4"), "--json")
        (well,) = await looked("agent-api", house)
    assert (found.code, found.json[0]["base_url"]) == (0, agent.base("agent_3"))
    assert (tried.code, agent.base("agent_3") in tried.json["found"]) == (0, True)
    assert (given.code, {one["base_url"] for one in given.json}) == (0, {agent.base("agent_4")})
    assert (well.verdict, "agent_3" in well.detail) == ("ok", True)
    (down,) = await looked("agent-api", house)
    assert (down.verdict, down.detail.partition(":")[0]) == ("fail", "connect")
    assert "block `Quarterdeck WebSocket agent`" in down.fix


async def looked(check: str, house: House) -> list[Result]:
    """What the doctor sees in one part."""
    checks = [one for one in CHECKS if one.name == check]
    return [result async for result in examine(house.settings, checks, fix=False)]


async def test_an_agent_is_woken_with_a_few_words(quarterdeck: Command, house: House) -> None:
    async with FakeOpenClaw() as gateway:
        await hired(house, gateway)
        people = await quarterdeck("agent", "wake", "claw", "ET-007 waits for you.")
        said = await quarterdeck("agent", "wake", "claw", " Look. ", "--mode", "next-heartbeat", "--json")
        assert gateway.woken == [
            {"text": "ET-007 waits for you.", "mode": "now", "agentId": "main"},
            {"text": "Look.", "mode": "next-heartbeat", "agentId": "main"},
        ]
        assert gateway.turns == [], "nobody was asked for an answer"
    assert (people.code, people.out) == (0, "OpenClaw took it for claw: queued.\n")
    assert said.json == {"agent": "claw", "mode": "next-heartbeat", "outcome": "queued"}


async def told_off(quarterdeck: Command, *words: str) -> tuple[int, str, str]:
    """Exit code, code and sentences of what a command refused."""
    said = await quarterdeck("agent", "wake", *words, "--json")
    told = json.loads(said.err)
    return said.code, told["code"], f"{told['detail']} {told['instruction']}"


async def test_what_keeps_an_agent_from_being_woken_is_told_apart(quarterdeck: Command, house: House) -> None:
    async with FakeOpenClaw() as gateway:
        await hired(house, gateway)
        entry = AgentEntry(slug="ghost", runtime="openclaw", parameters={"agent_id": "nobody"})
        await house.crew.create_agent(OWNER, entry)
        told = {
            "no such agent here": await told_off(quarterdeck, "nobody", "Look."),
            "no such agent there": await told_off(quarterdeck, "ghost", "Look."),
            "another runtime": await told_off(quarterdeck, "analyst", "Look."),
            "nothing to say": await told_off(quarterdeck, "claw", "  "),
        }
        good = {"url": gateway.url, "token": GATEWAY_TOKEN, "hooks_token": HOOKS_TOKEN}
        await connect(house, "openclaw", good | {"hooks_token": ""})
        told["no token"] = await told_off(quarterdeck, "claw", "Look.")
        await connect(house, "openclaw", good | {"hooks_token": GATEWAY_TOKEN})
        told["refused"] = await told_off(quarterdeck, "claw", "Look.")
        await connect(house, "openclaw", good | {"url": f"{gateway.url}/a/page"})
        told["wrong"] = await told_off(quarterdeck, "claw", "Look.")
        await connect(house, "openclaw", good)
        assert gateway.woken == []
    told["down"] = await told_off(quarterdeck, "claw", "Look.")
    assert {what: (code, name) for what, (code, name, _) in told.items()} == {
        "no such agent here": (1, "unknown_agent"),
        "no such agent there": (1, "unknown_agent_of_OpenClaw"),
        "another runtime": (1, "not_wakeable"),
        "nothing to say": (2, "invalid"),
        "no token": (1, "misconfigured"),
        "refused": (1, "refused"),
        "wrong": (1, "wrong_answer"),
        "down": (1, "unreachable"),
    }
    for what, word in {
        "no such agent here": "There is: analyst",
        "no such agent there": "There is: default, main",
        "another runtime": "has the runtime command",
        "no token": "has no hooks_token",
        "refused": "answered 401",
        "down": "cannot be reached",
    }.items():
        assert word in told[what][2], told[what]


async def test_tests_are_run_again_in_the_local_forge_alone(
    quarterdeck: Command, house: House, gitea: FakeGitea
) -> None:
    elsewhere = await quarterdeck("forge", "rerun", "ET")
    assert (elsewhere.code, "tested in Gitea" in elsewhere.err) == (1, True), elsewhere
    unknown = await quarterdeck("forge", "rerun", "XY")
    assert (unknown.code, "ET" in unknown.err) == (1, True), unknown
