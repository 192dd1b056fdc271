"""A conversation from end to end: Bot API server, gateway, surface, model runtime, router, provider."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.listener import opened_gateway
from tests.fakes.helm import ANNA, Helm, helm
from tests.fakes.telegram import CHAT, GROUP, parsed
from tests.fakes.telegram_gateway import running
from tests.waiting import until

ANSWER = "**Aye**, captain: " + "all hands are on deck. " * 400 + "`1 < 2`"


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Helm]:
    async with helm(tmp_path, database_url, ANSWER) as made:
        yield made


async def test_a_conversation_goes_from_telegram_to_a_model_and_back(desk: Helm) -> None:
    telegram, provider = desk.telegram, desk.provider
    async with opened_gateway(desk.house) as gateway, running(gateway):
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


async def test_what_was_asked_and_said_before_a_stop_stays_in_the_conversation(
    database_url: str, tmp_path: Path
) -> None:
    async with helm(tmp_path, database_url, "Aye captain all hands are on deck") as desk:
        telegram, provider = desk.telegram, desk.provider
        held = provider.hold("native-gpt", after=2)
        async with opened_gateway(desk.house) as gateway, running(gateway):
            telegram.say("How do we stand?", user=ANNA, chat=CHAT)
            await until(lambda: telegram.draft(CHAT) is not None)
            telegram.say("/stop", user=ANNA, chat=CHAT)
            await until(lambda: len(telegram.texts(str(CHAT))) == 2)
            held.set()
            telegram.say("And now?", user=ANNA, chat=CHAT)
            await until(lambda: len(provider.to("native-gpt")) == 2 and len(telegram.texts(str(CHAT))) == 3)
        said = telegram.texts(str(CHAT))[0]
        asked, answered, now = provider.to("native-gpt")[1].body["messages"][1:]
        assert (asked["content"], now["content"]) == ("How do we stand?", "And now?")
        assert answered["role"] == "assistant" and answered["content"].startswith(said)
        assert answered["content"].endswith("[The user stopped this answer here.]")


async def test_a_group_that_becomes_a_supergroup_keeps_its_conversation(
    database_url: str, tmp_path: Path
) -> None:
    async with helm(tmp_path, database_url, "Aye") as desk:
        telegram, provider = desk.telegram, desk.provider
        async with opened_gateway(desk.house) as gateway, running(gateway):
            telegram.say("@fake_7000000001_bot How do we stand?", user=ANNA, chat=-77)
            await until(lambda: telegram.texts("-77") == ["Aye"])
            telegram.migrate(-77, GROUP)
            telegram.say("@fake_7000000001_bot And now?", user=ANNA, chat=GROUP)
            await until(lambda: len(provider.to("native-gpt")) == 2)
    before = [message["content"] for message in provider.to("native-gpt")[1].body["messages"][1:3]]
    assert before == ["@fake_7000000001_bot How do we stand?", "Aye"]


async def test_what_the_listener_left_unanswered_is_answered_by_the_next_one_once(desk: Helm) -> None:
    telegram, provider = desk.telegram, desk.provider
    held = provider.hold("native-gpt")
    async with opened_gateway(desk.house) as gateway, running(gateway):
        telegram.say("How do we stand?", user=ANNA, chat=CHAT)
        await until(lambda: len(provider.to("native-gpt")) == 1)
    assert telegram.texts(str(CHAT)) == []
    held.set()
    async with opened_gateway(desk.house) as gateway, running(gateway):
        await until(lambda: len(telegram.texts(str(CHAT))) >= 3)
    async with opened_gateway(desk.house) as gateway, running(gateway):
        telegram.say("/help", user=ANNA, chat=CHAT)
        await until(lambda: len(telegram.texts(str(CHAT))) >= 4)
    assert "".join(telegram.texts(str(CHAT))).count("Aye") == 1
