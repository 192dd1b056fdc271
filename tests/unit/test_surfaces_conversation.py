"""A conversation from end to end: Bot API server, gateway, surface, model runtime, router, provider."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.crew.roster import Roster
from quarterdeck.house import House, open_house
from quarterdeck.kernel.settings import Settings
from quarterdeck.listener import opened_gateway
from quarterdeck.telegram.model import DESK
from tests.fakes.company import NOBODY
from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import Served, backend
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram, parsed
from tests.fakes.telegram_gateway import running, until

ANNA = 42
ANSWER = "**Aye**, captain: " + "all hands are on deck. " * 400 + "`1 < 2`"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as made:
        made.offer("native-gpt", text=ANSWER)
        yield made


@pytest.fixture
async def router(provider: FakeProvider) -> AsyncIterator[Served]:
    async with Served([backend(provider, "gpt")]) as made:
        yield made


@pytest.fixture
async def house(
    router: Served, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[House, FakeTelegram]]:
    with FakeTelegram(TOKEN) as telegram:
        monkeypatch.setenv("TELEGRAM_API_BASE", telegram.base)
        settings = Settings(
            home=tmp_path,
            database_url=database_url,  # type: ignore[arg-type]
            prefect_port=NOBODY,
            router_url=router.url,
            blocks=False,
            language="en",
        )
        async with open_house(settings) as opened:
            agents = [{"slug": "helm", "runtime": "model", "model": "gpt", "system_prompt": "You steer."}]
            people = [{"slug": "anna", "handles": {"telegram": str(ANNA)}}]
            await opened.crew.import_roster(Roster.model_validate({"agents": agents, "people": people}), {})
            yield opened, telegram


async def test_a_conversation_goes_from_telegram_to_a_model_and_back(
    house: tuple[House, FakeTelegram], provider: FakeProvider
) -> None:
    desk, telegram = house
    async with opened_gateway(desk) as gateway, running(gateway):
        await desk.bots.register(DESK, TOKEN)
        telegram.say("How do we stand?", user=ANNA, chat=CHAT)
        await until(lambda: len(telegram.texts(str(CHAT))) >= 3)
        telegram.say("And now?", user=ANNA, chat=CHAT)
        await until(lambda: len(provider.to("native-gpt")) == 2 and len(telegram.texts(str(CHAT))) >= 6)
    said = [parsed(text) for text in telegram.texts(str(CHAT))]
    first = "".join(said[:3])
    assert first.startswith("Aye, captain: all hands are on deck.") and first.endswith("1 < 2")
    assert first.count("all hands") == 400 and all(len(text) <= 4096 for text in said)
    one, two = (call.body for call in provider.to("native-gpt"))
    assert one["stream"] is True and one["messages"][0]["content"].startswith("You steer.")
    assert [message["content"] for message in two["messages"][1:]] == ["How do we stand?", ANSWER, "And now?"]


async def test_what_the_listener_left_unanswered_is_answered_by_the_next_one_once(
    house: tuple[House, FakeTelegram], provider: FakeProvider
) -> None:
    desk, telegram = house
    held = provider.hold("native-gpt")
    async with opened_gateway(desk) as gateway, running(gateway):
        await desk.bots.register(DESK, TOKEN)
        telegram.say("How do we stand?", user=ANNA, chat=CHAT)
        await until(lambda: len(provider.to("native-gpt")) == 1)
    assert telegram.texts(str(CHAT)) == []
    held.set()
    async with opened_gateway(desk) as gateway, running(gateway):
        await until(lambda: len(telegram.texts(str(CHAT))) >= 3)
    async with opened_gateway(desk) as gateway, running(gateway):
        telegram.say("/help", user=ANNA, chat=CHAT)
        await until(lambda: len(telegram.texts(str(CHAT))) >= 4)
    assert "".join(telegram.texts(str(CHAT))).count("Aye") == 1
