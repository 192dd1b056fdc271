"""Deliveries of other programs: taken in at the doors, worked on by handlers, shown to the owner.

Whoever understands a source adds its handler when the house is put together; what nobody understands is
kept and marked as ignored, and can be replayed once somebody does.
"""

import asyncio
from datetime import datetime
from typing import Any

import httpx
from pydantic import BaseModel, Field

from quarterdeck.kernel import http
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound
from quarterdeck.kernel.idempotency import request
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.ids import new_id
from quarterdeck.kernel.inbox import Handler, Inbox, InboxEntry, Standing
from quarterdeck.kernel.inbox_model import json_object
from quarterdeck.kernel.paging import Page, bad_cursor, cursor, place
from quarterdeck.pipeline.door_trial import ring_of
from quarterdeck.pipeline.doors import DOORS, Ring

_NEWEST = 2**63 - 1
_RECENT = 50
"""Deliveries among which that of a trial is looked for."""


class DeliveryCard(BaseModel):
    """One delivery and what became of it."""

    id: int = Field(examples=[17])
    source: str = Field(examples=["gitea"])
    event: str = Field(examples=["pull_request"], description="The sender's own name for it.")
    delivery_id: str = Field(description="The sender's id; the same id is never worked on twice by itself.")
    received_at: datetime
    state: Standing
    outcome: str = Field(description="What was done; or why nothing was, or why it failed.")
    attempts: int
    next_try_at: datetime | None = Field(description="Only while it waits.")
    finished_at: datetime | None


class DeliveryDetail(DeliveryCard):
    """A delivery with its content; secrets in it are not shown."""

    headers: dict[str, str]
    body: Any = Field(description="The payload; null once it is forgotten.")


class Deliveries:
    """The doors, the inbox and the handlers of this house."""

    def __init__(self, inbox: Inbox, connections: Connections) -> None:
        self._inbox = inbox
        self._connections = connections
        self._handlers: dict[str, Handler] = {}

    def add(self, source: str, handler: Handler) -> None:
        """Let `handler` work on deliveries of `source` (`plane`, `gitea`, `openclaw`, `generic`)."""
        self._handlers[source] = handler

    async def work_off(self) -> float | None:
        """See `Inbox.work_off`."""
        return await self._inbox.work_off(self._handlers)

    async def receive(self, source: str, ring: Ring) -> bool:
        """Keep what was sent to a door; False: it was here before.

        Raises `NotFound` for a source that there is not or that nobody connected, `Forbidden` without a
        secret to check it by, `Unauthorized` for a wrong signature, `Invalid` for what cannot be read.
        """
        secret = await self._secret(source)
        letter = DOORS[source].read(ring, secret)
        return await self._inbox.accept(
            source,
            letter.delivery_id,
            letter.event,
            letter.headers,
            letter.body,
            fingerprint=letter.fingerprint,
        )

    async def _secret(self, source: str) -> str:
        door = DOORS.get(source)
        if door is None:
            raise NotFound.among("webhook source", source, DOORS)
        connection = await self._connections.get(door.kind)
        if connection is None:
            raise NotFound(
                f"{source} is not connected here.",
                f"Save a block `{door.block}` under the name `default` in Prefect; docs/how-to/webhooks.md.",
                code="not_connected",
            )
        secret = str(connection.get(door.field) or "")
        if not secret:
            raise Forbidden(
                f"The connection to {source} has no secret to check deliveries by.",
                f"Enter it in the block `{door.block}`, the same here and there; docs/how-to/webhooks.md.",
                code="no_webhook_secret",
            )
        return secret

    # For the owner

    async def page(
        self,
        caller: Caller,
        source: str | None = None,
        state: Standing | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[DeliveryCard]:
        """Newest first. Raises `Forbidden` for all but the owner."""
        caller.must_be_owner()
        found = await self._inbox.entries(source, state, _before(after), limit + 1)
        cards = [_card(entry) for entry in found[:limit]]
        return Page(items=cards, next_cursor=cursor(str(cards[-1].id)) if len(found) > limit else None)

    async def show(self, caller: Caller, number: int) -> DeliveryDetail:
        """One delivery with its content. Raises `Forbidden` and `NotFound`."""
        caller.must_be_owner()
        entry = await self._inbox.show(number)
        body = None if entry.body is None else logs.redacted(json_object(entry.body))
        headers = logs.redacted(entry.headers)
        return DeliveryDetail(**_card(entry).model_dump(), headers=headers, body=body)

    async def replay(self, caller: Caller, number: int, request_key: str = "") -> DeliveryCard:
        """Have it worked on again, unless the key is repeated.

        Raises `Forbidden`, `NotFound`; `Conflict` when its content is gone.
        """
        caller.must_be_owner()
        asked = request(caller.name, request_key, "replay", {"delivery": number})
        return _card(await self._inbox.replay(number, asked))

    async def test(
        self,
        caller: Caller,
        source: str,
        url: str,
        at: datetime,
        *,
        seconds: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> DeliveryCard:
        """Ring at the door of the web process at `url` as the source would; what became of the delivery.

        Raises `Unavailable` when nobody opens, `Conflict` when it is not let in, does not arrive here, or is
        not worked on within `seconds`; and like `receive` for a source without connection or secret.
        """
        caller.must_be_owner()
        ring = ring_of(source, await self._secret(source), f"test-{new_id()}", at)
        door = http.client("The door", base_url=url, seconds=seconds, attempts=1, transport=transport)
        async with door as client:
            path, headers = f"/webhooks/{source}", dict(ring.headers)
            http.accepted(await client.post(path, content=ring.body, headers=headers))
        return await self._followed(source, ring.body, seconds)

    async def _followed(self, source: str, body: bytes, seconds: float) -> DeliveryCard:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            recent = await self._inbox.entries(source, None, _NEWEST, _RECENT)
            entry = next((entry for entry in recent if entry.body == body), None)
            if entry is None:
                fix = "Give with --url the address of this desk's web process."
                raise Conflict(
                    "Somebody took it in, and it did not arrive in this desk.", fix, code="another_desk"
                )
            if entry.state is not Standing.WAITING:
                return _card(entry)
            if loop.time() > end:
                said = f"It is kept as delivery {entry.id}, and nobody worked on it in {seconds:g} s."
                raise Conflict(said, "Look with `quarterdeck status` whether a desk is up.", code="no_desk")
            await asyncio.sleep(0.1)


def _before(after: str | None) -> int:
    if after is None:
        return _NEWEST
    (number,) = place(after, 1)
    if not (number.isascii() and number.isdecimal() and int(number) <= _NEWEST):
        raise bad_cursor()
    return int(number)


def _card(entry: InboxEntry) -> DeliveryCard:
    assert entry.id is not None
    return DeliveryCard(
        id=entry.id,
        source=entry.source,
        event=entry.event,
        delivery_id=entry.delivery_id,
        received_at=entry.received_at,
        state=entry.state,
        outcome=logs.redact(entry.outcome),
        attempts=entry.attempts,
        next_try_at=entry.not_before if entry.state is Standing.WAITING else None,
        finished_at=entry.finished_at,
    )
