"""The agent protocol: addresses that survive, frames that surprise, and the checker of routes."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.crew.agent_api import (
    ChatLocks,
    Event,
    File,
    Limits,
    Progress,
    Text,
    connected,
    normalised,
    relative,
    ws_url,
)
from quarterdeck.crew.agent_api_client import read_file
from quarterdeck.crew.agent_api_runtime import AgentApiRuntime
from quarterdeck.crew.route_check import Options, Route, check_all, check_gateway, chosen, read_registry
from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, Unavailable
from tests.fakes.agent_ws import END, FakeAgent, Hangup, Pause, say, send
from tests.fakes.far_sides import Entered
from tests.fakes.openclaw import GATEWAY_TOKEN, HOOKS_TOKEN, FakeOpenClaw

SEGMENT = st.text("abcdefgz0189_.-", min_size=1, max_size=8).filter(
    lambda word: word not in ("agent_ws", "v1", ".", "..")
)
TAILS = st.sampled_from(
    ["", "/", "//", "/agent_ws", "/agent_ws/", "/v1/agent_ws/", "/v1/agent_ws/0/", "/agent_ws/7"]
)


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    async with FakeAgent() as fake:
        yield fake


@pytest.mark.parametrize("tail", ["agent_17", "agent_17/", "agent_17/v1/agent_ws/0/", "agent_17/?a=b#c"])
def test_every_way_of_writing_an_address_leads_to_the_chat(tail: str) -> None:
    url = ws_url(f"http://agents.example.org:7000/{tail}", 41)
    assert url == "http://agents.example.org:7000/agent_17/v1/agent_ws/41/"


@given(
    st.sampled_from(["http", "https", "ws", "wss"]),
    st.lists(SEGMENT, max_size=4),
    TAILS,
    st.sampled_from(["", "?token=1", "#x"]),
    st.integers(0, 2**53),
)
def test_scheme_host_and_prefix_of_an_address_survive(
    scheme: str, prefix: list[str], tail: str, rest: str, chat: int
) -> None:
    path = "".join(f"/{segment}" for segment in prefix)
    base = f"{scheme}://agents.example.org:7000{path}{tail}{rest}"
    url = urlsplit(ws_url(base, chat))
    assert (url.scheme, url.netloc, url.query, url.fragment) == (scheme, "agents.example.org:7000", "", "")
    assert url.path == f"{path}/v1/agent_ws/{chat}/"
    assert normalised(normalised(base)) == normalised(base)


@pytest.mark.parametrize("base", ["", "agents", "ftp://x/", "http://", "http://[x/", "http://x:99999/"])
def test_what_is_no_address_is_refused(base: str) -> None:
    with pytest.raises(Misconfigured):
        normalised(base)


@pytest.mark.parametrize("chat", ["", "x", "-1", "1/../2", "٣"])
def test_a_chat_must_be_a_number(chat: str) -> None:
    with pytest.raises(Invalid):
        ws_url("http://x/", chat)


@given(SEGMENT, SEGMENT)
def test_paths_are_relative_to_the_workspace_in_both_directions(agent: str, name: str) -> None:
    assert relative(f"/workspace/{name}") == name
    assert relative(f"/agents/{agent}/{name}") == name
    assert relative(f"surfaces/matrix/{agent}/{name}") == f"surfaces/matrix/{agent}/{name}"


async def asked(agent: FakeAgent, text: str = "hi", attachments: tuple[str, ...] = ()) -> list[Event]:
    url = ws_url(agent.base("agent_17"), 41)
    async with connected(url, Limits(1.0, 1.0)) as open_agent:
        return [event async for event in open_agent.ask(text, attachments)]


async def test_an_answer_is_its_pieces_and_its_files_in_their_order(agent: FakeAgent) -> None:
    agent.says([say("Hello "), send("/workspace/out/a.pdf"), say("world"), END, END])
    assert await asked(agent, attachments=("/agents/3/note.txt",)) == [
        Text("Hello "),
        File("out/a.pdf"),
        Text("world"),
    ]
    assert agent.messages == [{"type": "USER_MESSAGE", "text": "hi", "attachments": ["note.txt"]}]
    assert agent.paths == ["/agent_17/v1/agent_ws/41/"]


async def test_tools_and_unknown_events_never_fail_an_answer(agent: FakeAgent) -> None:
    kinds = [
        "AGENT_EVENT_TOOL_CALL_CHUNK",
        "AGENT_EVENT_TOOL_RESULT",
        "AGENT_EVENT_CUSTOM_UPDATE",
        "NEW_THING",
    ]
    agent.says([*({"type": kind} for kind in kinds), say("ok"), END])
    assert await asked(agent) == [*map(Progress, kinds), Text("ok")]


@pytest.mark.parametrize(
    ("script", "error", "code"),
    [
        ([{"type": "ERROR", "message": "no model"}], Conflict, "agent_error"),
        (["not json"], Conflict, "unexpected_frame"),
        (['{"text": "no type"}'], Conflict, "unexpected_frame"),
        (["[1]"], Conflict, "unexpected_frame"),
        (["[" * 100_000], Conflict, "unexpected_frame"),
        ([b"\x00\x01"], Unavailable, "broken_off"),
        ([say("half"), Hangup()], Unavailable, "broken_off"),
        ([Pause(5)], Unavailable, "timed_out"),
    ],
)
async def test_what_goes_wrong_is_told_apart(
    agent: FakeAgent, script: list[Any], error: type[Exception], code: str
) -> None:
    agent.says(script)
    with pytest.raises(error) as raised:
        await asked(agent)
    assert getattr(raised.value, "code", "") == code


@pytest.mark.parametrize("first", [say("hi"), END, "rubbish", None])
async def test_an_agent_that_does_not_begin_with_its_status_is_refused(agent: FakeAgent, first: Any) -> None:
    agent.first = first
    with pytest.raises((Conflict, Unavailable)):
        await asked(agent)
    assert agent.messages == []


async def test_the_connection_is_closed_in_every_case(agent: FakeAgent) -> None:
    agent.says([Pause(30)])
    asking = asyncio.create_task(asked(agent))
    async with asyncio.timeout(20):
        while not agent.messages:
            await asyncio.sleep(0.01)
        asking.cancel()
        while agent.open:
            await asyncio.sleep(0.01)
    assert asking.cancelled() or (await asyncio.gather(asking, return_exceptions=True))


async def test_one_request_at_a_time_in_a_chat_and_chats_side_by_side() -> None:
    locks, inside, most = ChatLocks(), {"a": 0, "b": 0}, {"a": 0, "b": 0}
    both = asyncio.Event()

    async def talk(chat: str) -> None:
        async with locks.held(chat):
            inside[chat] += 1
            most[chat] = max(most[chat], inside[chat])
            if all(inside.values()):
                both.set()
            async with asyncio.timeout(20):
                await both.wait()
            inside[chat] -= 1

    await asyncio.gather(*(talk(chat) for chat in "aabb"))
    assert most == {"a": 1, "b": 1}
    assert not locks._locks


@pytest.mark.parametrize("path", ["../secret", "link", "/etc/passwd", "folder", "missing"])
def test_a_file_outside_the_workspace_is_not_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("s")
    workspace = tmp_path / "workspace"
    (workspace / "folder").mkdir(parents=True)
    (workspace / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(Invalid):
        read_file(workspace, path)


# The checker


async def checked(agent: FakeAgent, **options: Any) -> tuple[str, bool, str]:
    (result,) = await check_all([(0, Route(id="a", label="A", base_url=agent.base("a")))], Options(**options))
    return result.stage, result.ok, result.response_type


OWN, ENTERED, VARIABLE = (f"http://{name}.example.org/agent_0/" for name in ("own", "entered", "variable"))


@pytest.mark.parametrize(
    ("parameters", "entered", "environ", "leads_to"),
    [
        ({"base_url": OWN}, {"default": ENTERED}, VARIABLE, OWN),
        ({"base_url": OWN, "connection": "lab"}, {}, "", OWN),
        ({}, {"default": ENTERED}, VARIABLE, ENTERED),
        ({"connection": "lab"}, {"default": OWN, "lab": ENTERED}, VARIABLE, ENTERED),
        ({}, {"default": " "}, VARIABLE, VARIABLE),
        ({}, {"lab": ENTERED}, VARIABLE, VARIABLE),
    ],
)
async def test_the_rosters_address_counts_before_the_entered_one_and_that_before_the_environments(
    monkeypatch: pytest.MonkeyPatch,
    parameters: dict[str, str],
    entered: dict[str, str],
    environ: str,
    leads_to: str,
) -> None:
    monkeypatch.setenv("AGENT_BASE_URL", environ)
    order = await AgentApiRuntime(Entered(**entered)).order("talker", "", parameters)
    assert order.facts["base_url"] == leads_to


@pytest.mark.parametrize(
    ("parameters", "environ", "why"),
    [({}, "", "has no address"), ({"connection": "lab"}, VARIABLE, "no connection agent_api/lab")],
)
async def test_without_an_address_it_is_said_where_one_can_be_entered(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], environ: str, why: str
) -> None:
    """Who names a connection means that one: no other agent answers in its place."""
    monkeypatch.setenv("AGENT_BASE_URL", environ)
    with pytest.raises(Misconfigured, match=why) as told:
        await AgentApiRuntime(Entered()).order("talker", "", parameters)
    assert (told.value.code, "block" in told.value.instruction) == ("not_connected", True)


async def test_the_checker_says_how_far_it_came(agent: FakeAgent) -> None:
    assert await checked(agent) == ("status", True, "STATUS")
    assert await checked(agent, message="ping") == ("message", True, "AGENT_EVENT_END")
    agent.says([{"type": "ERROR"}])
    assert await checked(agent, message="ping") == ("message", False, "ERROR")
    agent.first = say("early")
    assert await checked(agent) == ("status", False, "AGENT_EVENT_TEXT_CHUNK")
    agent.first = None
    assert await checked(agent, timeout=0.2) == ("timeout", False, "")


async def test_the_checker_uses_a_password_in_an_address_and_does_not_show_it(agent: FakeAgent) -> None:
    own, gateway = agent.base("a"), "http://desk:hunter-2@127.0.0.1:9"
    route = Route(id="a", label="A", base_url=own.replace("://", "://desk:hunter-2@"))
    results = await check_all([(0, route)], Options(chat_id=7))
    assert [(r.ok, r.base_url, r.ws_url) for r in results] == [
        (True, base := own.replace("://", "://desk:***@"), f"{base.rstrip('/')}/v1/agent_ws/7/")
    ]
    results += await check_gateway("x", {"url": gateway, "token": GATEWAY_TOKEN, "hooks_token": HOOKS_TOKEN})
    assert "hunter-2" not in repr(results)


async def test_the_checker_keeps_the_registrys_order_and_its_places(agent: FakeAgent) -> None:
    routes = [
        Route(id=f"a{n}", label=f"A{n}", base_url=agent.base(f"a{n}") if n != 1 else "") for n in range(4)
    ]
    results = await check_all(chosen(routes, []), Options(concurrency=2))
    assert [(r.agent_id, r.chat_id, r.ok) for r in results] == [
        ("a0", 900000, True), ("a1", 900001, False), ("a2", 900002, True), ("a3", 900003, True),
    ]  # fmt: skip
    assert (results[1].stage, results[1].ws_url) == ("config", "")
    assert await check_all(chosen(routes, ["a2"]), Options(chat_id=7)) != []
    with pytest.raises(Invalid, match="a0, a1"):
        chosen(routes, ["nobody"])


def test_a_registry_names_each_agent_once(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text("agents:\n  - {id: a, label: A}\n  - {id: a, label: B}\n")
    with pytest.raises(Misconfigured, match="duplicate agent id a"):
        read_registry(file)


@pytest.mark.parametrize(
    ("token", "hooks_token", "good"),
    [
        (GATEWAY_TOKEN, HOOKS_TOKEN, [True, True, True]),
        (HOOKS_TOKEN, GATEWAY_TOKEN, [True, False, False]),
        (GATEWAY_TOKEN, "", [True, True]),
    ],
)
async def test_both_tokens_of_a_gateway_are_checked(token: str, hooks_token: str, good: list[bool]) -> None:
    async with FakeOpenClaw() as gateway:
        results = await check_gateway("x", {"url": gateway.url, "token": token, "hooks_token": hooks_token})
    assert [result.ok for result in results] == good
    assert gateway.woken == []


async def test_the_command_exits_with_1_when_an_agent_fails(agent: FakeAgent, tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(
        f"agents:\n  - {{id: a, label: A, base_url: '{agent.base('a')}'}}\n  - {{id: b, label: B}}\n"
    )
    for options, code in (([], 1), (["--agent", "a"], 0), (["--agent", "nobody"], 2)):
        order = [
            sys.executable,
            "-m",
            "deployments.cli",
            "check-agents",
            "--config",
            str(file),
            "--json",
            *options,
        ]
        environ = {"PATH": os.environ["PATH"], "QUARTERDECK_HOME": str(tmp_path)}
        done = await asyncio.to_thread(
            subprocess.run, order, capture_output=True, env=environ, text=True, timeout=60
        )
        assert done.returncode == code, done.stderr
        if code < 2:
            assert [r["ok"] for r in json.loads(done.stdout)] == ([True, False] if code else [True])
