"""The gateway over HTTP."""

import httpx
import pytest
from fastapi import FastAPI

import quarterdeck.telegram.api
from quarterdeck.kernel.web import furnish
from quarterdeck.telegram.requests import Asked
from tests.fakes.doors import Porter
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import Heard, TelegramRoom, running
from tests.waiting import until

OWNER = {"Authorization": "Bearer owners-token"}
WRONG = "7000000009:ZZFakeTokenForTestsOnly-0123456789abc"


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
def room(database, telegram, tmp_path):
    return TelegramRoom(database, tmp_path, telegram.base)


@pytest.fixture
async def client(room):
    app = FastAPI(redirect_slashes=False)
    app.state.bots, app.state.sends = room.bots, room.sends
    app.state.asked = Asked(room.sends, (room.folder / "files",), patience=3)
    app.state.crew = Porter()
    app.include_router(quarterdeck.telegram.api.open_doors)
    app.include_router(quarterdeck.telegram.api.router)
    furnish(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk") as made:
        yield made


async def test_all_but_healthz_needs_a_token(client):
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    for method, path in (
        ("GET", "/bots"),
        ("POST", "/bots/register"),
        ("POST", "/send"),
        ("DELETE", "/bots/a"),
    ):
        assert (await client.request(method, path, json={})).status_code == 401


async def test_a_bot_is_registered_speaks_and_is_forgotten(client, room, telegram):
    client.headers.update(OWNER)
    said = {"agent_id": "analyst", "bot_token": TOKEN}
    registered = await client.post("/bots/register", json=said)
    assert registered.json() == {
        "status": "registered",
        "bot_id": "bot:7000000001",
        "username": (await client.get("/bots")).json()[0]["username"],
    }
    async with running(room.gateway()):
        sent = await client.post("/send", json={"agent_id": "analyst", "chat_id": CHAT, "text": "Hello"})
    assert (sent.status_code, sent.json()["status"], len(sent.json()["message_ids"])) == (200, "sent", 1)
    assert telegram.texts() == ["Hello"]
    assert TOKEN not in (await client.get("/bots")).text
    assert (await client.delete("/bots/analyst")).json() == {"status": "forgotten"}


async def test_the_status_of_a_bot_is_when_it_last_routed_a_message_not_that_it_is_connected(
    client, room, telegram
):
    client.headers.update(OWNER)
    told = {"agent_id": "analyst", "bot_token": TOKEN, "allowed_chat_ids": [CHAT]}
    await client.post("/bots/register", json=told)

    async def known() -> dict:
        [bot] = (await client.get("/bots")).json()
        return bot

    telegram.say("Is anybody here?", chat=CHAT + 1)
    async with running(room.gateway()):
        await until(lambda: telegram.unread() == 0)
    bot = await known()
    assert bot["last_poll"]
    assert (bot["status"], bot["last_inbound_routed"]) == ("never routed", None)
    telegram.say("Good morning")
    heard, listening = Heard(), room.gateway()
    listening.add("test", heard)
    async with running(listening):
        await until(lambda: heard.texts == ["Good morning"])
    assert (await known())["status"].startswith("routed 20")


async def test_while_nobody_listens_a_message_waits_under_its_id(client, room):
    client.headers.update(OWNER)
    await room.bots.register("analyst", TOKEN)
    client._transport.app.state.asked._patience = 0.05
    waits = await client.post("/send", json={"agent_id": "analyst", "chat_id": CHAT, "text": "Hello"})
    assert (waits.status_code, waits.json()["status"]) == (202, "queued")
    assert (await client.get(f"/send/{waits.json()['id']}")).json()["status"] == "queued"
    assert (await client.get("/bots")).json()[0]["queue_length"] == 1


async def test_errors_are_clear_and_hold_no_token(client, room):
    client.headers.update(OWNER)
    unknown = await client.post("/send", json={"agent_id": "nobody", "chat_id": 1, "text": "Hello"})
    assert (unknown.status_code, unknown.json()["code"]) == (400, "unknown_agent")
    wrong = await client.post("/bots/register", json={"agent_id": "analyst", "bot_token": WRONG})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "token_refused")
    await room.bots.register("analyst", TOKEN)
    taken = await client.post("/bots/register", json={"agent_id": "developer", "bot_token": TOKEN})
    assert (taken.status_code, taken.json()["code"]) == (409, "bot_taken")
    assert not any(token in answer.text for token in (TOKEN, WRONG) for answer in (wrong, taken))


@pytest.mark.parametrize("path", ["/etc/passwd", "../keys/master-0001.key", "files/../keys/master-0001.key"])
async def test_a_file_from_elsewhere_is_not_sent(client, room, path):
    client.headers.update(OWNER)
    await room.bots.register("analyst", TOKEN)
    said = {"agent_id": "analyst", "chat_id": CHAT, "attachments": [{"path": str(room.folder / path)}]}
    assert (await client.post("/send", json=said)).status_code == 422
