"""Connections to providers, kept for the next call, no longer than they are needed."""

from typing import Any

import aiohttp


class Pool(aiohttp.TCPConnector):
    """Takes the connection that was used last.

    aiohttp takes the one that rested longest: so all of them stay in use in turn, and what a crowded moment
    opened is never closed again.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        if resting := self._conns.get(key):
            resting.rotate(1)
        return await super()._get(key, traces)
