"""A group that became a supergroup: it has another id, and its messages are numbered anew.

Telegram says so in a service message in the old chat (`migrate_to_chat_id`), in one in the new chat
(`migrate_from_chat_id`), and in the refusal of every request to the old one (`ResponseParameters`).
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from sqlalchemy import literal, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel.database import Database, Unit
from quarterdeck.telegram import rules
from quarterdeck.telegram.model import SENDS_TOPIC, Bot, MovedChat, StoredSend
from quarterdeck.telegram.wire import SendState

log = structlog.get_logger(__name__)

Move = tuple[int, int]
"""The old id, and the new one."""

Follow = Callable[[int, int], Awaitable[bool]]
"""See `Moves.follow`."""

Follower = Callable[[Unit, int, int], Awaitable[None]]
"""Lets what another room knows of the old chat be of the new one, as part of the command."""


class Moves:
    """Follows groups to their new ids."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followers: list[Follower] = []

    def add(self, follower: Follower) -> None:
        """Somebody else who knows chats by their ids."""
        self._followers.append(follower)

    async def follow(self, old: int, new: int) -> bool:
        """Everything of the old chat is of the new one, in one command; again, it changes nothing more.

        What is just being sent stays, and is refused where it is. False: the chats lead in a circle.
        """
        async with self._database.command("move a telegram chat") as unit:
            if old == new or await chat_now(unit.session, str(new)) is not None:
                return False
            await _note(unit, old, new)
            await _move_sends(unit, old, new)
            await _move_allowed(unit, old, new)
            for follower in self._followers:
                await follower(unit, old, new)
        log.info("chat_moved", old=old, new=new)
        return True


async def chat_now(session: AsyncSession, chat: str) -> int | None:
    """The id that a group has instead of this one; None: it has no other."""
    if not re.fullmatch("-[0-9]{1,18}", chat):
        return None
    row = await session.get(MovedChat, int(chat))
    return row.new_chat if row else None


async def _note(unit: Unit, old: int, new: int) -> None:
    noted = insert(MovedChat).values(old_chat=old, new_chat=new, moved_at=unit.now)
    await unit.session.exec(noted.on_conflict_do_update(index_elements=["old_chat"], set_={"new_chat": new}))


async def _move_sends(unit: Unit, old: int, new: int) -> None:
    """As `rules.redirected` does with what is queued from now on."""
    content: Any = col(StoredSend.content)
    for field in ("edits", "reply_to_message_id", "message_thread_id"):
        content = content.op("-", return_type=JSONB())(literal(field))
    there = content.op("||", return_type=JSONB())(literal({"chat_id": new}, JSONB()))
    waiting = (
        update(StoredSend)
        .where(col(StoredSend.chat) == str(old), col(StoredSend.state) == SendState.QUEUED)
        .where(~col(StoredSend.begun))
        .values(chat=str(new), content=there)
        .returning(col(StoredSend.agent_id))
    )
    for agent_id in set((await unit.session.exec(waiting)).scalars()):
        unit.wake(SENDS_TOPIC, agent_id)


async def _move_allowed(unit: Unit, old: int, new: int) -> None:
    listening = select(Bot).where(col(Bot.allowed_chats).contains([old]))
    for bot in (await unit.session.exec(listening.with_for_update())).all():
        bot.allowed_chats = rules.moved(bot.allowed_chats, old, new)
