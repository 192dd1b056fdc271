"""Gitea's REST API: one client with one token, its limits, and its refusals in our words.

    Unavailable    it is down, in a hurry, or not Gitea: the same request may work later
    Misconfigured  it does not know the token, or the address is none: a person must mend the connection
    Forbidden      it knows us, and says no: a person must give the right there
    NotFound       there is no such thing, or we may not see it
    Conflict       the state does not allow it

Source of its answers: the specs' contracts and Gitea's own `routers/api/v1`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from quarterdeck.forge.gitea_answers import entries_of
from quarterdeck.forge.rules import one_line
from quarterdeck.kernel import http, log
from quarterdeck.kernel.errors import Conflict, Forbidden, Misconfigured, NotFound, QuarterdeckError

NAME = "Gitea"
SECONDS = 20.0
PER_SECOND = 10.0
"""The most requests in a second: a desk full of waiting items must not look like an attack."""
PAGE = 50
PAGES = 20
"""How far back a list is read."""

MEND = "Correct the block `Quarterdeck Gitea` (or GITEA_URL, GITEA_TOKEN); `quarterdeck forge test` tries it."


@dataclass(frozen=True)
class Answer:
    """An answer that the caller judges itself; `message` is Gitea's own word.

    `total`: how many entries a list has on all its pages; 0 where Gitea does not say.
    """

    status: int
    content: Any
    message: str = ""
    total: int = 0


class GiteaApi:
    """One Gitea and one token. `token` may be read by whoever speaks git; it is in no repr."""

    def __init__(self, url: str, token: str, *, seconds: float = SECONDS) -> None:
        self.url = url.rstrip("/")
        self.token = token
        log.hide_secrets_of({"token": token})
        self._client = http.client(
            NAME,
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"token {token}", "Accept": "application/json"},
            seconds=seconds,
        )
        self._pace = _Pace(PER_SECOND)
        self._login = ""

    async def close(self) -> None:
        await self._client.aclose()

    async def login(self) -> str:
        """Whose token it is."""
        if not self._login:
            self._login = str((await self.get("/user"))["login"])
        return self._login

    async def get(self, path: str, **query: Any) -> Any:
        """The content. Raises as the module says; `wrong_answer` if it is not JSON."""
        return (await self.ask("GET", path, query=query)).content

    async def find(self, path: str, **query: Any) -> Any | None:
        """The content, or None if there is no such thing."""
        answer = await self.ask("GET", path, query=query, judge=(404,))
        return None if answer.status == 404 else answer.content

    async def all(self, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        """The entries of a list, page by page, as far as they are wanted."""
        async for content in self.pages(path, entries_of, **query):
            for entry in entries_of(content):
                yield entry

    async def pages(
        self,
        path: str,
        entries: Callable[[Any], list[dict[str, Any]]],
        *,
        judge: Collection[int] = (),
        **query: Any,
    ) -> AsyncIterator[Any]:
        """The contents of a list's pages, in each of which are these `entries`.

        A page may have fewer than it was asked for: each Gitea has a limit of its own. A status of `judge`
        is the end of it.
        """
        seen = 0
        for page in range(1, PAGES + 1):
            answer = await self.ask("GET", path, query={**query, "page": page, "limit": PAGE}, judge=judge)
            if answer.status in judge:
                return
            yield answer.content
            found = len(entries(answer.content))
            seen += found
            if not found or (found < PAGE and seen >= answer.total):
                return

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        judge: Collection[int] = (),
    ) -> Answer:
        """Any request. A status of `judge` is answered, any other refusal raised."""
        await self._pace.wait()
        answer = await self._client.request(method, quote(path), params=query or None, json=body)
        status = answer.status_code
        if status in judge:
            return Answer(status, None, _message(answer))
        if answer.is_success and not answer.content:
            return Answer(status, None)
        if 300 <= status < 500 and status != 429:
            raise refusal(status, _message(answer))
        return Answer(status, http.json_of(answer), total=_total(answer))


class _Pace:
    """Lets a second's worth of requests through at once, then one after the other."""

    def __init__(self, per_second: float) -> None:
        self._pause = 1 / per_second
        self._next = 0.0

    async def wait(self) -> None:
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next - 1.0)
        self._next = max(now, self._next) + self._pause
        if turn > now:
            await asyncio.sleep(turn - now)


def refusal(status: int, message: str) -> QuarterdeckError:
    """The error for an answer that is neither a success nor a sign of being down."""
    said = f"Gitea refused ({status}): {message}." if message else f"Gitea refused ({status})."
    if status < 400:
        return Misconfigured(f"Gitea's address leads elsewhere ({status}).", MEND, code="gitea_moved")
    if status == 401:
        return Misconfigured(f"Gitea does not know the token ({status}).", MEND, code="gitea_token")
    if status == 403:
        return Forbidden(said, "Give the token's user that right in Gitea.", code="gitea_forbidden")
    if status == 404:
        todo = "Look whether it exists, and whether the token's user may see it."
        return NotFound(f"Gitea has no such thing: {message or 'not found'}.", todo, code="gitea_not_found")
    if status == 423:
        return Forbidden(said, "Unarchive the repository in Gitea.", code="gitea_archived")
    return Conflict(said, "Mend what Gitea complains about.", code="gitea_refused", status=status)


def _message(answer: httpx.Response) -> str:
    with suppress(ValueError):
        content = answer.json()
        if isinstance(content, dict) and isinstance(content.get("message"), str):
            return one_line(content["message"]).rstrip(".")
    return ""


def _total(answer: httpx.Response) -> int:
    told = answer.headers.get("x-total-count", "")
    return int(told) if told.isascii() and told.isdigit() else 0
