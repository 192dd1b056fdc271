"""The Bot API of one bot, through aiogram: the only module that imports it, for that takes seconds.

Every call ends in time and as a value of `rules.Answer`; no text of it holds the token. Results are taken as
Telegram gave them: a field that the library does not know yet must not look like a failed sending.
"""

import asyncio
import os
import re
import shutil
from functools import cache
from ipaddress import ip_address
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.session.base import BaseSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramAPIError,
    TelegramEntityTooLarge,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import TelegramMethod
from aiogram.types import FSInputFile
from aiogram.utils.token import TokenValidationError
from aiohttp import ClientConnectorError, ClientError, ClientTimeout, TCPConnector

from quarterdeck.kernel import http
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, QuarterdeckError, Unavailable
from quarterdeck.telegram.rules import KINDS, Answer, Done, Failed, Limited, Moved, Refused
from quarterdeck.telegram.wire import File

PUBLIC = "https://api.telegram.org"
CONNECTIONS = 32
SECONDS = 10.0
POLL_SECONDS = 25
POLL_LIMIT = 100
LARGEST_PUBLIC, LARGEST_LOCAL = 50_000_000, 2_000_000_000
"""Bytes of a file that Telegram's own server takes, and a local one."""
BY_PATH = 50_000_000
"""A local server on this host reads larger files itself."""
SLOWEST = 500_000
"""Bytes a second that an upload or a download makes at least."""


class _Session(AiohttpSession):
    """aiogram's own would read the certificates anew for every bot: 50 ms, and half a megabyte."""

    def __init__(self, api: TelegramAPIServer) -> None:
        BaseSession.__init__(self, api=api)
        self._session = None
        self._connector_type = TCPConnector
        self._connector_init = {"ssl": http.trusted(), "limit": CONNECTIONS, "ttl_dns_cache": 3600}
        self._should_reset_connector = True
        self._proxy = None


class _Raw(TelegramMethod[Any]):
    """Any method, with its fields as they are."""

    __returning__ = Any
    __api_method__ = ""


@cache
def _method(name: str) -> type[_Raw]:
    return type(name, (_Raw,), {"__api_method__": name, "__module__": __name__})


class BotApi:
    """Calls the methods of one bot over connections of its own."""

    def __init__(self, token: str, base: str) -> None:
        """Raises `Misconfigured` for a token that cannot be one."""
        logs.hide(token)
        self.answered = 0
        """How often Telegram answered. What fails again and again beside that fails by its own fault."""
        self._is_public = base.rstrip("/") == PUBLIC
        self._is_here = _is_loopback(base)
        self._server = TelegramAPIServer.from_base(base, is_local=not self._is_public)
        self._session = _Session(self._server)
        try:
            self._bot = Bot(token, session=self._session)
        except TokenValidationError:
            raise Misconfigured("The bot's token cannot be one.", "Copy it from @BotFather.") from None

    async def call(
        self, method: str, fields: dict[str, Any], *, file: File | None = None, seconds: float = SECONDS
    ) -> Answer:
        """Call a method, with a file in the field that its name says (`sendDocument`: `document`)."""
        if file is not None:
            try:
                fields, seconds = self._with_file(fields, file, seconds)
            except Invalid as error:
                return Refused(413, error.detail)
            except OSError as error:  # a name that no file can have, a folder that is closed to us
                return Refused(
                    400, f"The file {Path(file.path).name[:100]!r} cannot be read: {_reason(error)}."
                )
        answer = await self._answer(method, fields, seconds)
        self.answered += not isinstance(answer, Failed)
        return answer

    async def _answer(self, method: str, fields: dict[str, Any], seconds: float) -> Answer:
        try:
            async with asyncio.timeout(seconds):  # the library's own limit is a minute, also for large files
                return Done(await self._session(self._bot, _method(method)(**fields), timeout=ceil(seconds)))
        except TimeoutError:
            return Failed(f"Telegram did not answer within {seconds:g} s.", maybe_arrived=True)
        except (AiogramError, ClientError, OSError) as error:
            return _answer_of(error)

    async def updates(self, offset: int | None, seconds: int = POLL_SECONDS) -> Answer:
        """Wait for updates; those before `offset` count as told."""
        fields: dict[str, Any] = {"timeout": seconds, "limit": POLL_LIMIT, "allowed_updates": list(KINDS)}
        if offset is not None:
            fields["offset"] = offset
        return await self.call("getUpdates", fields, seconds=seconds + SECONDS)

    def _with_file(self, fields: dict[str, Any], file: File, seconds: float) -> tuple[dict[str, Any], float]:
        path = Path(file.path)
        if not path.is_file():
            raise Invalid(f"The file {path.name!r} is not there any more.")
        if not os.access(path, os.R_OK):
            raise Invalid(f"The file {path.name!r} cannot be read.")
        size, most = path.stat().st_size, LARGEST_PUBLIC if self._is_public else LARGEST_LOCAL
        if not 0 < size <= most:
            raise Invalid(f"The file {path.name!r} has {size} bytes; 1 to {most} can be sent.")
        name = re.sub(r'[\x00-\x1f"/\\]', "_", file.name or path.name)[:200]
        as_path = self._is_here and size > BY_PATH
        content: object = path.absolute().as_uri() if as_path else FSInputFile(path, filename=name)
        return {**fields, file.kind: content}, seconds + size / SLOWEST

    async def download(self, file_id: str, folder: Path, limit: int, told: int = 0) -> Path:
        """Fetch a file, of `told` bytes where that is known, into a folder; its path there.

        A local server answers when it has the whole file, which is copied then.

        Raises `Invalid` when it is larger than `limit` bytes, `Conflict` when Telegram refuses it,
        `Unavailable` when it does not come in time.
        """
        wait = SECONDS + (told or limit) / SLOWEST
        answer = await self.call("getFile", {"file_id": file_id}, seconds=wait)
        if not isinstance(answer, Done):
            raise error_of(answer, "getFile")
        size, path = int(answer.result.get("file_size") or 0), str(answer.result.get("file_path") or "")
        if size > limit:
            raise _too_large(limit)
        name = _safe_name(str(answer.result.get("file_unique_id") or file_id), path)
        goal = await asyncio.to_thread(_prepared, folder, name)
        if not self._is_public and await asyncio.to_thread(_copied, path, goal, limit):
            return goal
        await self._fetch(path, goal, limit, SECONDS + (size or limit) / SLOWEST)
        return goal

    async def _fetch(self, path: str, goal: Path, limit: int, seconds: float) -> None:
        draft = goal.with_name(f".{goal.name}.part")
        try:
            async with asyncio.timeout(seconds):
                await self._read_into(draft, path, limit)
            draft.replace(goal)
        except TimeoutError:
            raise Unavailable(
                "The file did not come in time.", "Try again later.", code="timed_out"
            ) from None
        except (AiogramError, ClientError, OSError) as error:
            raise Unavailable(
                f"The file cannot be fetched: {_reason(error)}.", "Try again later.", code="unreachable"
            ) from None
        finally:
            draft.unlink(missing_ok=True)

    async def _read_into(self, draft: Path, path: str, limit: int) -> None:
        session, read = await self._session.create_session(), 0
        address = self._server.file_url(self._bot.token, path.lstrip("/"))
        async with session.get(address, timeout=ClientTimeout(sock_read=SECONDS)) as answer:
            answer.raise_for_status()
            with draft.open("wb") as writer:
                async for chunk in answer.content.iter_chunked(65536):
                    read += len(chunk)
                    if read > limit:
                        raise _too_large(limit)
                    writer.write(chunk)

    async def close(self) -> None:
        """Break all connections."""
        if self._session._session is not None:  # the session's own `close` waits a quarter of a second
            await self._session._session.close()


def error_of(answer: Answer, method: str) -> QuarterdeckError:
    """The error that an answer is, for who cannot wait for a better one."""
    match answer:
        case Limited(seconds):
            return Unavailable(
                f"Telegram wants peace for {seconds:g} s.",
                "Try again after that.",
                code="too_many_requests",
                retry_after=seconds,
            )
        case Refused(status, description):
            code = "method_missing" if answer.lacks_method else "telegram_refused"
            return Conflict(
                f"Telegram refused {method}: {description}.",
                "See https://core.telegram.org/bots/api for what it needs.",
                code=code,
                status=status,
                description=description,
            )
        case Failed(reason, maybe_arrived):
            return Unavailable(reason, "Try again later.", code="unreachable", maybe_arrived=maybe_arrived)
    return Conflict(f"Telegram moved the chat of {method}.", "Ask again with its new id.", code="chat_moved")


def _answer_of(error: BaseException) -> Answer:
    match error:
        case TelegramRetryAfter():
            return Limited(error.retry_after)
        case TelegramMigrateToChat():
            return Moved(error.migrate_to_chat_id)
        case TelegramEntityTooLarge():  # aiogram takes it for a broken connection
            return Refused(413, _said(error))
        case TelegramNetworkError() | ClientError() | OSError():
            cause = error.__cause__ or error
            return Failed(f"Telegram: {_reason(error)}.", maybe_arrived=not _never_left(cause))
        case ClientDecodeError():
            return Failed("What answers is not a Bot API.", maybe_arrived=True)
        case TelegramServerError():
            return Failed(f"Telegram: {_said(error)}.", maybe_arrived=True)
        case TelegramAPIError():
            return Refused(_status(error), _said(error))
    return Failed(_reason(error), maybe_arrived=True)


_STATUSES = {
    "TelegramBadRequest": 400,
    "TelegramUnauthorizedError": 401,
    "TelegramForbiddenError": 403,
    "TelegramNotFound": 404,
    "TelegramConflictError": 409,
}


def _status(error: TelegramAPIError) -> int:
    return _STATUSES.get(type(error).__name__, 400)


def _said(error: TelegramAPIError) -> str:
    return logs.redact(error.message)


def _reason(error: BaseException) -> str:
    """What broke, without addresses: those hold the token."""
    cause = error.__cause__ or error
    system = f": {os.strerror(cause.errno)}" if isinstance(cause, OSError) and cause.errno else ""
    return f"{type(cause).__name__}{system}"


def _never_left(cause: BaseException) -> bool:
    return isinstance(cause, ClientConnectorError)


def _prepared(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _copied(path: str, goal: Path, limit: int) -> bool:
    """Take a file that a local server left on this host; False: there is none."""
    found = Path(path)
    if not found.is_absolute() or not found.is_file():
        return False
    if found.stat().st_size > limit:
        raise _too_large(limit)
    shutil.copyfile(found, goal)
    return True


def _is_loopback(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _safe_name(unique_id: str, path: str) -> str:
    name = f"{unique_id}-{PurePosixPath(path).name}"
    return re.sub(r"[^\w.-]", "_", name).lstrip(".")[:150]


def _too_large(limit: int) -> Invalid:
    return Invalid(f"The file has more than {limit} bytes.", "Send a smaller one.", code="file_too_large")
