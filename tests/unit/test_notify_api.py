"""The notify room's HTTP routes."""

import httpx
import pytest
from fastapi import FastAPI

import quarterdeck.notify.api
from quarterdeck.kernel.web import furnish
from tests.fakes.doors import Porter
from tests.fakes.notifying import NotifyRoom, telegram_connection
from tests.fakes.telegram import CHAT, FakeTelegram


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = NotifyRoom(database, tmp_path, telegram.base)
    await made.connect(telegram_connection(telegram))
    return made


@pytest.fixture
async def client(room):
    app = FastAPI(redirect_slashes=False)
    app.state.notify = room.notify
    app.state.crew = Porter()
    app.include_router(quarterdeck.notify.api.router, prefix="/api/v1")
    furnish(app)
    headers = {"Authorization": "Bearer annas-token"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://desk/api/v1", headers=headers) as made:
        yield made


async def test_dead_letters_are_listed_with_their_reason_and_sent_again(room, client, telegram):
    telegram.missing_chats.add(str(CHAT))
    await room.tell("lost")
    async with room.listening():
        await room.deliver_all()
    telegram.missing_chats.clear()
    [letter] = (await client.get("/dead-letters")).json()["items"]
    assert "chat not found" in letter["reason"]
    assert (letter["item_key"], letter["state"], letter["text"]) == (
        "ET-007",
        "dead",
        "🔴 ET-007: ERROR — lost",
    )
    answer = await client.post(f"/dead-letters/{letter['id']}/resend")
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    async with room.listening():
        await room.deliver_all()
    assert telegram.texts() == ["🔴 ET-007: ERROR — lost"]
    assert (await client.get("/dead-letters")).json() == {"items": [], "next_cursor": None}


async def test_a_dead_letter_is_dismissed(room, client, telegram):
    telegram.missing_chats.add(str(CHAT))
    await room.tell("lost")
    async with room.listening():
        await room.deliver_all()
    [letter] = (await client.get("/dead-letters")).json()["items"]
    answer = await client.post(f"/dead-letters/{letter['id']}/dismiss")
    assert (answer.status_code, answer.json()["state"]) == (200, "dismissed")
    assert (await client.get("/dead-letters")).json()["items"] == []
    assert (await room.events("letter_dismissed"))[0].data["by"] == "anna"
    assert (await client.post(f"/dead-letters/{letter['id'] + 1}/dismiss")).status_code == 404


async def test_a_repeated_request_sends_nothing_again(room, client, telegram):
    telegram.missing_chats.add(str(CHAT))
    await room.tell("lost")
    key = {"Idempotency-Key": "once"}
    answers = []
    for _ in range(2):
        async with room.listening():
            await room.deliver_all()
        [letter] = (await client.get("/dead-letters")).json()["items"]
        answers.append(await client.post(f"/dead-letters/{letter['id']}/resend", headers=key))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert len((await client.get("/dead-letters")).json()["items"]) == 1, "it died once more, and stays dead"


async def test_what_is_not_dead_is_not_sent_again(room, client):
    await room.tell("waiting")
    [message] = await room.outbox()
    answer = await client.post(f"/dead-letters/{message.id}/resend")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_dead")
    assert (await client.post(f"/dead-letters/{message.id + 1}/resend")).status_code == 404


async def test_messages_are_listed_by_item_and_page_by_page(room, client):
    await room.tell(*range(5))
    await room.tell("other", item="ET-008")
    first = (await client.get("/outbox", params={"item": "ET-007", "limit": 3})).json()
    rest = (
        await client.get("/outbox", params={"item": "ET-007", "limit": 3, "cursor": first["next_cursor"]})
    ).json()
    texts = [letter["text"][-1] for page in (first, rest) for letter in page["items"]]
    assert texts == ["4", "3", "2", "1", "0"]
    assert rest["next_cursor"] is None
    assert len((await client.get("/outbox")).json()["items"]) == 6


@pytest.mark.parametrize("cursor", ["nonsense", "WyJ4Il0", "WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXQ"])
async def test_a_cursor_that_was_not_given_out_is_refused(client, cursor):
    answer = await client.get("/outbox", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cursor")


async def test_a_test_message_is_sent_at_once(room, client, telegram):
    async with room.listening():
        answer = await client.post("/notify/test", json={"channel": "telegram"})
    assert answer.json() == {"channel": "telegram", "ok": True, "detail": "The test message arrived."}
    assert len(telegram.texts()) == 1
    unknown = await client.post("/notify/test", json={"channel": "pigeon"})
    assert (unknown.status_code, unknown.json()["instruction"]) == (404, "There is: log, telegram.")


async def test_whoever_may_only_look_sends_nothing(client, telegram):
    headers = {"Authorization": "Bearer viktors-token"}
    assert (await client.get("/dead-letters", headers=headers)).status_code == 200
    for verb in ("resend", "dismiss"):
        assert (await client.post(f"/dead-letters/1/{verb}", headers=headers)).status_code == 403
    refused = await client.post("/notify/test", json={"channel": "telegram"}, headers=headers)
    assert refused.status_code == 403
    assert telegram.calls == []
