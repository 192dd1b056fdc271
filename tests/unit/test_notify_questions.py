"""A question for approval in Telegram: its buttons, who may press them, and how its card ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.settings import Settings
from quarterdeck.listener import opened_gateway
from quarterdeck.pipeline.rules import AskApproval
from quarterdeck.telegram import limits
from quarterdeck.telegram.model import DESK
from tests.fakes.homes import furnished
from tests.fakes.telegram import GROUP, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import running, until

OWNER = owner("cli")
ANNA, VERA, STRANGER = 42, 43, 44
PIPELINE = """
name: default
stages:
  - {name: analysis, agent: analyst, approval: true}
  - {name: development, agent: developer, approval: true}
"""
ROSTER = f"""
agents:
  - {{slug: analyst, parameters: {{program: "true"}}}}
  - {{slug: developer, parameters: {{program: "true"}}}}
people:
  - {{slug: anna, may_approve: true, handles: {{telegram: {ANNA}}}}}
  - {{slug: vera, role: viewer, handles: {{telegram: {VERA}}}}}
"""


class Desk:
    """A house whose bot is served, and a group that gets its questions."""

    def __init__(self, house: House, telegram: FakeTelegram) -> None:
        self.house, self.telegram = house, telegram

    async def asks(self) -> str:
        """An item asks for approval, and the card is there; its key."""
        card = await self.house.board.file(OWNER, Draft(project="ET", title="Greet"))
        work = await self.house.engine.claim(await self.house.engine.current(card.key))
        await work.record(AskApproval())
        await self.until(lambda: len(self.cards) > 0)
        return card.key

    @property
    def cards(self) -> list[dict[str, Any]]:
        return [one for one in self.telegram.shown(GROUP) if "📋" in one.get("text", "")]

    def press(self, choice: int, user: int) -> None:
        [card] = self.cards
        data = card["reply_markup"]["inline_keyboard"][0][choice]["callback_data"]
        self.telegram.press(data, card["message_id"], chat=GROUP, user=user)

    async def until(self, condition: Any) -> None:
        """Deliver messages as the desk does until it holds."""
        async with asyncio.timeout(20):
            while not condition():
                await self.house.notify.deliver_round()
                await asyncio.sleep(0.01)

    @property
    def said(self) -> str:
        return "\n".join(self.telegram.texts(str(GROUP)))


@pytest.fixture
async def desk(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(limits, "OF_GROUP", (limits.Window(30, timedelta(seconds=1)),))
    settings = Settings(home=tmp_path, language="ru")
    with FakeTelegram(TOKEN) as telegram:
        async with furnished(database, settings, pipeline=PIPELINE, roster=ROSTER) as house:
            value = {"bot_token": TOKEN, "chat_id": str(GROUP), "api_base": telegram.base}
            async with database.command("connect") as unit:
                await house.connections.put(unit, "telegram", "default", value, Source.API)
                await house.notify.import_subscriptions(
                    unit, [{"channel": "telegram", "events": ["approval_requested"]}]
                )
            await house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
            async with opened_gateway(house) as gateway, running(gateway):
                await until(lambda: gateway.agents == [DESK])
                yield Desk(house, telegram)


async def test_whoever_may_presses_once_and_the_card_says_how_it_ended(desk: Desk) -> None:
    key = await desk.asks()
    desk.press(0, VERA)
    await desk.until(lambda: "нет такого права" in desk.said)
    desk.press(0, STRANGER)
    await desk.until(lambda: str(STRANGER) in desk.said)
    assert (await desk.house.board.item(key)).state is State.WAITING_APPROVAL
    desk.press(0, ANNA)
    desk.press(1, ANNA)
    await desk.until(lambda: "reply_markup" not in desk.cards[0])
    await desk.until(lambda: "Уже решено: anna" in desk.said)
    assert desk.cards[0]["text"].endswith(f"👍 {key}: одобрено (anna, telegram)")
    events = (await desk.house.board.events(key)).items
    assert [event.data["by"] for event in events if event.kind == "approval_decided"] == ["anna"]
    assert len(desk.telegram.done("answerCallbackQuery")) == 4


async def test_a_card_is_rewritten_when_another_door_was_first(desk: Desk) -> None:
    key = await desk.asks()
    await desk.house.engine.decide(key, OWNER, approved=False, comment="too slow <3")
    await desk.until(lambda: "reply_markup" not in desk.cards[0])
    assert desk.cards[0]["text"].endswith(f"👎 {key}: отклонено (owner, cli): too slow <3")


async def test_a_card_is_rewritten_when_its_item_is_cancelled(desk: Desk) -> None:
    key = await desk.asks()
    await desk.house.engine.cancel(key, OWNER)
    await desk.until(lambda: "reply_markup" not in desk.cards[0])
    assert f"🚫 {key}: задача отменена" in desk.cards[0]["text"]
