"""The desk's doors in a messenger: who may, what happens, and that it happens once."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.rules import AskApproval
from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.desk.commands import DeskDoors
from quarterdeck.surfaces.desk.texts import catalogue
from quarterdeck.surfaces.dispatcher import EventDispatcher
from quarterdeck.surfaces.handlers import register_all
from quarterdeck.surfaces.protocol import IncomingCallback, IncomingCommand
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.store import MemoryStore
from quarterdeck.surfaces.texts import LANGUAGES
from tests.fakes.homes import furnished
from tests.fakes.platform import FakePlatform

OWNER = owner("test")
PIPELINE = """
name: default
stages:
  - {name: analysis, agent: analyst, approval: true}
  - {name: development, agent: developer, approval: true}
"""
ROSTER = """
agents:
  - {slug: analyst, parameters: {program: "true"}}
  - {slug: developer, parameters: {program: "true"}}
people:
  - {slug: anna, may_approve: true, handles: {telegram: 777, matrix: "@anna:example.org"}}
  - {slug: vera, role: viewer, handles: {telegram: 778}}
"""
ANNA, VERA, STRANGER = "777", "778", "779"


class Doors:
    """A dispatcher with the desk's doors on a whole house."""

    def __init__(self, house: House) -> None:
        self.house = house
        store, platform = MemoryStore(), FakePlatform()
        self.dispatcher = EventDispatcher(
            chat_mgr=ChatManager(platform, store),
            auth_mgr=AuthManager(platform, store),
            settings_mgr=SettingsManager(platform, store),
            platform=platform,
        )
        register_all(self.dispatcher)
        DeskDoors(house.board, house.engine, house.crew).register(self.dispatcher)

    async def says(
        self,
        line: str,
        user: str = ANNA,
        platform: str = "telegram",
        language: str = "en",
        event_id: str = "",
        at: datetime | None = None,
    ) -> str:
        name, *args = line.split()
        who: dict[str, Any] = {"user_id": user, "platform": platform, "chat_id": "C1", "language": language}
        who["event_id"] = event_id
        [answer] = await self.dispatcher.dispatch(IncomingCommand(**who, said_at=at, command=name, args=args))
        return str(answer.text)

    async def presses(self, action: str, approval: object, user: str = ANNA, event_id: str = "") -> str:
        who: dict[str, Any] = {"user_id": user, "platform": "telegram", "chat_id": "C1", "language": "en"}
        who["event_id"] = event_id
        event = IncomingCallback(**who, action=action, payload={"approval": str(approval)})
        [answer] = await self.dispatcher.dispatch(event)
        return str(answer.text)

    async def asked(self, title: str = "Greet") -> tuple[str, Any]:
        """An item that waits for approval: its key and the number of the question."""
        card = await self.house.board.file(OWNER, Draft(project="ET", title=title))
        return card.key, await self.ask(card.key)

    async def ask(self, key: str) -> Any:
        work = await self.house.engine.claim(await self.house.engine.current(key))
        await work.record(AskApproval())
        approval = await self.house.engine.approval_of(key)
        assert approval is not None
        return approval.id

    async def decisions(self, key: str) -> list[str]:
        events = (await self.house.board.events(key)).items
        return [str(event.data["by"]) for event in events if event.kind == "approval_decided"]


@pytest.fixture
async def doors(database: Database, tmp_path: Path) -> AsyncIterator[Doors]:
    settings = Settings(home=tmp_path, language="en")
    async with furnished(database, settings, pipeline=PIPELINE, roster=ROSTER) as house:
        await house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
        yield Doors(house)


async def test_new_files_an_item_in_the_only_project_or_in_the_one_that_is_named(doors: Doors) -> None:
    assert await doors.says("new Greet the user") == "🆕 ET-001: Greet the user (analysis)"
    assert (await doors.house.board.item("ET-001")).reporter == "anna"
    await doors.house.board.create_project(OWNER, ProjectDraft(key="QD", name="Desk"))
    assert "There is: ET, QD" in await doors.says("new Greet again")
    assert "🆕 QD-001: Greet" in await doors.says("new qd: Greet")
    assert "/new TITLE" in await doors.says("new")
    long = "Greet " + "and thank " * 40 + "the user"
    assert (await doors.says(f"new QD {long}")).startswith("🆕 QD-002: Greet")
    assert (await doors.house.board.item("QD-002")).description == long  # no title is that long
    assert "no right" in await doors.says("new ET Greet", VERA)


async def test_the_same_event_told_again_files_no_second_item(doors: Doors) -> None:
    first = await doors.says("new Greet", event_id="bot:1:17")
    assert await doors.says("new Greet", event_id="bot:1:17") == first
    assert "ET-002" in await doors.says("new Greet", event_id="bot:1:18")
    assert "ET-003" in await doors.says("new Greet", "@anna:example.org", "matrix", event_id="bot:1:17")


async def test_items_and_backlog_are_listed_and_one_item_is_shown(doors: Doors) -> None:
    assert await doors.says("items") == "Nothing here."
    key, _ = await doors.asked("First")
    await doors.house.board.file(OWNER, Draft(project="ET", title="Second"))
    assert await doors.says("items") == "Items under way:\n⏳ ET-002 · Second\n📋 ET-001 · First"
    assert await doors.says("backlog et", VERA) == "Waiting for an agent:\n⏳ ET-002 · Second"
    shown = await doors.says(f"item {key.lower()}")
    assert "analysis · waiting for approval" in shown and f"/approve {key}" in shown
    assert "analysis · ждёт одобрения" in await doors.says(f"item {key}", language="ru")
    assert await doors.says("item ET-999") == "There is no such thing: ET-999."
    assert "/item ET-007" in await doors.says("item")


async def test_status_counts_and_the_crew_is_shown(doors: Doors) -> None:
    await doors.asked()
    status = await doors.says("status")
    assert "📋 waiting for approval: 1" in status and "At work: —" in status
    assert "developer): idle, 0/1" in (await doors.says("crew")).lower()


async def test_approving_and_rejecting_by_command(doors: Doors) -> None:
    key, _ = await doors.asked()
    assert await doors.says(f"approve {key} fine with me") == f"👍 {key}: approved"
    assert await doors.says(f"approve {key}") == "Already decided by anna."
    await doors.ask(key)
    assert "Say why" in await doors.says(f"reject {key}")
    assert await doors.says(f"reject {key} too slow") == f"👎 {key}: rejected"
    approval = await doors.house.engine.approval_of(key)
    assert approval and (approval.door, approval.comment, approval.approved) == (
        "telegram",
        "too slow",
        False,
    )
    assert await doors.decisions(key) == ["anna", "anna"]


async def test_what_was_typed_before_a_question_was_asked_does_not_answer_it(doors: Doors) -> None:
    """It was on its way when another door decided, and the agent asked anew."""
    key, _ = await doors.asked()
    typed = doors.house.database.clock.now()
    await doors.house.engine.decide(key, OWNER, approved=False, comment="again")
    await doors.ask(key)
    assert "before approval of ET-001 was asked for" in await doors.says(f"approve {key}", at=typed)
    assert (await doors.house.board.item(key)).state is State.WAITING_APPROVAL
    later = doors.house.database.clock.now()
    assert await doors.says(f"approve {key}", at=later) == f"👍 {key}: approved"


async def test_a_messenger_whose_clock_is_a_little_behind_is_heard(doors: Doors) -> None:
    key, _ = await doors.asked()
    typed = doors.house.database.clock.now() - timedelta(seconds=10)
    assert await doors.says(f"approve {key}", at=typed) == f"👍 {key}: approved"


@pytest.mark.parametrize("user", [VERA, STRANGER, "0", "analyst"])
async def test_whoever_may_not_approve_does_not(doors: Doors, user: str) -> None:
    key, number = await doors.asked()
    for answer in (await doors.says(f"approve {key}", user), await doors.presses("approve", number, user)):
        assert "no right" in answer or "I do not know you" in answer
    assert (await doors.house.board.item(key)).state is State.WAITING_APPROVAL
    assert await doors.decisions(key) == []


async def test_a_pressed_button_decides_once_however_often_it_comes(doors: Doors) -> None:
    key, number = await doors.asked()
    assert await doors.presses("approve", number) == f"👍 {key}: approved"
    assert await doors.presses("approve", number) == "Already decided by anna."
    assert await doors.presses("reject", number) == "Already decided by anna."
    await doors.ask(key)  # the next stage asks: the old button does not answer that
    assert await doors.presses("approve", number) == "Already decided by anna."
    assert (await doors.house.board.item(key)).state is State.WAITING_APPROVAL
    assert await doors.decisions(key) == ["anna"]


async def test_the_first_answer_wins_whichever_door_it_comes_through(doors: Doors) -> None:
    key, number = await doors.asked()
    await doors.house.engine.decide(key, OWNER, approved=True)
    assert await doors.presses("approve", number) == "Already decided by owner."
    assert await doors.decisions(key) == ["owner"]


async def test_a_button_of_a_withdrawn_question_says_that_nobody_asks_any_more(doors: Doors) -> None:
    key, number = await doors.asked()
    await doors.house.engine.cancel(key, OWNER)
    for button in ("approve", "reject"):
        assert await doors.presses(button, number) == f"{key} does not wait for approval."
    assert await doors.decisions(key) == []


async def test_a_decision_that_is_told_again_after_a_crash_is_done_and_not_already_decided(
    doors: Doors,
) -> None:
    key, number = await doors.asked()
    for _ in range(2):
        assert await doors.presses("approve", number, event_id="bot:1:17") == f"👍 {key}: approved"
    await doors.ask(key)
    for _ in range(2):
        told = await doors.says(f"reject {key} too slow", event_id="bot:1:18")
        assert told == f"👎 {key}: rejected"
    assert await doors.says(f"reject {key} too slow", event_id="bot:1:19") == "Already decided by anna."
    assert await doors.decisions(key) == ["anna", "anna"]


async def test_the_reject_button_asks_for_the_reason_and_decides_nothing(doors: Doors) -> None:
    key, number = await doors.asked()
    assert await doors.presses("reject", number) == f"Say why: /reject {key} REASON"
    assert await doors.decisions(key) == []


async def test_rubbish_in_a_button_leads_nowhere(doors: Doors) -> None:
    await doors.asked()
    for rubbish in ("", "ET-001", "00000000-0000-0000-0000-000000000000"):
        assert "no such thing" in await doors.presses("approve", rubbish)


async def test_other_messengers_have_the_same_doors_with_their_own_prefix(doors: Doors) -> None:
    assert "!new TITLE" in await doors.says("new", "@anna:example.org", "matrix")
    assert "handles: matrix" in await doors.says("items", "@bob:example.org", "matrix")
    assert await doors.says("items", language="ru") == "Пусто."


def test_every_language_says_everything_with_the_same_facts() -> None:
    def facts(language: str) -> dict[str, set[str | None]]:
        return {
            entry: {name for _, name, _, _ in Formatter().parse(text) if name is not None}
            for entry, text in catalogue(language).items()
        }

    for language in LANGUAGES:
        assert facts(language) == facts("en")
