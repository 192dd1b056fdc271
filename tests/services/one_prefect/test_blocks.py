"""A secret on its way: from the form in Prefect's UI to the rooms of the core, encrypted all the way."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet

from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from tasks.connections import copy_blocks
from tests.fakes.agent_ws import FakeAgent
from tests.services.one_prefect.conftest import RunningPrefect

TOKEN = "1234567890:canary-from-the-form"
VALUE = {"bot_token": TOKEN, "chat_id": "-100123", "api_base": "https://api.telegram.org"}


@pytest.fixture
async def form(client_of_prefect: RunningPrefect, api: httpx.AsyncClient) -> AsyncIterator["Form"]:
    """Telegram's form as the UI fills it in, empty."""
    client_of_prefect.must_be_set_up("core", "prefect")
    async with opened(api, "quarterdeck-telegram", VALUE) as made:
        yield made


@asynccontextmanager
async def opened(api: httpx.AsyncClient, slug: str, value: dict[str, str]) -> AsyncIterator["Form"]:
    made = Form(api, (await api.get(f"/block_types/slug/{slug}")).json(), value)
    await made.delete()
    try:
        yield made
    finally:
        await made.delete()


class Form:
    """What the browser sends."""

    def __init__(self, api: httpx.AsyncClient, kind: dict[str, Any], value: dict[str, str]) -> None:
        self.api = api
        self.kind = kind
        self.value = value

    async def schema(self) -> dict[str, Any]:
        wanted = {"block_schemas": {"block_type_id": {"any_": [self.kind["id"]]}}}
        newest: dict[str, Any] = (await self.api.post("/block_schemas/filter", json=wanted)).json()[0]
        return newest

    async def submit(self, block: str = "default", **changes: str | None) -> str:
        schema = await self.schema()
        wanted = {
            "name": block,
            "data": {name: value for name, value in (self.value | changes).items() if value is not None},
            "block_schema_id": schema["id"],
            "block_type_id": self.kind["id"],
        }
        answer = await self.api.post("/block_documents/", json=wanted)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def change(self, document: str, **changes: str) -> None:
        wanted = {"data": changes, "merge_existing_data": True}
        assert (await self.api.patch(f"/block_documents/{document}", json=wanted)).status_code == 204

    async def delete(self) -> None:
        listed = await self.api.get(f"/block_types/slug/{self.kind['slug']}/block_documents")
        for document in listed.json():
            await self.api.delete(f"/block_documents/{document['id']}")


async def test_the_form_shows_its_fields_and_hides_the_token(form: Form) -> None:
    fields = (await form.schema())["fields"]
    in_order = sorted(fields["properties"], key=lambda name: fields["properties"][name]["position"])
    assert in_order == ["bot_token", "chat_id", "api_base"]
    assert fields["required"] == ["bot_token", "chat_id"]
    assert fields["secret_fields"] == ["bot_token"]
    assert all(field["description"] and field["title"] for field in fields["properties"].values())
    assert "@BotFather" in form.kind["description"]
    assert "TelegramBot(" in form.kind["code_example"]


async def test_an_incomplete_block_is_left_out_until_it_is_mended(form: Form, house: House) -> None:
    document = await form.submit(bot_token=None)
    assert await copy_blocks(house) == []
    await form.change(document, bot_token=TOKEN, chat_id="-4711")
    assert await copy_blocks(house) == ["telegram"]


async def test_what_was_entered_reaches_the_rooms_and_is_sealed_there(form: Form, house: House) -> None:
    await form.submit()
    await copy_blocks(house)
    assert await house.connections.get("telegram") == VALUE
    with psycopg.connect(house.database.url.replace("+psycopg", "")) as connection:
        assert TOKEN not in str(connection.execute("select * from connections, events").fetchall())


async def test_copying_again_copies_nothing_and_a_change_is_noticed(form: Form, house: House) -> None:
    document = await form.submit()
    await copy_blocks(house)
    assert await copy_blocks(house) == []
    await form.change(document, chat_id="-999")
    assert await copy_blocks(house) == ["telegram"]
    found = await house.connections.get("telegram")
    assert found == VALUE | {"chat_id": "-999"}


async def test_the_environment_does_not_overrule_a_block(form: Form, house: House) -> None:
    await form.submit()
    await copy_blocks(house)
    async with house.database.command("fill") as unit:
        other = VALUE | {"bot_token": "1234567890:of-the-environment"}
        assert not await house.connections.put(unit, "telegram", "default", other, Source.ENVIRONMENT)
    assert await house.connections.get("telegram") == VALUE


async def test_a_deleted_block_leaves_the_connection_as_it_was(form: Form, house: House) -> None:
    await form.submit()
    await copy_blocks(house)
    await form.delete()
    assert await copy_blocks(house) == []
    assert await house.connections.get("telegram") == VALUE


async def test_a_block_that_no_key_opens_keeps_neither_others_from_the_rooms_nor_the_desk_from_opening(
    form: Form, prefect: RunningPrefect, house: House, api: httpx.AsyncClient
) -> None:
    await form.submit()
    kind = (await api.get("/block_types/slug/quarterdeck-agent-api")).json()
    lost = await Form(api, kind, {"url": "http://127.0.0.1:9"}).submit()
    sealed = Fernet(Fernet.generate_key()).encrypt(b"{}").decode()
    url = prefect.server.url("prefect").replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update block_document set data = %s where id = %s", (json.dumps(sealed), lost))
        try:
            assert await copy_blocks(house) == ["telegram"]
            opened = prefect.setup("prefect", AGENT_BASE_URL="http://127.0.0.1:9")
        finally:  # Prefect cannot delete what it cannot read
            connection.execute("delete from block_document where id = %s", (lost,))
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert "quarterdeck-agent-api" in opened.stderr and "prefect-blocks" in opened.stderr


async def test_blocks_that_are_off_are_not_looked_at(form: Form, house: House) -> None:
    await form.submit(chat_id="-777")
    house.settings = house.settings.model_copy(update={"blocks": False})
    assert await copy_blocks(house) == []


async def test_an_address_that_was_entered_is_where_agents_behind_websockets_are_asked(
    client_of_prefect: RunningPrefect, api: httpx.AsyncClient, house: House
) -> None:
    client_of_prefect.must_be_set_up("core", "prefect")
    runtime = house.crew.runtime("agent_api")
    async with FakeAgent() as agent, opened(api, "quarterdeck-agent-api", {}) as form:
        fields = (await form.schema())["fields"]
        assert (fields["required"], fields["properties"]["url"]["title"]) == (["url"], "Address")
        await form.submit(url=agent.base("agent_1"))
        await form.submit("lab", url=agent.base("agent_2"))
        assert await copy_blocks(house) == ["agent_api", "agent_api"]
        for parameters, place in (({}, "agent_1"), ({"connection": "lab"}, "agent_2")):
            assert place in await runtime.reach("talker", "", parameters)
        assert [path.split("/")[1] for path in agent.paths] == ["agent_1", "agent_2"]
