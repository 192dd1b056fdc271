"""Telegram: `sendMessage` of the Bot API, over HTTP (docs/decisions/0003-telegram-over-httpx.md).

The bot's token stands in the address of every request, so no address ever gets into a text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.kernel import http
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError
from quarterdeck.notify.channels import (
    Connections,
    Failed,
    Limited,
    Outcome,
    Outgoing,
    Refused,
    Sent,
    Window,
)
from quarterdeck.notify.markup import plain

log = structlog.get_logger(__name__)

CONNECTION = "telegram"
API_BASE = "https://api.telegram.org"
SECONDS = 5.0
"""The time limit of a request; establishing the connection gets most of it, see `_post`."""

LONGEST_CHAT = 200
"""Characters of a chat's name that our tables hold; real ones are far shorter."""

_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)
_CHAT = (Window(1, _SECOND),)
_GROUP = (Window(1, _SECOND), Window(20, _MINUTE))
_BOT = (Window(30, _SECOND),)


@dataclass(frozen=True)
class _Bot:
    token: str = field(repr=False)
    chat: str
    base: str


class TelegramChannel:
    """One bot. Its connection is read for every message: a new token counts at once."""

    name = "telegram"
    sender_limits = _BOT

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._client = http.client("Telegram", seconds=SECONDS, attempts=1)

    def chat_limits(self, chat: str) -> tuple[Window, ...]:
        """Groups, supergroups and channels have negative ids, or a public @name."""
        return _GROUP if chat.startswith(("-", "@")) else _CHAT

    async def home_chat(self, session: AsyncSession | None = None) -> str | None:
        try:
            bot = await self._bot(session)
        except Misconfigured as error:  # whoever records an event must not fail because of it
            log.warning("channel_unusable", channel=self.name, reason=error.detail)
            return None
        return bot.chat if bot else None

    async def send(self, message: Outgoing) -> Outcome:
        """Send it; once more as plain text when its HTML is refused, once more to a group that moved."""
        try:
            bot = await self._bot()
            if bot is None:
                return Refused("The connection `telegram` has no bot token or no chat.")
            outcome = await self._deliver(bot, _body(message))
        except Misconfigured as error:
            return Refused(error.detail)
        except QuarterdeckError as error:
            return Failed(error.detail, maybe_sent=bool(error.data.get("maybe_arrived")))
        return outcome

    async def close(self) -> None:
        await self._client.aclose()

    async def _bot(self, session: AsyncSession | None = None) -> _Bot | None:
        values = await self._connections.get(CONNECTION, session=session) or {}
        token, chat = str(values.get("bot_token") or ""), str(values.get("chat_id") or "")
        if not token or not chat:
            return None
        return _Bot(token, chat[:LONGEST_CHAT], str(values.get("api_base") or API_BASE).rstrip("/"))

    async def _deliver(self, bot: _Bot, body: dict[str, Any]) -> Outcome:
        answer = await self._post(bot, body)
        changed = _repaired(body, answer)
        if changed is not None:
            answer = await self._post(bot, changed)
        return _outcome(answer, bot.token)

    async def _post(self, bot: _Bot, body: Mapping[str, Any]) -> "_Answer":
        """Connecting gives up first: then it is certain that nothing was sent."""
        address = f"{bot.base}/bot{quote(bot.token, safe=':')}/sendMessage"
        limit = httpx.Timeout(SECONDS, connect=SECONDS * 0.8)
        return _Answer.of(await self._client.post(address, json=body, timeout=limit))


@dataclass(frozen=True)
class _Answer:
    status: int
    description: str
    result: Mapping[str, Any]
    parameters: Mapping[str, Any]
    retry_after: str

    @classmethod
    def of(cls, answer: httpx.Response) -> "_Answer":
        try:
            body = answer.json()
        except ValueError:
            body = None
        body = body if isinstance(body, dict) else {}
        return cls(
            status=answer.status_code,
            description=str(body.get("description") or answer.reason_phrase),
            result=_mapping(body.get("result")),
            parameters=_mapping(body.get("parameters")),
            retry_after=answer.headers.get("retry-after", ""),
        )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _body(message: Outgoing) -> dict[str, Any]:
    return {
        "chat_id": message.chat,
        "text": message.text,
        "parse_mode": "HTML",
        "disable_notification": message.silent,
        "link_preview_options": {"is_disabled": True},
    }


def _repaired(body: Mapping[str, Any], answer: _Answer) -> dict[str, Any] | None:
    """The request that may work instead, or None."""
    if answer.status == 400 and "can't parse entities" in answer.description:
        unformatted = {key: value for key, value in body.items() if key != "parse_mode"}
        return {**unformatted, "text": plain(body["text"])}
    if moved := answer.parameters.get("migrate_to_chat_id"):
        return {**body, "chat_id": moved}
    return None


def _outcome(answer: _Answer, token: str) -> Outcome:
    status, said = answer.status, answer.description.replace(token, "***")
    if 200 <= status < 300:
        if "message_id" in answer.result:
            return Sent(str(answer.result["message_id"]))
        return Failed("The address of the Bot API answers, but not as the Bot API does.", maybe_sent=True)
    if (wait := _wait(answer)) is not None:
        return Limited(wait)
    if status in (408, 429) or status >= 500 or 300 <= status < 400:
        return Failed(f"{status} {said}")
    return Refused(f"{status} {said}{_advice(status)}")


def _wait(answer: _Answer) -> float | None:
    header = answer.retry_after if answer.status in (429, 503) else ""
    try:
        return float(answer.parameters.get("retry_after", header))
    except (TypeError, ValueError):
        return None


def _advice(status: int) -> str:
    """What a person does about it."""
    return {
        401: ": the bot token is wrong or was revoked; correct the connection, then send it again.",
        403: ": let the bot into the chat again, then send it again.",
        404: ": the bot token or the address of the Bot API is wrong; correct the connection.",
    }.get(status, "")
