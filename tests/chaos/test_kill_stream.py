"""A listener is killed (kill -9) while an agent's answer grows in a chat; the next says all of it, once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from quarterdeck.listener import opened_gateway
from quarterdeck.telegram.model import DESK
from tests.fakes.forking import Forks
from tests.fakes.helm import ANNA, Helm, helm
from tests.fakes.telegram import CHAT, GROUP, FakeTelegram
from tests.fakes.telegram_gateway import running
from tests.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ANSWER = "All hands are on deck, captain, and the wind is fair."
_EXPIRE = text("update telegram_bots set leased_until = now()")


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Helm]:
    async with helm(tmp_path, database_url, ANSWER) as made:
        async with opened_gateway(made.house) as gateway, running(gateway):  # so that its consumer is known
            await until(lambda: gateway.agents == [DESK])
        yield made


def said(telegram: FakeTelegram, chat: int) -> list[str]:
    """What the bot's messages in a chat say now."""
    return [one["text"] for one in telegram.shown(chat) if one["from"]["is_bot"]]


async def killed_while_it_answers(desk: Helm, forks: Forks) -> None:
    """Its first words are shown, in the draft or in the group, and recorded where they are a message."""
    house, telegram, router = desk.house, desk.telegram, desk.router
    program = ("tests.fakes.serving", house.database.url, str(house.settings.home), router.url)
    async with forks.begin(*program, TELEGRAM_API_BASE=telegram.base) as listener:
        await until(lambda: "hands" in "".join([telegram.draft(CHAT) or "", *said(telegram, GROUP)]), 60)
        async with asyncio.timeout(20):
            while (await house.bots.show(DESK)).queue_length:
                await asyncio.sleep(0.02)
        os.kill(listener.pid, signal.SIGKILL)
        assert (await listener.ended).code == -signal.SIGKILL
    async with house.database.command("the lease is over") as unit:
        await (await unit.session.connection()).execute(_EXPIRE)


@pytest.mark.parametrize("chat", [CHAT, GROUP], ids=["a draft", "a message that grows"])
async def test_what_a_killed_listener_was_saying_the_next_one_says_whole_and_once(
    desk: Helm, forks: Forks, chat: int
) -> None:
    house, telegram = desk.house, desk.telegram
    bot = (await house.bots.show(DESK)).username
    held = desk.provider.hold("native-gpt", after=len(ANSWER.split()) // 2)
    telegram.say(f"@{bot} How do we stand?", user=ANNA, chat=chat)
    await killed_while_it_answers(desk, forks)
    assert ANSWER not in said(telegram, chat)
    held.set()
    async with opened_gateway(house) as gateway, running(gateway):
        await until(lambda: ANSWER in said(telegram, chat), 60)
        telegram.say(f"/help@{bot}", user=ANNA, chat=chat)
        await until(lambda: "/settings" in said(telegram, chat)[-1], 60)
    assert [one for one in said(telegram, chat) if "hands" in one] == [ANSWER]
    assert telegram.draft(CHAT) is None
    keyboards = [one.get("reply_markup", {}).get("inline_keyboard") for one in telegram.shown(chat)]
    assert not any(keyboards)  # nothing is left to be stopped
