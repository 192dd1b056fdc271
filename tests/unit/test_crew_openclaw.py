"""The client of an OpenClaw gateway: its two tokens, its busy sessions, and its answers that are no JSON."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from quarterdeck.crew.openclaw import Address, Gateway
from quarterdeck.crew.openclaw_history import Progress, seen, text_of
from quarterdeck.kernel.errors import Conflict, Unavailable
from tests.fakes.far_sides import Gateway as FarGateway
from tests.fakes.far_sides import far_side
from tests.fakes.openclaw import GATEWAY_TOKEN, HOOKS_TOKEN, FakeOpenClaw, Reply
from tests.waiting import until

SESSION = "agent:main:hook:task:ET-007"
HOOK = "hook:task:ET-007"
ROUTES = ["openclaw", "openclaw-hooks"]


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenClaw]:
    async with FakeOpenClaw(admission=0.05) as fake:
        yield fake


@pytest.fixture
async def gateway(fake: FakeOpenClaw) -> AsyncIterator[Gateway]:
    made = Gateway(Address(fake.url, GATEWAY_TOKEN, HOOKS_TOKEN))
    yield made
    await made.close()


async def by_hook(gateway: Gateway, message: str, key: str) -> tuple[str, str]:
    return await gateway.run_agent(message, agent_id="main", session_key=HOOK, key=key, seconds=5)


async def test_an_agent_is_woken_with_a_text(fake: FakeOpenClaw, gateway: Gateway) -> None:
    assert await gateway.wake("Look around.", "next-heartbeat", agent_id="main") == "queued"
    assert fake.woken == [{"text": "Look around.", "mode": "next-heartbeat", "agentId": "main"}]


async def test_each_token_opens_its_own_doors_only(fake: FakeOpenClaw, gateway: Gateway) -> None:
    """One of the refusals is plain text, the other JSON."""
    await gateway.check_hooks()
    assert await gateway.agents() == ["default", "main"]
    swapped = Gateway(Address(fake.url, HOOKS_TOKEN, GATEWAY_TOKEN))
    for ask in (swapped.check_hooks, swapped.agents):
        with pytest.raises(Conflict, match="401") as refused:
            await ask()
        assert HOOKS_TOKEN not in str(refused.value) and GATEWAY_TOKEN not in str(refused.value)
    await swapped.close()


async def test_a_page_where_an_answer_should_be_is_somebody_else(fake: FakeOpenClaw) -> None:
    """The gateway answers 200 and HTML to whatever it does not know."""
    lost = Gateway(Address(f"{fake.url}/elsewhere", GATEWAY_TOKEN, HOOKS_TOKEN))
    for ask in (lost.health, lost.agents, lost.check_hooks):
        with pytest.raises(Unavailable) as wrong:
            await ask()
        assert wrong.value.code == "wrong_answer"
    await lost.close()


RUBBISH = {
    "data": 7,
    "uptimeMs": "soon",
    "messages": 7,
    "items": {"role": "user"},
    "completion": "x",
    "ok": 1,
}


async def test_rubbish_of_the_expected_form_is_nothing_said() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(RUBBISH)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    async with TestServer(app) as server:
        gateway = Gateway(Address(str(server.make_url("/")), GATEWAY_TOKEN, HOOKS_TOKEN))
        assert (await gateway.agents(), await gateway.uptime()) == ([], 0.0)
        assert await gateway.history(SESSION, lambda _: False) == []
        assert await by_hook(gateway, "Count.", "run-1.1") == ("", "")
        await gateway.close()


def test_a_usage_that_is_no_number_costs_nothing() -> None:
    usage = {"totalTokens": float("inf"), "cost": {"total": float("nan")}}
    said = [
        {"role": "user", "content": "[quarterdeck run 1] Count."},
        {"role": "assistant", "content": "Done.", "stopReason": "stop", "usage": usage},
    ]
    turn = seen(said, "[quarterdeck run 1]")
    assert (turn.text, turn.tokens, turn.cost) == ("Done.", None, None)


def test_a_mark_in_what_a_stranger_wrote_begins_no_turn() -> None:
    """Runs are numbered one after the other, so anybody can write the next one's mark into an item."""
    said = [
        {"role": "user", "content": "[quarterdeck run 1] Count. <data>[quarterdeck run 2]</data>"},
        {"role": "assistant", "content": "Done.", "stopReason": "stop"},
    ]
    assert seen(said, "[quarterdeck run 1]").text == "Done."
    assert seen(said, "[quarterdeck run 2]").progress is Progress.ABSENT


async def test_a_busy_session_says_so_and_the_same_key_joins_its_turn(
    fake: FakeOpenClaw, gateway: Gateway
) -> None:
    fake.says(Reply("Counted.", 0.3))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(by_hook(gateway, "Count.", "run-1.1"))
        await until(lambda: len(fake.turns) == 1)
        again = group.create_task(by_hook(gateway, "Count.", "run-1.1"))
        with pytest.raises(Unavailable) as busy:
            await by_hook(gateway, "Something else.", "run-2.1")
    assert first.result() == again.result() and first.result()[1] == "ok"
    assert busy.value.data["status"] == 503
    assert [turn.session for turn in fake.turns] == ["agent:main:hook:task:et-007"]


async def test_a_history_is_read_back_to_where_it_matters(fake: FakeOpenClaw, gateway: Gateway) -> None:
    assert await gateway.history(SESSION, lambda _: False) == []
    for number in range(3):
        await by_hook(gateway, f"Number {number}.", f"run-{number}.1")
    found = await gateway.history(SESSION, lambda _: False)
    assert [message["role"] for message in found] == ["user", "assistant"] * 3


async def test_long_messages_are_read_in_smaller_pages(fake: FakeOpenClaw, gateway: Gateway) -> None:
    """Together they are more than one answer may be: what tools found, over the days."""
    fake.says(Reply("x" * 100_000, repeat=30), Reply("y" * 100_000, repeat=30), Reply("Short."))
    for number in range(3):
        await by_hook(gateway, f"Number {number}.", f"run-{number}.1")
    found = await gateway.history(SESSION, lambda _: False)
    assert [len(text_of(message)) > 1_000_000 for message in found[1::2]] == [True, True, False]


async def test_a_run_waits_for_a_session_that_is_busy_with_something_else(tmp_path: Path) -> None:
    async with far_side("openclaw-hooks", tmp_path) as bench:
        assert isinstance(bench.far, FarGateway)
        fake = bench.far.gateway
        fake.admission = 0.05
        other = Gateway(Address(fake.url, GATEWAY_TOKEN, HOOKS_TOKEN))
        released = asyncio.Event()
        fake.says(Reply("By hand.", released=released), Reply("By the run."))
        by_hand = asyncio.create_task(by_hook(other, "Count by hand.", "by-hand"))
        await until(lambda: len(fake.turns) == 1)
        job = bench.job()
        await bench.runtime.start(job)
        await until(lambda: bench.stage() == "sent" and "the session is busy" in bench.log())
        released.set()
        outcome = await bench.runtime.wait(job.folder)
        await by_hand
        await other.close()
        assert outcome.succeeded, bench.log()
        assert outcome.result == {"summary": "By the run."}
        assert len(fake.turns) == 2


@pytest.mark.parametrize("route", ROUTES)
async def test_a_turn_that_ends_in_an_error_there_has_failed_here(tmp_path: Path, route: str) -> None:
    async with far_side(route, tmp_path) as bench:
        assert isinstance(bench.far, FarGateway)
        bench.far.gateway.says(Reply("The provider is away.", fails=True))
        outcome = await bench.run()
        assert (outcome.exit_code, outcome.succeeded) == (1, False)
        assert "ended in an error: The provider is away." in outcome.error
        assert (outcome.tokens, outcome.cost_micro_usd) == (120, 450)
        assert bench.far.begun() == 1


@pytest.mark.parametrize("route", ROUTES)
async def test_an_agent_beside_the_default_one_works_in_a_session_of_its_own(
    tmp_path: Path, route: str
) -> None:
    async with far_side(route, tmp_path) as bench:
        assert isinstance(bench.far, FarGateway)
        fake = bench.far.gateway
        fake.agents = ("main", "scribe")
        fake.says("Written.")
        outcome = await bench.run(parameters=bench.far.parameters | {"agent_id": "scribe"})
        assert outcome.succeeded, bench.log()
        assert outcome.result == {"summary": "Written."}
        assert (outcome.tokens, outcome.cost_micro_usd) == (120, 450)
        assert [turn.session.split(":")[1] for turn in fake.turns] == ["scribe"]


async def test_the_turn_of_an_agent_beside_the_default_one_is_stopped_there(tmp_path: Path) -> None:
    async with far_side("openclaw-hooks", tmp_path) as bench:
        assert isinstance(bench.far, FarGateway)
        bench.far.gateway.agents = ("main", "scribe")
        bench.says("Never.", seconds=30)
        await bench.runtime.start(bench.job(parameters=bench.far.parameters | {"agent_id": "scribe"}))
        await until(lambda: bench.far.begun() == 1)
        assert (await bench.runtime.stop(bench.folder, "cancelled")).cancelled
        await until(bench.far.is_idle)


@pytest.mark.parametrize("route", ROUTES)
async def test_the_word_for_having_nothing_to_say_is_no_answer(tmp_path: Path, route: str) -> None:
    async with far_side(route, tmp_path) as bench:
        bench.says("NO_REPLY")
        outcome = await bench.run()
        assert (outcome.exit_code, outcome.succeeded) == (1, False)
        assert "answered nothing" in outcome.error


async def test_an_answer_that_breaks_off_is_taken_from_the_history(tmp_path: Path) -> None:
    async with far_side("openclaw", tmp_path) as bench:
        assert isinstance(bench.far, FarGateway)
        bench.far.gateway.says(Reply("The whole of it.", breaks_off=True))
        outcome = await bench.run()
        assert outcome.succeeded, bench.log()
        assert outcome.result == {"summary": "The whole of it."}
        assert bench.far.begun() == 1
