"""Agents that a message of a heartbeat names (`→ coo`) hear of it themselves, at their next heartbeat.

People read it in their channels. An agent has no channel: where its runtime can be woken, the same words wait
for it as a system event (heartbeat.md 6.3 and 7.1). It is told once: each event is a request of its own.
"""

from collections.abc import Sequence
from datetime import timedelta

import structlog

from quarterdeck.crew.service import Crew
from quarterdeck.crew.waking import Wake
from quarterdeck.heartbeat import store
from quarterdeck.heartbeat.watchdog import WATCHDOG
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.kernel.journal import Event
from quarterdeck.notify.markup import plain
from quarterdeck.notify.texts import ALERTS, render

log = structlog.get_logger(__name__)

TOLD = "agents"
"""The last event of which all agents were told, in the row of what concerns all."""

NEWS = timedelta(hours=1)
"""How long an agent is tried to be told: what is older people have heard of."""
SETTLED = timedelta(seconds=10)
"""So old an event must be: of two at the same time the later one may be seen first."""
MOST = 100


class Telling:
    """Tells them."""

    def __init__(self, database: Database, crew: Crew) -> None:
        self._database = database
        self._crew = crew

    async def tell(self) -> int:
        """What is new since the last time; how many words went out. While a gateway is down they wait."""
        now = self._database.clock.now()
        async with self._database.read() as session:
            row = await store.pulse(session, store.EVERYBODY)
            after = int(row.told.get(TOLD, 0)) if row else 0
            events = await store.events(session, ALERTS, after, (now - NEWS, now - SETTLED), MOST)
        if not events:
            return 0
        agents = {agent.slug for agent in await self._crew.roster() if agent.is_enabled}
        told, done, down = 0, after, set[str]()
        for event in events:
            told += await self._tell_of(event, [name for name in _named(event) if name in agents], down)
            if not down and event.id is not None:
                done = event.id
        if done > after:
            await self._note(done)
        return told

    async def _tell_of(self, event: Event, agents: Sequence[str], down: set[str]) -> int:
        told = 0
        words = plain(render("en", event.kind, event.item_key, event.run_id, event.data))
        for agent in agents:
            if agent in down:
                continue
            wanted = Wake(text=words, mode="next-heartbeat")
            try:
                await self._crew.wake(WATCHDOG, agent, wanted, f"event {event.id} for {agent}")
            except Unavailable as error:
                log.warning("agent_not_told_yet", agent=agent, reason=error.detail)
                down.add(agent)
            except QuarterdeckError as error:  # it is none that can be told: people were
                log.debug("agent_not_told", agent=agent, reason=error.detail)
            else:
                told += 1
        return told

    async def _note(self, event: int) -> None:
        async with self._database.command("note what agents were told") as unit:
            row = await store.locked_pulse(unit.session, store.EVERYBODY, unit.now)
            row.told = row.told | {TOLD: max(event, int(row.told.get(TOLD, 0)))}
            unit.session.add(row)


def _named(event: Event) -> Sequence[str]:
    return list(dict.fromkeys(name.strip() for name in str(event.data.get("to") or "").split(",")))
