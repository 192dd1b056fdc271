"""What runs of agents need of the router: its address, the agent's own key, and what its calls cost."""

import asyncio
from datetime import datetime

from quarterdeck.kernel import http
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.settings import Settings
from quarterdeck.router import access
from quarterdeck.router.config import RouterSettings
from quarterdeck.router.storage.client_store import ClientStore
from quarterdeck.router.storage.keys import Seals

BOOKED_WITHIN = 5.0
"""Seconds in which a call that has ended is written into the ledger."""


class AgentCalls:
    """Calls that are made in the name of agents."""

    def __init__(self, settings: Settings, database: Database, keyring: Keyring) -> None:
        self._settings = settings
        self._database = database
        self._keyring = keyring

    def address(self) -> str:
        """Where the router is now."""
        return access.address(self._settings)

    async def key_of(self, agent: str) -> str:
        """The agent's client key, made when it has none. Raises `Misconfigured` when it does not open."""
        environment = RouterSettings()
        present, former = environment.encryption_key, environment.encryption_keys_previous
        seals = Seals.of(
            self._keyring,
            present.get_secret_value() if present else "",
            former.get_secret_value() if former else "",
        )
        return await ClientStore(self._database, seals).key_of_agent(agent)

    async def spent(self, agent: str, item: str, since: datetime, tokens: int) -> tuple[int, int] | None:
        """Tokens and micro-dollars of an agent's calls for an item, once so many tokens are booked.

        None = the router did not say in time.
        """
        asked = {"agent": agent, "item": item, "since": since.isoformat()}
        try:
            async with asyncio.timeout(BOOKED_WITHIN), access.admin(self._settings, seconds=2) as router:
                while True:
                    told = http.json_of(await router.get("/spend", params=asked))
                    if told["tokens"] >= tokens:
                        return int(told["tokens"]), round(float(told["cost"]) * 1_000_000)
                    await asyncio.sleep(0.2)
        except (TimeoutError, QuarterdeckError, KeyError, TypeError, ValueError):
            return None
