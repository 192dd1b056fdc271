"""The fake Bot API server behaves as the Bot API does, where our programs would notice."""

import asyncio
import json

import httpx
import pytest

from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram, Refusal, parsed


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def call(telegram):
    async with httpx.AsyncClient(base_url=f"{telegram.base}/bot{TOKEN}/", timeout=5) as client:

        async def made(method: str, **body: object) -> dict:
            return (await client.post(method, json=body)).json()

        yield made


async def test_a_bot_knows_itself(call):
    me = (await call("getMe"))["result"]
    assert me["is_bot"] and me["id"] == 7000000001


async def test_updates_are_given_until_they_are_acknowledged(call, telegram):
    first, second = telegram.say("one"), telegram.say("two")
    for _ in range(2):
        assert [u["update_id"] for u in (await call("getUpdates"))["result"]] == [first, second]
    [left] = (await call("getUpdates", offset=second))["result"]
    assert left["message"]["text"] == "two"
    assert (await call("getUpdates", offset=second + 1))["result"] == []


async def test_a_poll_waits_for_the_first_update(call, telegram):
    waiting = asyncio.create_task(call("getUpdates", timeout=5))
    await asyncio.to_thread(telegram.wait_for, lambda: bool(telegram._connections))
    telegram.say("hello")
    assert [u["message"]["text"] for u in (await waiting)["result"]] == ["hello"]


async def test_a_pressed_button_arrives_and_its_message_can_be_edited(call, telegram):
    keyboard = json.dumps({"inline_keyboard": [[{"text": "Yes", "callback_data": "yes"}]]})
    sent = (
        await call("sendMessage", chat_id=CHAT, text="<b>Sure?</b>", parse_mode="HTML", reply_markup=keyboard)
    )["result"]
    assert sent["text"] == "Sure?"
    telegram.press("yes", sent["message_id"])
    [update] = (await call("getUpdates"))["result"]
    query = update["callback_query"]
    assert (query["data"], query["message"]["message_id"]) == ("yes", sent["message_id"])
    assert (await call("answerCallbackQuery", callback_query_id=query["id"]))["result"] is True
    edit = {"chat_id": CHAT, "message_id": sent["message_id"], "text": "Done"}
    assert (await call("editMessageText", **edit))["result"]["text"] == "Done"
    assert "not modified" in (await call("editMessageText", **edit))["description"]


async def test_what_telegram_refuses_is_refused(call, telegram):
    telegram.missing_chats.add("5")
    telegram.blocking_chats.add("6")
    assert (await call("sendMessage", chat_id=5, text="x"))["error_code"] == 400
    assert (await call("sendMessage", chat_id=6, text="x"))["error_code"] == 403
    assert "too long" in (await call("sendMessage", chat_id=1, text="😀" * 2049))["description"]
    assert "empty" in (await call("sendMessage", chat_id=1, text=" "))["description"]
    assert (await call("sendMessage", chat_id=1, text="&lt;" * 4096, parse_mode="HTML"))["ok"]
    assert (await call("sendTelegram"))["error_code"] == 404
    async with httpx.AsyncClient(base_url=telegram.base) as stranger:
        assert (await stranger.post("/bot1:wrong/getMe")).status_code == 401
        assert (await stranger.post("/botwrong/getMe")).status_code == 404


@pytest.mark.parametrize("text", ["<b>x", "x</b>", "<b><i>x</b></i>", "<h1>x</h1>", "1 < 2", "<b", "a <> b"])
def test_broken_html_is_refused(text):
    with pytest.raises(Refusal, match="can't parse entities"):
        parsed(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("<b>a &amp; &lt;b&gt; &#33; &#x21;</b>", "a & <b> ! !"), ('<a href="https://x/?a=1">y</a>', "y")],
)
def test_good_html_is_read(text, shown):
    assert parsed(text) == shown


async def test_faults_come_as_ordered_and_the_port_survives_an_outage(call, telegram):
    telegram.fail("sendMessage", 429, "Too Many Requests: retry after 3", retry_after=3)
    assert (await call("sendMessage", chat_id=1, text="x"))["parameters"] == {"retry_after": 3}
    telegram.drop(worked=True)
    with pytest.raises(httpx.RemoteProtocolError):
        await call("sendMessage", chat_id=1, text="taken")
    assert telegram.texts() == ["taken"]
    port = telegram.port
    telegram.down()
    with pytest.raises(httpx.TransportError):
        await call("getMe")
    telegram.up()
    assert telegram.port == port
    assert (await call("getMe"))["ok"]
