"""What goes wrong between a bot and Telegram, and what becomes of the bot, its messages and the others."""

import asyncio
import json

import httpx
import pytest

from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.errors import Conflict, NotFound, QuarterdeckError, Unavailable
from quarterdeck.telegram import store
from quarterdeck.telegram.forwarding import Forwarder
from quarterdeck.telegram.model import DESK
from quarterdeck.telegram.wire import Send, SendState
from tests.fakes.telegram import CHAT, GROUP, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, at_once, errors, running
from tests.waiting import until

NEW = "7000000001:CCFakeTokenForTestsOnly-0123456789abc"
OTHER = "7000000002:BBFakeTokenForTestsOnly-0123456789abc"
CONFLICT = "Conflict: terminated by other getUpdates request"


@pytest.fixture
def telegram():
    with FakeTelegram(TOKEN, OTHER) as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = TelegramRoom(database, tmp_path, telegram.base)
    await made.bots.register("analyst", TOKEN)
    return made


async def test_a_new_token_replaces_the_old_poller_and_what_waits_is_sent_with_it(room, telegram):
    heard = Heard()
    gateway = room.gateway()
    gateway.add("test", heard)
    async with running(gateway):
        await until(lambda: telegram.is_polled(TOKEN))
        telegram.add_bot(NEW)
        await room.bots.register("analyst", NEW)
        await until(lambda: telegram.is_polled(NEW) and not telegram.is_polled(TOKEN))
        polled = len([call for call in telegram.calls if call.token == TOKEN])
        receipt = await room.sends.put(Send("analyst", CHAT, "Hello"))
        telegram.say("one", token=NEW)
        await until(lambda: heard.texts == ["one"])
        assert (await room.sends.wait(receipt.id, 10)).state is SendState.SENT
        assert len([call for call in telegram.calls if call.token == TOKEN]) == polled
    assert [call.token for call in telegram.sent()] == [NEW]


async def test_a_bot_that_hangs_while_it_is_let_go_costs_nobody_the_lease(room, telegram):
    await room.bots.register("developer", OTHER)
    telegram.hang("sendMessage", token=TOKEN)
    gateway = room.gateway()
    async with running(gateway):
        await until(lambda: len(gateway.agents) == 2)
        await room.sends.put(Send("analyst", CHAT, "never answered"))
        await until(lambda: any(call.method == "sendMessage" for call in telegram.calls))
        await room.bots.forget("analyst")
        await until(lambda: gateway.agents == ["developer"])
        before = (await leases(room))["developer"]
        await room.bots.register("developer", OTHER, name="rings the bell")
        async with asyncio.timeout(8):  # the request still hangs, and the others are looked after
            while (await leases(room))["developer"] <= before:
                await asyncio.sleep(0.02)
        telegram.down()  # ends what hangs
        telegram.up()


async def leases(room: TelegramRoom):
    async with room.database.read() as session:
        return {row.agent_id: row.leased_until for row in await store.bots(session)}


async def test_a_bot_that_is_polled_elsewhere_is_told_once_and_goes_on_when_that_is_over(room, telegram):
    telegram.fail("getUpdates", 409, CONFLICT, times=5)
    heard = Heard()
    gateway = room.gateway(sleep=at_once)
    gateway.add("test", heard)
    async with running(gateway):
        telegram.say("one")
        await until(lambda: heard.texts == ["one"])
        async with asyncio.timeout(20):
            while (await room.bots.show("analyst")).trouble:
                await asyncio.sleep(0.02)
    (told,) = await errors(room)
    assert "Somebody else receives the updates" in told
    assert TOKEN not in told


async def test_a_trouble_that_another_listener_noted_is_over_when_the_bot_polls_and_is_told_when_it_returns(
    room, telegram
):
    async def troubled(is_so: bool) -> None:
        async with asyncio.timeout(15):
            while bool((await room.bots.show("analyst")).trouble) is not is_so:
                await asyncio.sleep(0.01)

    telegram.fail("getUpdates", 409, CONFLICT, times=1_000_000)
    async with running(room.gateway(sleep=at_once)):
        await troubled(True)
    telegram.calm()
    telegram.say("one")  # so that the next poll ends
    async with running(room.gateway(sleep=at_once)):
        await troubled(False)
        telegram.fail("getUpdates", 409, CONFLICT, times=1_000_000)
        telegram.say("two")
        await troubled(True)
    assert len(await errors(room)) == 2


async def test_what_nobody_was_told_is_told_also_when_the_database_fails_as_the_bot_is_taken(
    room, telegram, monkeypatch
):
    async def failing(*asked):
        monkeypatch.undo()
        raise Unavailable("The database does not answer.")

    heard = Heard()
    for is_heard in (True, False):
        gateway = room.gateway()
        if is_heard:
            gateway.add("test", heard)  # so that its place is known
        async with running(gateway):
            await until(telegram.is_polled)
            if not is_heard:
                telegram.say("one")
                await until(lambda: telegram.unread() == 0)
    assert heard.texts == []
    monkeypatch.setattr(store, "chats_to_tell", failing)
    gateway = room.gateway()
    gateway.add("test", heard)
    async with running(gateway):
        await until(lambda: heard.texts == ["one"])


async def test_a_webhook_that_is_set_is_taken_away_and_no_update_with_it(room, telegram):
    telegram.state.bots[TOKEN].webhook = "https://example.org/hook"
    heard = Heard()
    gateway = room.gateway(sleep=at_once)
    gateway.add("test", heard)
    telegram.say("one")
    async with running(gateway):
        await until(lambda: heard.texts == ["one"])


async def test_any_method_can_be_called_and_every_refusal_is_an_error_of_ours(room, telegram):
    gateway = room.gateway()
    async with running(gateway):
        await until(lambda: gateway.agents == ["analyst"])
        telegram.migrate(-77, GROUP)
        assert (await gateway.call("analyst", "getMe"))["id"] == 7000000001
        assert (await gateway.call("analyst", "sendMessage", chat_id=-77, text="x"))["chat"]["id"] == GROUP
        telegram.fail("getChat", 429, "Too Many Requests: retry after 9", retry_after=9)
        cases = [
            ("analyst", "getChat", {"chat_id": CHAT}, Unavailable, "too_many_requests"),
            ("analyst", "getFile", {"file_id": "x"}, Conflict, "telegram_refused"),
            ("analyst", "sendSomethingNew", {}, Conflict, "method_missing"),
            ("analyst", "sendSomethingNew", {}, Conflict, "method_missing"),
            ("developer", "getMe", {}, NotFound, "unknown_served_bot"),
        ]
        for agent, method, fields, kind, code in cases:
            with pytest.raises(QuarterdeckError) as refused:
                await gateway.call(agent, method, **fields)
            assert (type(refused.value), refused.value.code) == (kind, code)
            assert TOKEN not in str(refused.value)
    asked = [call for call in telegram.calls if call.method == "sendSomethingNew"]
    assert len(asked) == 1  # what a server does not know it is asked once


async def test_a_bot_is_signed_out_before_another_server_serves_it(room, telegram):
    await room.bots.sign_out("analyst", "logOut")
    assert telegram.done("logOut", token=TOKEN)
    telegram.fail("close", 429, "Too Many Requests: retry after 540", retry_after=540)
    with pytest.raises(QuarterdeckError) as refused:
        await room.bots.sign_out("analyst", "close")
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("said", [{}, {"api_base": ""}, {"api_base": "https://api.telegram.org/"}])
async def test_the_bot_of_a_connection_follows_the_setting_unless_it_has_an_address_of_its_own(
    room, telegram, said
):
    await room.bots.forget("analyst")
    async with room.database.command("connect") as unit:
        await room.connections.put(unit, "telegram", "default", {"bot_token": TOKEN} | said, Source.API)
    await room.bots.adopt_connections()
    assert await room.bots.token(DESK) == (TOKEN, telegram.base)
    assert await room.bots.sign_out(DESK, "logOut") == "TELEGRAM_API_BASE"
    own = {"bot_token": TOKEN, "api_base": telegram.base}
    async with room.database.command("connect") as unit:
        await room.connections.put(unit, "telegram", "default", own, Source.API)
    assert await room.bots.sign_out(DESK, "close") == "telegram/default"


async def test_updates_are_forwarded_in_order_until_the_other_side_takes_them(room, telegram):
    taken: list[tuple[str, str]] = []
    answers = iter([503, 500])

    def other_side(request: httpx.Request) -> httpx.Response:
        status = next(answers, 200)
        if status == 200:
            taken.append((request.headers["Idempotency-Key"], json.loads(request.content)["text"]))
        return httpx.Response(status)

    forwarder = Forwarder("http://router:9102/", transport=httpx.MockTransport(other_side))
    gateway = room.gateway(sleep=at_once)
    gateway.add("router", forwarder)
    async with running(gateway):
        await until(lambda: gateway.agents == ["analyst"])
        for text in ("one", "two"):
            telegram.say(text)
        await until(lambda: len(taken) == 2)
    await forwarder.close()
    assert taken == [("bot:7000000001:1", "one"), ("bot:7000000001:2", "two")]
