"""A model behind the router as an agent to talk to: it streams, and is reminded of the last messages."""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.crew import chat_stream
from quarterdeck.crew.agent_api_client import read_file
from quarterdeck.crew.model_runtime import Models
from quarterdeck.crew.prompt import data
from quarterdeck.kernel.errors import Invalid, Misconfigured
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.agents import window
from quarterdeck.surfaces.agents.base import AgentClient, as_platform_errors, paths
from quarterdeck.surfaces.platform import MessageChunk, UserSettings
from quarterdeck.surfaces.protocol import Attachment
from quarterdeck.surfaces.store import StateStore

WINDOW = "model_window"
MOST_OF_A_FILE = 20_000
SILENCE = 300.0
STOPPED = "[The user stopped this answer here.]"


@dataclass(frozen=True)
class Voice:
    """Who speaks: the roster's agent. `options` are what the router is told besides (temperature, ...)."""

    agent: str
    model: str
    system_prompt: str = ""
    workspace: Path = Path()
    silence_seconds: float = SILENCE
    options: dict[str, Any] = field(default_factory=dict)


class ModelAgent(AgentClient):
    """The runtime `model`, and every agent that has no other way to talk."""

    def __init__(self, accounts: Accounts, store: StateStore, models: Models, voice: Voice) -> None:
        super().__init__(accounts)
        self._store = store
        self._models = models
        self._voice = voice

    async def stream_message(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None = None
    ) -> AsyncIterator[MessageChunk]:
        voice, said = self._voice, chat_stream.Said()
        with as_platform_errors():
            before = await self._window(chat_id)
            asked = self._asked(text, attachments)
            system = _system(voice.system_prompt, await self.get_settings(user_id))
            body = {**voice.options, "model": self._model(), "messages": [*system, *before, asked]}
            headers = {
                "Authorization": f"Bearer {await self._models.key_of(voice.agent)}",
                "X-Quarterdeck-Agent": voice.agent,
            }
            async with chat_stream.client(
                "the router", self._models.address(), voice.silence_seconds
            ) as router:
                answer = chat_stream.pieces(router, "/v1/chat/completions", body, headers, said)
                async with aclosing(answer) as pieces:
                    async for piece in pieces:
                        yield MessageChunk(piece)
            await self._remember(chat_id, [*before, asked, {"role": "assistant", "content": said.text}])
        yield MessageChunk(finished=True, tokens_used=said.tokens or 0)

    async def remember_stopped(
        self, user_id: str, chat_id: str, text: str, attachments: Sequence[Attachment] | None, said: str
    ) -> None:
        """Be reminded of the question, of as much of the answer as there was, and that it was enough."""
        with as_platform_errors():
            before = await self._window(chat_id)
            answer = "\n\n".join(part for part in (said.strip(), STOPPED) if part)
            told = [self._asked(text, attachments), {"role": "assistant", "content": answer}]
            await self._remember(chat_id, [*before, *told])

    async def disconnect_chat(self, user_id: str, chat_id: str) -> None:
        """Forget what the model was reminded of."""
        await self._store.delete(self._key(chat_id))

    def _asked(self, text: str, attachments: Sequence[Attachment] | None) -> dict[str, Any]:
        message = "\n\n".join([text, *_told(self._voice.workspace, paths(attachments))])
        return {"role": "user", "content": message}

    def _model(self) -> str:
        if not self._voice.model:
            raise Misconfigured(
                f"The agent {self._voice.agent} names no model to talk with.",
                "Give it one in the roster, or set QUARTERDECK_CHAT_MODEL.",
                code="no_model",
            )
        return self._voice.model

    async def _window(self, chat_id: str) -> list[dict[str, Any]]:
        kept = await self._store.get(self._key(chat_id))
        return window.kept(kept["messages"]) if kept else []

    async def _remember(self, chat_id: str, messages: list[dict[str, Any]]) -> None:
        await self._store.set(self._key(chat_id), {"messages": window.kept(messages)})

    def _key(self, chat_id: str) -> str:
        return f"{WINDOW}:{self._voice.agent}:{chat_id}"


def _system(prompt: str, settings: UserSettings) -> list[dict[str, Any]]:
    """Who the agent is, and what the user has set."""
    skills = [name for name, is_on in settings.skills.items() if is_on]
    asking = [name for name, is_on in settings.safety.items() if is_on]
    wishes = [
        f"The user wants you to be {settings.soul['style']}." if settings.soul.get("style") else "",
        f"The user allows you, if you can: {', '.join(skills)}." if skills else "",
        f"Before these actions ask the user: {', '.join(asking)}." if asking else "",
    ]
    parts = [part for part in (prompt, " ".join(filter(None, wishes))) if part]
    return [{"role": "system", "content": "\n\n".join(parts)}] if parts else []


def _told(workspace: Path, files: Sequence[str]) -> Iterator[str]:
    """Files in words: texts with their content, marked as data; of others only that they are there."""
    for path in files:
        content = None
        with suppress(Invalid, UnicodeDecodeError):
            raw = read_file(workspace, path)
            content = raw[: MOST_OF_A_FILE * 4].decode(
                "utf-8", "strict" if len(raw) < MOST_OF_A_FILE else "ignore"
            )
        name = os.path.basename(path)  # noqa: PTH119 - a name, not a path of ours
        if content is None or "\x00" in content:
            yield f"[The user sent the file {name}, which you cannot read.]"
        else:
            yield data(name, content[:MOST_OF_A_FILE])
