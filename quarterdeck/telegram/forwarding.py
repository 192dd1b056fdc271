"""Posts every update to another service, where one is configured; nothing here depends on it."""

import httpx

from quarterdeck.kernel import http
from quarterdeck.telegram.wire import Update, event_of

PATH = "/telegram/updates"
SECONDS = 10.0


class Forwarder:
    """A consumer: an update counts as told when the service answered with a 2xx."""

    def __init__(self, base: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._address = base.rstrip("/") + PATH
        self._client = http.client("the router of updates", seconds=SECONDS, transport=transport)

    async def __call__(self, update: Update) -> None:
        headers = {"Idempotency-Key": update.event_id}
        http.accepted(await self._client.post(self._address, json=event_of(update), headers=headers))

    async def close(self) -> None:
        await self._client.aclose()
