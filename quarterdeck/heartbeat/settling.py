"""What became of runs goes back to every place of the work; what was decided on sources is done there.

What is owed to a source stands in the row of the work until the source took it, so a crash or an outage
loses nothing. One hand at a time pays what is owed for an agent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from quarterdeck.board.model import State
from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.runtime import CLOSED
from quarterdeck.heartbeat.adoption import Starter
from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.naming import name_of_row
from quarterdeck.heartbeat.overview import sign
from quarterdeck.heartbeat.progress import Progress, of_run
from quarterdeck.heartbeat.roster import Heartbeat
from quarterdeck.heartbeat.rules import day_begins, fingerprint, repeats
from quarterdeck.heartbeat.sources.trouble import may_work_later
from quarterdeck.heartbeat.stall import people, recipients
from quarterdeck.heartbeat.store import Records
from quarterdeck.heartbeat.work import Ref, Source
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError

log = structlog.get_logger(__name__)

WORKBOARD = "workboard"
REPORTS = "reports"
"""What is told at the agent's next heartbeat, in `Work.told`."""

MOST_RESULT = 4000
"""Characters of a result that are written back; the whole of it stands in the run."""


def due(place: Sequence[str], do: str, text: str = "", **more: Any) -> dict[str, Any]:
    """One action that is owed to a source."""
    return {"source": place[0], "id": place[1], "do": do, "text": text} | more


def everywhere(row: Work, do: str, text: str = "", **more: Any) -> list[dict[str, Any]]:
    """The same action in every place of the work."""
    return [due(place, do, text, **more) for place in row.places]


@dataclass(frozen=True)
class _Ended:
    """How a run ended, as far as the work is concerned.

    `why` is the reason in short, `said` is written back, `outcome` is what equal ends have in common.
    `goes_on`: the run itself was well, and another is to follow it.
    """

    is_done: bool
    is_cancelled: bool
    why: str
    said: str
    outcome: str
    progress: Progress
    goes_on: bool = False

    @classmethod
    def of(cls, run: AgentRun, before: Progress) -> "_Ended":
        summary = str((run.result or {}).get("summary") or "")
        is_good = run.exit_code == 0 and not (run.timed_out or run.cancelled or run.error)
        told = of_run(summary, before, is_done=is_good)
        progress = before.then(told)
        if is_good and not (told.asked or told.unfinished):
            text = summary[:MOST_RESULT]
            return cls(True, False, text, text, text, progress)
        if not is_good:
            late = "it ran into its time limit" if run.timed_out else f"exit code {run.exit_code}"
            why = outcome = (run.error or late)[:MOST_RESULT]
        elif told.asked:
            why, outcome = f"it asked instead of going on: {told.asked}", "asked"
        else:
            why, outcome = f"some steps are left: {'; '.join(told.unfinished)}", progress.task_list()
        said = f"{why}\n\n{summary}".strip()[:MOST_RESULT]
        return cls(False, run.cancelled, why, said, outcome, progress, goes_on=is_good)


class Settling:
    """Looks at runs that ended, and pays what is owed."""

    def __init__(
        self, database: Database, sources: Mapping[str, Source], starter: Starter, records: Records
    ) -> None:
        self._database = database
        self._sources = sources
        self._starter = starter
        self._records = records

    async def settle(self, beats: Mapping[str, Heartbeat], agent: str | None = None) -> int:
        """Runs that ended since, and whatever is owed; of one agent, or of all. How many rows had any."""
        async with self._database.read() as session:
            ended = [(row.source, row.ref, run) for row, run in await self._records.ended(session, agent)]
        for source, ref, run in ended:
            await self._settle_run(source, ref, run, beats)
        return len(ended) + await self.pay(agent)

    async def _settle_run(self, source: str, ref: str, run: AgentRun, beats: Mapping[str, Heartbeat]) -> None:
        async with self._database.command("settle found work") as unit:
            row = await self._records.work(unit.session, source, ref)
            if row is None or row.run_id != run.id:
                return  # somebody was first
            row.updated_at = unit.now
            unit.session.add(row)
            if run.cancelled and run.error == CLOSED:
                await self._go_on(unit, row)
                return
            before = Progress.kept(row.progress)
            end = _Ended.of(run, before)
            print_ = fingerprint(row.agent, f"{source}:{ref}", row.reason, end.is_done, end.outcome)
            row.repeats = repeats(row.fingerprint, row.repeats, print_)
            row.fingerprint, row.run_id = print_, None
            row.progress = {} if end.is_done else end.progress.to_keep()
            row.rounds += 1
            has_moved = end.is_done or set(end.progress.finished) > set(before.finished)
            row.silent_rounds = 0 if has_moved else row.silent_rounds + 1
            await self._conclude(unit, row, end, beats.get(row.agent))

    async def _go_on(self, unit: Unit, row: Work) -> None:
        """Everything was closed in order: nothing is counted, whoever takes the work up now."""
        row.run_id = await self._records.begun_anew(unit.session, row.run_id)
        if row.run_id is None:
            row.owed = [*row.owed, *everywhere(row, "release", CLOSED)]
            if row.item_key:
                await self._starter.settle(unit, row.item_key, State.QUEUED)

    async def _conclude(self, unit: Unit, row: Work, end: _Ended, beat: Heartbeat | None) -> None:
        owed = [*row.owed, *everywhere(row, "note_rounds", rounds=row.rounds)]
        if end.is_cancelled:
            row.owed = [*owed, *open_breaker(unit, row, beat, "a person stopped its run", "owner")]
        elif beat is not None and row.repeats >= beat.limits.no_progress:
            row.owed = [*owed, *_going_round(unit, row, beat, end)]
        elif end.is_done:
            row.owed = [*owed, *self._finished(unit, row, end, beat)]
        else:
            row.owed = [*owed, *_unfinished(unit, row, end, beat)]
        if row.item_key:
            state = State.BLOCKED if row.breaker else State.DONE if row.finished_at else State.QUEUED
            todo = f"quarterdeck heartbeat unblock {row.agent} {name_of_row(row)}"
            await self._starter.settle(unit, row.item_key, state, row.breaker, todo)

    @staticmethod
    def _finished(unit: Unit, row: Work, end: _Ended, beat: Heartbeat | None) -> list[dict[str, Any]]:
        if row.timed_out_at is not None and not row.acted and beat is not None:
            tell_resumed(unit, row, beat)
        row.finished_at, row.timeouts, row.timed_out_at, row.acted = unit.now, 0, None, False
        row.suspected_since = None
        places = ", ".join(f"{source}:{ref}" for source, ref in row.places)
        unit.record("work_finished", item=row.item_key, **said(row), places=places)
        return everywhere(row, "finish", end.said, reviewed=False)

    async def pay(self, agent: str | None = None) -> int:
        """Do what is owed; what a source does not take now stays. How many pieces of work owed anything."""
        async with self._database.read() as session:
            agents = sorted({row.agent for row in await self._records.owing(session, agent)})
        paid = 0
        for one in agents:
            paid += await self._pay_agent(one)
        return paid

    async def _pay_agent(self, agent: str) -> int:
        """Holds a lock of the database meanwhile: nobody comments twice."""
        async with self._database.read() as session:
            if not await self._records.pays_alone(session, agent):
                return 0
            rows = await self._records.owing(session, agent)
            for row in rows:
                await self._pay_row(row)
        return len(rows)

    async def _pay_row(self, row: Work) -> None:
        done, down = [], set()
        for entry in row.owed:
            if entry["source"] not in down:
                if await self._do(row, entry):
                    done.append(entry)
                else:
                    down.add(entry["source"])
        if not done:
            return
        own = await self._sign(row)
        async with self._database.command("pay what is owed") as unit:
            fresh = await self._records.work(unit.session, row.source, row.ref)
            if fresh is not None:
                left = list(fresh.owed)
                for entry in done:
                    if entry in left:
                        left.remove(entry)
                fresh.owed, fresh.own_sign = left, own
                unit.session.add(fresh)

    async def _do(self, row: Work, entry: Mapping[str, Any]) -> bool:
        """One action; False: the source is down, or shut to us. What it refuses is not asked again."""
        source, ref = self._sources.get(entry["source"]), Ref(entry["source"], entry["id"])
        if source is None:
            return True
        try:
            await act(source, ref, entry)
        except QuarterdeckError as error:
            waits = may_work_later(error) and not _is_left(row, entry, error)
            event = "source_waits" if waits else "source_refused"
            log.warning(event, source=source.name, ref=ref.id, do=entry["do"], reason=error.detail)
            return not waits
        except Exception as error:  # a source that breaks its word keeps nobody else waiting
            log.error("source_broke", source=source.name, ref=ref.id, do=entry["do"], exc_info=error)
            return False
        return True

    async def _sign(self, row: Work) -> datetime | None:
        """The sign of life that we left ourselves."""
        now, signs = self._database.clock.now(), []
        for name, ref in row.places:
            try:
                place = await self._sources[name].read(Ref(name, ref)) if name in self._sources else None
            except Exception:
                signs.append(now)  # whatever we did there was done by now
                continue
            if place is not None and (found := sign(place, now)):
                signs.append(found)
        return max(signs, default=None)


def _is_left(row: Work, entry: Mapping[str, Any], error: QuarterdeckError) -> bool:
    """Somebody disconnected the source, perhaps for good: what stands elsewhere, too, goes on without it."""
    is_elsewhere = any(source != entry["source"] for source, _ in row.places)
    return isinstance(error, Misconfigured) and is_elsewhere


async def act(source: Source, ref: Ref, entry: Mapping[str, Any]) -> None:
    """Do one owed action."""
    match entry["do"]:
        case "start":
            await source.start(ref, entry["text"])
        case "comment":
            await source.comment(ref, entry["text"])
        case "release":
            await source.release(ref, entry["text"])
        case "reopen":
            await source.reopen(ref, entry["text"])
        case "block":
            await source.block(ref, entry["text"])
        case "finish":
            await source.finish(ref, entry["text"], is_reviewed=entry["reviewed"])
        case "note_rounds":
            await source.note_rounds(ref, entry["rounds"])


def said(row: Work, to: Sequence[str] = ()) -> dict[str, Any]:
    """What every event about remembered work says."""
    return {
        "work": row.item_key or name_of_row(row)[:60],
        "name": name_of_row(row),
        "ref": f"{row.source}:{row.ref}",
        "title": row.title[:200],
        "agent": row.agent,
        "to": ", ".join(to),
    }


def tell_resumed(unit: Unit, row: Work, beat: Heartbeat) -> None:
    """It moves again: written down; from the second time on somebody is told."""
    to = recipients(beat, row.timeouts, resumed=True, creator=None)
    kind = "work_resumed_again" if to else "work_resumed"
    unit.record(kind, item=row.item_key, **said(row, to), number=row.timeouts)


def open_breaker(unit: Unit, row: Work, beat: Heartbeat | None, why: str, whose: str) -> list[dict[str, Any]]:
    """Hold the work back until somebody unblocks it; one message says whose move it is, and why."""
    if row.breaker:
        return []
    row.breaker, row.broken_at = why, unit.now
    to = people((whose, *(beat.notify if beat else ())), str(row.told.get("creator") or "") or None)
    unit.record("breaker_opened", item=row.item_key, **said(row, to), whose=whose, reason=why)
    return everywhere(row, "block", why)


def _going_round(unit: Unit, row: Work, beat: Heartbeat, end: _Ended) -> list[dict[str, Any]]:
    why = f"{row.repeats} runs in a row ended the same way: {end.why[:200] or 'without a word'}"
    return open_breaker(unit, row, beat, why, beat.escalate[0])


def _unfinished(unit: Unit, row: Work, end: _Ended, beat: Heartbeat | None) -> list[dict[str, Any]]:
    """It is given back, and the coo is told, once a day; a retry that failed ends its timeout.

    What a person must act upon is told at once, everything else at the agent's next heartbeat.
    """
    number = row.timeouts if row.timed_out_at is not None and not row.acted else 0
    to = [beat.escalate[0]] if beat else ["owner"]
    if number and beat is not None:
        creator = str(row.told.get("creator") or "") or None
        to = list(dict.fromkeys([*recipients(beat, number, resumed=False, creator=creator), *to]))
        row.acted = True
    day = day_begins(unit.now, beat.zone if beat else "UTC").date().isoformat()
    is_stuck = not end.goes_on and _waits_for_a_person(row)
    is_urgent = bool(number) or is_stuck or beat is None
    is_news = is_urgent or row.told.get("unfinished") != day
    row.told = row.told | {"unfinished": day}
    if is_news and not is_urgent:
        _tell_later(row, "work_unfinished", said(row, to) | {"reason": end.why[:300]})
    else:
        kind, to = ("work_unfinished", to) if is_news else ("work_unfinished_again", [])
        unit.record(kind, item=row.item_key, **said(row, to), reason=end.why[:300])
    return everywhere(row, "reopen" if end.goes_on else "release", end.said)


def _tell_later(row: Work, kind: str, data: Mapping[str, Any]) -> None:
    """What nobody has to act upon waits for the agent's next heartbeat (heartbeat.md 10, rule 2)."""
    row.told = row.told | {REPORTS: [*row.told.get(REPORTS, ()), {"kind": kind, "data": dict(data)}]}


def tell_what_waited(unit: Unit, row: Work) -> None:
    """The heartbeat has come: tell what waited for it."""
    for report in row.told.get(REPORTS, ()):
        unit.record(report["kind"], item=row.item_key, **report["data"])
    row.told = {key: value for key, value in row.told.items() if key != REPORTS}


def _waits_for_a_person(row: Work) -> bool:
    """An OpenClaw that cannot give a card back blocks it: somebody must open it again each time."""
    return any(source == WORKBOARD for source, _ in row.places)
