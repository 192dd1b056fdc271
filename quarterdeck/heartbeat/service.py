"""What the heartbeat room can do: sweep an agent, settle what came of it, watch itself, show how it stands.

    card = await sweeper.sweep("developer")          # one sweep, in this process
    await sweeper.settle()                           # results back to the sources; again and again
    await sweeper.watch()                            # heartbeats that stopped

Clock (the database's), sources, starter and conversations are given from outside.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog
from prometheus_client.core import Metric

from quarterdeck.crew.service import Crew
from quarterdeck.heartbeat import rules, store
from quarterdeck.heartbeat.adoption import Adoption, Starter
from quarterdeck.heartbeat.cards import Breaker, HeartbeatCard, SweepCard, heartbeat_card, sweep_card
from quarterdeck.heartbeat.checking import Means, Recovery
from quarterdeck.heartbeat.judging import free
from quarterdeck.heartbeat.metrics import families
from quarterdeck.heartbeat.model import Pulse, Result, Sweep, Work
from quarterdeck.heartbeat.naming import named
from quarterdeck.heartbeat.overview import Overview, Piece
from quarterdeck.heartbeat.roster import Heartbeat, read_all
from quarterdeck.heartbeat.settling import Settling, everywhere, said
from quarterdeck.heartbeat.store import Records
from quarterdeck.heartbeat.sweeping import SweepUnderWay, Ticket, count
from quarterdeck.heartbeat.telling import Telling
from quarterdeck.heartbeat.tidying import forget_vanished
from quarterdeck.heartbeat.watchdog import Watchdog, is_shown_stale
from quarterdeck.heartbeat.work import Answer, Source
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Stale, Unavailable
from quarterdeck.kernel.idempotency import once, request
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.words import counted

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=5)
"""How long a sweep may take before another may begin; a sweep of a dead process is found by it."""

AT_ONCE = 4
"""Sweeps that go on at the same time in one process: each asks several sources, and connections are few."""

LOOKING = 120.0
"""Seconds that one source has to answer."""


class Conversations(Protocol):
    """Whether somebody is talking to an agent just now; bound by the house."""

    async def is_in_conversation(self, agent: str) -> bool: ...


class Silence:
    """Nobody talks to anybody."""

    async def is_in_conversation(self, agent: str) -> bool:
        return False


Look = Callable[[SweepUnderWay, Source], Awaitable[Answer]]
Recover = Callable[[SweepUnderWay, Recovery], Awaitable[None]]
Start = Callable[[SweepUnderWay, Piece], Awaitable[bool]]


async def _look(under_way: SweepUnderWay, source: Source) -> Answer:
    return await under_way.look(source)


async def _recover(under_way: SweepUnderWay, recovery: Recovery) -> None:
    await under_way.recover(recovery)


async def _start(under_way: SweepUnderWay, piece: Piece) -> bool:
    return await under_way.start(piece)


@dataclass(frozen=True)
class Steps:
    """How the steps of a sweep are called: directly, or each as a task of a flow."""

    look: Look = _look
    recover: Recover = _recover
    start: Start = _start


DIRECTLY = Steps()


class Sweeper:
    """The room."""

    def __init__(
        self,
        database: Database,
        crew: Crew,
        sources: Iterable[Source] = (),
        *,
        starter: Starter | None = None,
        conversations: Conversations | None = None,
        records: Records = store,
    ) -> None:
        self.database = database
        self.conversations: Conversations = conversations or Silence()
        self._crew = crew
        self._sources: dict[str, Source] = {source.name: source for source in sources}
        self._starter: Starter = starter or Adoption(crew)
        self._records = records
        self._settling = Settling(database, self._sources, self._starter, records)
        self._seen: tuple[tuple[int, ...], Overview] | None = None
        self._read: tuple[dict[str, Any], dict[str, Heartbeat]] | None = None
        self._watchdog = Watchdog(database, crew, records)
        self._telling = Telling(database, crew)
        self._gate = asyncio.Semaphore(AT_ONCE)

    def add(self, source: Source) -> None:
        """One more place where work waits."""
        self._sources[source.name] = source

    @property
    def sources(self) -> Sequence[Source]:
        return sorted(self._sources.values(), key=lambda source: source.rank)

    async def heartbeats(self) -> dict[str, Heartbeat]:
        """All agents that are swept, by slug."""
        entries = await self._crew.heartbeat_entries()
        if self._read is None or self._read[0] != entries:
            self._read = entries, read_all(entries)
        return dict(self._read[1])

    async def heartbeat(self, agent: str) -> Heartbeat:
        """One agent's. Raises `NotFound` for an agent that has none."""
        return _of(await self.heartbeats(), agent)

    # Sweeping

    async def sweep(
        self,
        agent: str,
        cause: str = "schedule",
        steps: Steps = DIRECTLY,
        beats: Mapping[str, Heartbeat] | None = None,
    ) -> SweepCard:
        """One full check of an agent. Raises `NotFound`, and `Conflict` `sweep_goes_on` when one goes on.

        A tick that comes during a sweep is counted. During a conversation of the agent nothing is done but
        to write that down; the next tick does the work of both.
        """
        async with self._gate:
            beats = beats if beats is not None else await self.heartbeats()
            return await self._swept(agent, cause, steps, beats)

    async def _swept(self, agent: str, cause: str, steps: Steps, beats: Mapping[str, Heartbeat]) -> SweepCard:
        under_way = await self.begin(agent, cause, beats)
        try:
            if await self.conversations.is_in_conversation(agent):
                return sweep_card(await self._defer(under_way))
            await self._settling.settle(beats, agent)
            return sweep_card(await self._carry_out(under_way, steps))
        except Stale:
            raise
        except asyncio.CancelledError:
            with suppress(Stale):
                await asyncio.shield(under_way.finish(Result.FAILED, "It took too long, and was cancelled."))
            raise
        except Exception as error:
            log.error("sweep_failed", agent=agent, exc_info=error)
            with suppress(Stale):
                await under_way.finish(Result.FAILED, f"{type(error).__name__}: {error}")
            raise

    async def _carry_out(self, under_way: SweepUnderWay, steps: Steps) -> Sweep:
        await asyncio.gather(*(_in_time(under_way, source, steps.look) for source in self.sources))
        plan = await under_way.check(self._overview(list(under_way.answers.values())))
        for recovery in plan.recoveries:
            await _apart(under_way, recovery.name, steps.recover(under_way, recovery))
        for piece in plan.starts:
            if await _apart(under_way, f"start {piece.shown}", steps.start(under_way, piece)) is False:
                break
        done = await under_way.finish()
        if under_way.started or under_way.recovered or plan.changes:
            await self._settling.pay(done.agent)
        return done

    def _overview(self, answers: Sequence[Answer]) -> Overview:
        """Answers that were kept are the same for many agents: what is read off them is kept as well."""
        ordered = sorted(answers, key=lambda answer: answer.source)
        key = tuple(id(answer.found) for answer in ordered)
        if self._seen is None or self._seen[0] != key or self._is_other(ordered):
            ranks = {source.name: source.rank for source in self._sources.values()}
            self._seen = key, Overview(ordered, ranks)
        return self._seen[1]

    def _is_other(self, answers: Sequence[Answer]) -> bool:
        """Identities are given anew: the answers that are kept are compared themselves."""
        assert self._seen is not None
        kept = self._seen[1].answers
        return any(
            answer.source not in kept or kept[answer.source].found is not answer.found for answer in answers
        )

    async def _defer(self, under_way: SweepUnderWay) -> Sweep:
        row = await under_way.finish(Result.DEFERRED, "The agent is in a conversation.")
        async with self.database.command("defer sweep") as unit:
            pulse = await self._records.locked_pulse(unit.session, row.agent, unit.now)
            pulse.is_deferred = True
            unit.session.add(pulse)
        return row

    async def begin(self, agent: str, cause: str, beats: Mapping[str, Heartbeat]) -> SweepUnderWay:
        """Take the agent's lease. Raises `Conflict` when somebody has it; the tick is counted as skipped."""
        beat = _of(beats, agent)
        async with self.database.command("begin sweep") as unit:
            pulse = await self._records.locked_pulse(unit.session, agent, unit.now)
            is_taken = pulse.leased_until is not None and pulse.leased_until > unit.now
            if is_taken:
                pulse.skipped += 1
                unit.session.add(pulse)
            else:
                ticket = await self._take(unit, pulse, cause)
                outage = await self._records.pulse(unit.session, store.EVERYBODY)
        if is_taken:
            raise Conflict(
                f"A sweep of {agent} goes on (held by {pulse.holder}).",
                "Nothing to do: it does the work. This tick was counted as skipped.",
                code="sweep_goes_on",
                skipped=pulse.skipped,
            )
        means = Means(self.database, self._crew, self._sources, self._starter, self._records)
        under_way = SweepUnderWay(means, ticket, beat, beats, pulse)
        under_way.knows(str(outage.told.get("outage", "")) if outage else "")
        return under_way

    async def _take(self, unit: Unit, pulse: Pulse, cause: str) -> Ticket:
        if pulse.sweep_id is not None and (lost := await self._records.sweep(unit.session, pulse.sweep_id)):
            lost.result, lost.finished_at = Result.LOST, unit.now
            unit.session.add(lost)
            count(pulse, Result.LOST)
        row = Sweep(
            agent=pulse.agent,
            cause=cause[:30],
            started_at=unit.now,
            sources={},
            suspected=[],
            confirmed=[],
            warnings=[],
        )  # all of it said: a default that is made by `dict` or `list` costs more than the row
        unit.session.add(row)
        await unit.session.flush()
        assert row.id is not None
        pulse.fence += 1
        pulse.holder, pulse.leased_until = f"{socket.gethostname()}:{os.getpid()}", unit.now + LEASE
        pulse.sweep_id = row.id
        unit.session.add(pulse)
        return Ticket(pulse.agent, row.id, pulse.fence)

    # Around sweeps

    async def settle(self) -> int:
        """Write back what runs brought, and do what is owed to sources. Repeat it; how much there was."""
        return await self._settling.settle(await self.heartbeats())

    async def watch(self) -> list[str]:
        """The agents whose heartbeat stopped; each is told of once, until it beats again.

        When all that Prefect wakes stand still that is told once for all of them. Those that OpenClaw should
        have woken are called by a system event as well.
        """
        return await self._watchdog.look(await self.heartbeats())

    async def tell_agents(self) -> int:
        """Let agents that messages name hear of them at their next heartbeat; how many words went out."""
        return await self._telling.tell()

    async def forget_old(self, limit: int = 1_000) -> int:
        """Drop the records of sweeps that are older than anybody asks for; how many."""
        dropped = 0
        while True:
            async with self.database.command("forget sweeps") as unit:
                count = await store.forget_sweeps(unit.session, unit.now - store.KEPT, limit)
            dropped += count
            if count < limit:
                return dropped

    async def forget_vanished(self) -> int:
        """Drop what is remembered of work that no source lists any more and that nobody touched for long."""
        return await forget_vanished(self.database, self.sources, (await self.heartbeats()).values())

    # For people

    async def unblock(
        self, caller: Caller, agent: str, work: str, comment: str = "", request_key: str = ""
    ) -> Breaker:
        """Let a piece of work go on: breaker, timeouts, repeats and budget begin anew, and it is given back.

        `work` is its name as it was shown (`multica:ENG-12`), `source:id`, or the key of its item. Raises
        `NotFound`, `Invalid` when several are called so, `Forbidden`, and `Conflict` when by now it is done,
        or at work again: an answer to old news spoils nothing. A repeated `request_key` changes nothing.
        """
        caller.must_write()
        told = {"agent": agent, "work": work, "comment": comment}
        asked = request(caller.name, request_key, "unblock", told)
        async with self.database.command("unblock work") as unit:
            return await once(unit, asked, Breaker, lambda: self._unblock(unit, caller, **told))

    async def _unblock(self, unit: Unit, caller: Caller, agent: str, work: str, comment: str) -> Breaker:
        row = await self._named(unit, agent, work)
        _must_stand_still(row, work)
        free(row, unit.now)
        row.updated_at = unit.now
        row.owed = [*row.owed, *everywhere(row, "reopen", comment or f"Unblocked by {caller.name}.")]
        unit.session.add(row)
        unit.record("work_unblocked", item=row.item_key, **said(row), by=caller.name)
        unit.wake("heartbeats", agent)
        return Breaker.of(row)

    async def raise_limit(self, caller: Caller, agent: str, work: str, most: int) -> Breaker:
        """Give a piece of work more rounds; what was paused for want of them goes on.

        Raises `Invalid` when it is no more than what is used, `NotFound`, `Forbidden`.
        """
        caller.must_write()
        async with self.database.command("raise round limit") as unit:
            row = await self._named(unit, agent, work)
            if most <= row.rounds:
                raise Invalid(
                    f"{counted(row.rounds, 'round is', 'rounds are')} used already.",
                    "Name a higher limit.",
                    field="rounds",
                )
            row.round_limit, row.updated_at = most, unit.now
            is_paused = "rounds are used" in row.breaker
            unit.session.add(row)
        if not is_paused:
            return Breaker.of(row)
        return await self.unblock(caller, agent, work, f"{counted(most, 'round')} now.")

    async def allow(self, caller: Caller, agent: str, work: str) -> Breaker:
        """Say yes to work that involves money or outside resources. Raises `NotFound`, `Forbidden`."""
        caller.must_write()
        if not caller.may_approve:
            caller.must_be_owner()
        async with self.database.command("allow work") as unit:
            row = await self._named(unit, agent, work)
            row.is_allowed, row.updated_at = True, unit.now
            unit.session.add(row)
            unit.record("work_allowed", item=row.item_key, **said(row), by=caller.name)
        return Breaker.of(row)

    async def _named(self, unit: Unit, agent: str, name: str) -> Work:
        """By whatever people call it; what is known of it is locked."""
        known = named(await self._records.work_known(unit.session, agent), name)
        row = await self._records.work(unit.session, known.source, known.ref)
        if row is None:
            raise NotFound(f"{name} was forgotten just now: no source lists it.", "Look again.")
        return row

    async def metrics(self) -> list[Metric]:
        """What Prometheus is told of the heartbeats of the roster."""
        beats = await self.heartbeats()
        async with self.database.read() as session:
            pulses = await self._records.pulses(session)
        return list(families({agent: pulses.get(agent) for agent in sorted(beats)}))

    async def overview(self) -> list[HeartbeatCard]:
        """How every heartbeat stands: last sweep, next, sources, what is suspected, what is held back."""
        beats, now = await self.heartbeats(), self.database.clock.now()
        async with self.database.read() as session:
            pulses = await self._records.pulses(session)
            sweeps = await self._records.newest_sweeps(session, list(beats))
            broken = await self._records.broken(session)
            waiting = await self._records.waiting(session)
        return [
            heartbeat_card(
                beat,
                pulses.get(agent),
                sweeps.get(agent),
                [row for row in broken if row.agent == agent],
                [row for row in waiting if row.agent == agent],
                is_stale=is_shown_stale(beat, pulses.get(agent), now),
                next_at=rules.next_sweep(beat, now),
            )
            for agent, beat in beats.items()
        ]


def _must_stand_still(row: Work, name: str) -> None:
    """There is something to unblock."""
    if row.breaker:
        return
    if row.run_id is not None:
        raise Conflict(
            f"{name} is not held back: a run of it goes on.", "Wait for its end.", code="work_goes_on"
        )
    if row.finished_at is not None:
        raise Conflict(
            f"{name} is not held back: it is done.",
            "To have it done again, send it back where it stands.",
            code="work_done",
        )


def _of(beats: Mapping[str, Heartbeat], agent: str) -> Heartbeat:
    if agent not in beats:
        raise NotFound.among("heartbeat", agent, beats)
    return beats[agent]


async def _apart(under_way: SweepUnderWay, what: str, step: Awaitable[Any]) -> Any:
    """One step; `None` = it broke, which the record of the sweep tells. It holds up no other work."""
    try:
        return await step
    except (Stale, Unavailable):
        raise  # nothing else can be done either
    except Exception as error:
        log.error("sweep_step_failed", agent=under_way.ticket.agent, step=what, exc_info=error)
        under_way.broken.append(f"{what}: {type(error).__name__}")
        return None


async def _in_time(under_way: SweepUnderWay, source: Source, look: Look) -> Any:
    try:
        await asyncio.wait_for(look(under_way, source), LOOKING)
    except TimeoutError:
        under_way.gave_up(source)
