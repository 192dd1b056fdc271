"""The commands that Telegram offers beside the text field, in each language. Told only when they changed."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.surfaces.store import StateStore
from quarterdeck.surfaces.telegram.bots import BotDoor
from quarterdeck.surfaces.texts import LANGUAGES, say
from quarterdeck.telegram.model import DESK

log = structlog.get_logger(__name__)

MENU = "telegram_menu"
"""Prefix of our keys: what a bot's menu says, by language."""

TALKING = ("stop", "new", "chats", "rename", "archive", "clear", "list", "remove", "settings", "help")
WORKING = ("items", "item", "approve", "reject", "status", "crew", "backlog")
MOST_TRIES = 3
LONGEST_PEACE = 60.0

Commands = list[dict[str, str]]


def commands(agent_id: str, language: str) -> Commands:
    """What a bot understands, in words; the desk's own files items and begins chats with `chat`."""
    if agent_id != DESK:
        return [_command(name, language) for name in TALKING]
    talking = ["chat" if name == "new" else name for name in TALKING]
    filing = {"command": "new", "description": say(language, "menu_file")}
    return [filing, *(_command(name, language) for name in (*WORKING, *talking))]


def _command(name: str, language: str) -> dict[str, str]:
    return {"command": name, "description": say(language, f"menu_{name}")}


class Menu:
    """The menus of all bots. `language` is for people whose own we do not speak."""

    def __init__(self, store: StateStore, bots: BotDoor, language: str) -> None:
        self._store = store
        self._bots = bots
        self._language = language

    async def tell(self, agent_id: str, bot_id: str) -> None:
        """Make a bot's menu what it should be. What fails is tried again at the next start."""
        key = f"{MENU}:{bot_id}"
        wanted = {"": commands(agent_id, self._language)}
        wanted |= {language: commands(agent_id, language) for language in LANGUAGES}
        try:
            kept = await self._store.get(key) or {}
            for language, menu in wanted.items():
                if kept.get(language) != menu:
                    await self._tell(agent_id, language, menu)
            if kept != wanted:
                await self._store.set(key, wanted)
        except QuarterdeckError as error:
            log.info("menu_not_told", agent=agent_id, reason=error.detail)

    async def _tell(self, agent_id: str, language: str, menu: Commands) -> None:
        code: Mapping[str, Any] = {"language_code": language} if language else {}
        for left in reversed(range(MOST_TRIES)):
            try:
                await self._bots.call(agent_id, "setMyCommands", commands=menu, **code)
                return
            except Unavailable as error:
                if not left:
                    raise
                await asyncio.sleep(min(float(error.data.get("retry_after") or 1), LONGEST_PEACE))
