"""Heartbeats that stopped: who is told, how often, and who is called.

One agent that stands still is told of alone. When all that one scheduler wakes stand still, the scheduler is
what is down: that is told once, however many agents there are, until one of them beats again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from quarterdeck.crew.service import Crew
from quarterdeck.crew.waking import Wake
from quarterdeck.heartbeat import rules
from quarterdeck.heartbeat.automations import MESSAGE
from quarterdeck.heartbeat.model import Pulse
from quarterdeck.heartbeat.roster import Heartbeat, Scheduler
from quarterdeck.heartbeat.rules import Standstill
from quarterdeck.heartbeat.store import EVERYBODY, Records
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.kernel.identity import Caller

log = structlog.get_logger(__name__)

CALLED = "called"
"""The outage in which the agent was called: since when its heartbeat stopped."""

SILENT, BACK = "silent", "back"
"""Schedulers that start no heartbeats, each since when that was told; and when each was last back."""

NAMES = {Scheduler.PREFECT: "Prefect", Scheduler.OPENCLAW: "OpenClaw"}

WATCHDOG = Caller(name="heartbeat", door="heartbeat", may_write=True)

Beats = Mapping[str, Heartbeat]
Pulses = Mapping[str, Pulse]


class Watchdog:
    """Looks for them. Nobody swept before this process opened (`opened_at`): it counts from then."""

    def __init__(self, database: Database, crew: Crew, records: Records) -> None:
        self._database = database
        self._crew = crew
        self._records = records
        self._opened_at = database.clock.now()

    async def look(self, beats: Beats) -> list[str]:
        """The agents whose heartbeat stopped, with all that is to be told of them."""
        async with self._database.read() as session:
            pulses = await self._records.pulses(session)
        stale: list[str] = []
        for scheduler in Scheduler:
            group = {agent: beat for agent, beat in beats.items() if beat.scheduler is scheduler}
            stale += await self._look_at(scheduler, group, pulses)
        if stale:
            log.warning("heartbeats_stopped", agents=stale, at=self._database.clock.now().isoformat())
        return [agent for agent in beats if agent in stale]

    async def _look_at(self, scheduler: Scheduler, group: Beats, pulses: Pulses) -> list[str]:
        told = pulses[EVERYBODY].told if EVERYBODY in pulses else {}
        since, back = told.get(SILENT, {}).get(scheduler), told.get(BACK, {}).get(scheduler)
        if since and _has_beaten(group, pulses, datetime.fromisoformat(since)):
            since, back = None, await self._is_back(scheduler, group)
        lasts = {agent: self._last(pulses.get(agent), back) for agent in group}
        now = self._database.clock.now()
        stale = [agent for agent, beat in group.items() if rules.is_stale(beat, lasts[agent], now)]
        for agent in stale:
            pulse = pulses.get(agent)
            if pulse is None or not _is_marked(pulse, back):
                how = Standstill.TOGETHER if since else rules.standstill(agent, group, lasts, now)
                if how is Standstill.UNDECIDED:
                    continue
                pulse = await self._mark(agent, group, how, back)
            if scheduler is Scheduler.OPENCLAW:
                await self._call(pulse)
        return stale

    def _last(self, pulse: Pulse | None, back: str | None) -> datetime:
        """From when an agent's silence counts."""
        known = [pulse.last_finished if pulse else None, datetime.fromisoformat(back) if back else None]
        return max(moment for moment in (*known, self._opened_at) if moment is not None)

    async def _is_back(self, scheduler: Scheduler, group: Beats) -> str:
        """One beats again: the others have from now on the time that every heartbeat has."""
        async with self._database.command("note a scheduler that is back") as unit:
            row = await self._records.locked_pulse(unit.session, EVERYBODY, unit.now)
            silent = {name: at for name, at in row.told.get(SILENT, {}).items() if name != scheduler}
            back = row.told.get(BACK, {}) | {scheduler.value: unit.now.isoformat()}
            row.told = row.told | {SILENT: silent, BACK: back}
            unit.session.add(row)
            return unit.now.isoformat()

    async def _mark(self, agent: str, group: Beats, how: Standstill, back: str | None) -> Pulse:
        async with self._database.command("tell stopped heartbeat") as unit:
            pulse = await self._records.locked_pulse(unit.session, agent, unit.now)
            if _is_marked(pulse, back):
                return pulse  # another desk was first
            pulse.stale_since = unit.now
            unit.session.add(pulse)
            if how is Standstill.TOGETHER:
                await self._tell_together(unit, group)
            else:
                to = ", ".join(dict.fromkeys(group[agent].escalate))
                unit.record("heartbeat_stale", agent=agent, last=_said(pulse.last_finished), to=to)
        return pulse

    async def _tell_together(self, unit: Unit, group: Beats) -> None:
        """Once, until it is back."""
        scheduler = next(iter(group.values())).scheduler
        row = await self._records.locked_pulse(unit.session, EVERYBODY, unit.now)
        silent = row.told.get(SILENT, {})
        if scheduler in silent:
            return
        row.told = row.told | {SILENT: silent | {scheduler.value: unit.now.isoformat()}}
        unit.session.add(row)
        pulses = await self._records.pulses(unit.session)
        ends = [pulses[agent].last_finished for agent in group if agent in pulses]
        last = max((end for end in ends if end is not None), default=None)
        to = dict.fromkeys(name for beat in group.values() for name in beat.escalate)
        unit.record(
            "heartbeats_stopped",
            scheduler=NAMES[scheduler],
            number=len(group),
            agents=", ".join(group),
            last=_said(last),
            to=", ".join(to),
        )

    async def _call(self, pulse: Pulse) -> None:
        """Have a system event wait for an agent whose turns come no more, once per outage (heartbeat.md 13).

        While its gateway is down that is tried again at the next look.
        """
        assert pulse.stale_since is not None
        outage = pulse.stale_since.isoformat()
        if pulse.told.get(CALLED) == outage:
            return
        try:
            await self._crew.wake(WATCHDOG, pulse.agent, Wake(text=MESSAGE.format(agent=pulse.agent)))
        except Unavailable as error:
            log.warning("agent_not_called_yet", agent=pulse.agent, reason=error.detail)
            return
        except QuarterdeckError as error:  # it is none that can be called: people were told
            log.warning("agent_not_called", agent=pulse.agent, reason=error.detail)
        async with self._database.command("note a call") as unit:
            row = await self._records.locked_pulse(unit.session, pulse.agent, unit.now)
            row.told = row.told | {CALLED: outage}
            unit.session.add(row)


def is_shown_stale(beat: Heartbeat, pulse: Pulse | None, now: datetime) -> bool:
    """As any process can tell, however short it lives."""
    if pulse is None:
        return False
    return pulse.stale_since is not None or rules.is_stale(beat, pulse.last_finished or pulse.since, now)


def _is_marked(pulse: Pulse, back: str | None) -> bool:
    """Whether this standstill is known; one from before its scheduler was back is another."""
    since = pulse.stale_since
    return since is not None and (back is None or since > datetime.fromisoformat(back))


def _has_beaten(group: Beats, pulses: Pulses, since: datetime) -> bool:
    ends: Sequence[datetime | None] = [pulses[agent].last_finished for agent in group if agent in pulses]
    return any(end is not None and end >= since for end in ends)


def _said(moment: datetime | None) -> str:
    return moment.isoformat(timespec="minutes") if moment else "-"
