"""A question for approval in Telegram: its buttons, who may press them, and how its card ends."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.forge import tracker_store
from quarterdeck.forge.tracker import Comment, Tracker
from quarterdeck.forge.tracker_model import TrackedItem
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.settings import Settings
from quarterdeck.listener import opened_gateway
from quarterdeck.pipeline.comments import Comments
from quarterdeck.pipeline.rules import AskApproval
from quarterdeck.telegram import limits
from quarterdeck.telegram.model import DESK
from tasks.approvals import decide
from tests.fakes.doors import decisions_behind_doors
from tests.fakes.homes import TOKENS, furnished
from tests.fakes.telegram import GROUP, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import running
from tests.waiting import until

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
  - {{slug: anna, may_approve: true, token_env: ANNA_TOKEN, handles: {{telegram: {ANNA}, plane: plane-anna}}}}
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
        await self.until(lambda: any(card.key in one["text"] for one in self.cards))
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


async def through_the_api(house: House, key: str) -> None:
    transport = httpx.ASGITransport(decisions_behind_doors(house))
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as api:
        api.headers["Authorization"] = f"Bearer {TOKENS['ANNA_TOKEN']}"
        answer = await api.post(f"/api/v1/items/{key}/approve", json={"comment": "fine"})
        answer.raise_for_status()


async def through_the_form(house: House, key: str) -> None:
    asked = await house.engine.approval_of(key)
    assert asked
    await decide.fn(house, key, approved=False, comment="fine", by="anna", asked=asked.id)


async def through_a_comment(house: House, key: str) -> None:
    async with house.database.command("track") as unit:
        await tracker_store.track(unit.session, TrackedItem(issue_id="i", item_key=key, tracker_project="p"))
    soon = house.database.clock.now() + timedelta(minutes=1)
    said = Comment("c", "i", "p", ":approved: fine", "plane-anna", "plane-anna", "", soon)
    tracker = cast("Tracker", SimpleNamespace(myself=nobody))
    done = await Comments(house.database, tracker, house.engine, house.crew).take(said)
    assert done == f"{key}: approved by anna."


async def nobody() -> str:
    return "the desk"


async def test_a_card_says_who_decided_through_which_door(desk: Desk) -> None:
    for door, decides, outcome in (
        ("api", through_the_api, "👍 {}: одобрено"),
        ("prefect", through_the_form, "👎 {}: отклонено"),
        ("plane", through_a_comment, "👍 {}: одобрено"),
    ):
        key = await desk.asks()
        [card] = [one for one in desk.cards if key in one["text"]]
        await decides(desk.house, key)
        await desk.until(lambda card=card: not card.get("reply_markup"))
        assert card["text"].endswith(f"{outcome.format(key)} (anna, {door}): fine")


async def test_a_card_is_rewritten_when_another_door_was_first(desk: Desk) -> None:
    key = await desk.asks()
    await desk.house.engine.decide(key, OWNER, approved=False, comment="too slow <3")
    await desk.until(lambda: "reply_markup" not in desk.cards[0])
    assert desk.cards[0]["text"].endswith(f"👎 {key}: отклонено (owner, cli): too slow <3")


async def test_a_card_is_rewritten_when_its_item_is_moved(desk: Desk) -> None:
    key = await desk.asks()
    await desk.house.engine.move(key, OWNER, "analysis", "once more")
    await desk.until(lambda: "reply_markup" not in desk.cards[0])
    assert f"↩️ {key}: задача возвращена в analysis" in desk.cards[0]["text"]


async def test_a_card_is_rewritten_when_its_item_is_cancelled(desk: Desk) -> None:
    key = await desk.asks()
    await desk.house.engine.cancel(key, OWNER)
    await desk.until(lambda: "reply_markup" not in desk.cards[0])
    assert f"🚫 {key}: задача отменена" in desk.cards[0]["text"]
