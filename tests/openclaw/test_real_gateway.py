"""A real agent turn: our run, the real gateway, our real router, and a provider that is a fake.

make test-openclaw
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.openclaw import Address, Gateway
from quarterdeck.crew.openclaw_history import text_of
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.crew.waking import Wake
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.identity import owner
from quarterdeck.pipeline.assignments import Wish
from tests.fakes.company import company
from tests.fakes.provider import FakeProvider
from tests.fakes.router_process import RouterProcess
from tests.openclaw.gateway import HOOKS_TOKEN, TOKEN, Crew, RealGateway, chain

pytestmark = pytest.mark.timeout(400)

SILENCE = 20.0
"""Seconds; the gateway refuses another question of a session that is at work after fifteen."""


@dataclass
class Scene:
    house: House
    gateway: RealGateway
    router: RouterProcess
    provider: FakeProvider


@pytest.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncIterator[Scene]:
    scribe = tmp_path / "scribes-own"
    scribe.mkdir()
    async with (
        company(tmp_path / "home", database_url) as house,
        chain(tmp_path, database_url, crew=Crew({"scribe": scribe})) as real,
    ):
        await _connect(house, real.gateway)
        yield Scene(house, real.gateway, real.router, real.provider)


async def _connect(house: House, gateway: RealGateway) -> None:
    async with house.database.command("connect") as unit:
        await house.connections.put(unit, "openclaw", "default", gateway.connection, Source.API)
    await house.board.create_project(owner("test"), ProjectDraft(key="ET", name="Enduro"), "")
    await house.board.file(owner("test"), Draft(project="ET", title="Count the laps"), "")
    for route in ("chat", "hooks"):
        for name, more in (("claw", {}), ("scribe", {"agent_id": "scribe"})):
            parameters = {"route": route} | more
            entry = AgentEntry(slug=f"{name}-{route}", runtime="openclaw", parameters=parameters)
            await house.crew.create_agent(owner("test"), entry)


async def assigned(scene: Scene, agent: str, limit: float = 180) -> AgentRun:
    wish = Wish(agent, "ET-001", "Say what you see.", timedelta(seconds=limit))
    run = await scene.house.assignments.assign(owner("test"), wish)
    await scene.house.assignments.see_through()
    return run


async def ended(scene: Scene, run: AgentRun) -> AgentRun:
    assert run.id is not None
    async with asyncio.timeout(300):
        while (now := await scene.house.crew.run(run.id)).state is not RunState.ENDED:
            await asyncio.sleep(0.2)
    return now


def said(scene: Scene, run: AgentRun) -> str:
    return (scene.house.crew.folder_of(run) / "agent.log").read_text("utf-8")


async def test_assign_a_real_turn_and_its_result_tokens_and_cost(scene: Scene) -> None:
    run = await ended(scene, await assigned(scene, "claw-chat"))
    assert run.exit_code == 0, said(scene, run)
    assert run.result and run.result["summary"]
    assert run.tokens and run.cost_micro_usd
    calls = (await scene.router.admin("GET", "/calls", params={"agent": "openclaw"})).json()
    assert calls, "the turn's model call went through our router"
    by_hook = await ended(scene, await assigned(scene, "claw-hooks"))
    assert by_hook.exit_code == 0, said(scene, by_hook)
    assert by_hook.result and by_hook.result["summary"] and by_hook.tokens
    print(run.tokens, run.cost_micro_usd, by_hook.tokens, run.result["summary"][:80])


@pytest.mark.parametrize("route", ["chat", "hooks"])
async def test_an_agent_beside_the_default_one_works_itself_and_its_words_are_found(
    scene: Scene, route: str
) -> None:
    run = await ended(scene, await assigned(scene, f"scribe-{route}"))
    calls = [str(call.body["messages"]) for call in scene.provider.to("native-gpt")]
    assert any(f"[quarterdeck run {run.id}]" in call and "scribes-own" in call for call in calls)
    assert run.exit_code == 0, said(scene, run)
    assert run.result and run.result["summary"] and run.tokens and run.cost_micro_usd


async def test_a_turn_that_is_stopped_is_stopped_there(scene: Scene) -> None:
    for agent in ("claw-chat", "claw-hooks"):
        release = scene.provider.hold("native-gpt", after=3)
        before = len(scene.provider.to("native-gpt"))
        run = await assigned(scene, agent)
        await _a_call_after(scene, before)
        assert await scene.house.crew.stop(run, "cancelled")
        request = scene.provider.to("native-gpt")[before]
        async with asyncio.timeout(20):
            await request.over.wait()
        release.set()
        assert (await ended(scene, run)).cancelled


async def _a_call_after(scene: Scene, before: int) -> None:
    await scene.provider.until(lambda: len(scene.provider.to("native-gpt")) > before, 60)


async def test_a_gateway_that_is_killed_in_a_turn_answers_after_its_restart(scene: Scene) -> None:
    release = scene.provider.hold("native-gpt", after=3)
    run = await assigned(scene, "claw-chat")
    await scene.provider.until(lambda: bool(scene.provider.to("native-gpt")), 60)
    await scene.gateway.kill()
    release.set()
    await scene.gateway.start()
    done = await ended(scene, run)
    assert done.exit_code == 0, said(scene, run)
    assert done.result and done.result["summary"]
    print(said(scene, run))


async def test_a_turn_by_hook_whose_client_is_killed_is_joined_and_not_begun_twice(scene: Scene) -> None:
    release = scene.provider.hold("native-gpt", after=3)
    run = await assigned(scene, "claw-hooks")
    await scene.provider.until(lambda: bool(scene.provider.to("native-gpt")), 60)
    started = json.loads((scene.house.crew.folder_of(run) / "started.json").read_text())
    os.kill(int(started["pid"]), signal.SIGKILL)
    async with asyncio.timeout(60):
        while "no answer after" not in said(scene, run):
            await asyncio.sleep(0.2)
    await asyncio.sleep(SILENCE)
    release.set()
    done = await ended(scene, run)
    assert done.exit_code == 0, said(scene, run)
    assert done.result and done.result["summary"]
    assert await _questions(scene, run) == 1, said(scene, run)


async def _questions(scene: Scene, run: AgentRun) -> int:
    """How often the gateway was asked for this run, as its session's history tells."""
    gateway = Gateway(Address(scene.gateway.url, TOKEN, HOOKS_TOKEN))
    try:
        messages = await gateway.history("agent:main:hook:task:ET-001", lambda _: False)
    finally:
        await gateway.close()
    asked = [text_of(message) for message in messages if message["role"] == "user"]
    return sum(f"[quarterdeck run {run.id}]" in text for text in asked)


async def test_an_agent_that_is_woken_calls_its_model_with_what_it_was_told(scene: Scene) -> None:
    woken = await scene.house.crew.wake(owner("test"), "claw-hooks", Wake(text="Look at the laps."))
    assert woken.outcome in ("queued", "coalesced")
    await scene.provider.until(lambda: bool(scene.provider.to("native-gpt")), 60)
    [call, *_] = scene.provider.to("native-gpt")
    assert "Look at the laps." in str(call.body["messages"])


async def test_the_two_tokens_are_two_secrets(scene: Scene) -> None:
    gateway = Gateway(Address(scene.gateway.url, TOKEN, HOOKS_TOKEN))
    swapped = Gateway(Address(scene.gateway.url, HOOKS_TOKEN, TOKEN))
    try:
        await gateway.health()
        assert "main" in await gateway.agents()
        await gateway.check_hooks()
        for check in (swapped.agents, swapped.check_hooks):
            with pytest.raises(Conflict) as refused:
                await check()
            assert refused.value.data["status"] == 401
    finally:
        await gateway.close()
        await swapped.close()
