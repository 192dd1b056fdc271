"""What the pipeline room can do: hand out claims, and take people's decisions."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from quarterdeck.board.cards import Card
from quarterdeck.board.model import OUTSIDE, State, WorkItem
from quarterdeck.crew.keeper import born
from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Forbidden, Invalid, Misconfigured, NotFound
from quarterdeck.kernel.idempotency import earlier_answer, once, remember
from quarterdeck.kernel.idempotency import request as request_of
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline import by_hand, rules, store, transitions
from quarterdeck.pipeline.definition import Stage
from quarterdeck.pipeline.model import Approval, Claim
from quarterdeck.pipeline.pipelines import Pipelines
from quarterdeck.pipeline.refusals import must_be_an_answer, no_longer_asked
from quarterdeck.pipeline.store import Candidate
from quarterdeck.pipeline.work import LEASE, StageWork, Ticket


@cache
def this_holder() -> str:
    """This process, so that others can see whether it still lives: host, pid, and when it was born."""
    return f"{socket.gethostname()}:{os.getpid()}:{born(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Did this holder surely die? Only a process of this host can be known to be dead."""
    host, pid, since = holder.split(":", 2)
    return host == socket.gethostname() and born(int(pid)) != since


class Engine:
    """The engine that alone moves items. Cheap to make."""

    def __init__(self, database: Database, crew: Crew) -> None:
        self.database = database
        self.crew = crew
        self.pipelines = Pipelines(database)

    # Work

    async def candidates(self, limit: int, passing_over: Collection[str] = ()) -> list[Candidate]:
        """What there is to do now, most urgent first, and no more for an agent than it has free slots.

        What is queued while a run of a round that it left goes on here waits for the end of that. The items
        that are passed over are being begun: each has a slot of its agent until its run is open.
        """
        found: list[WorkItem] = []
        async with self.database.read() as session:
            line = rules.Line(
                await self.pipelines.agents(session),
                await self.crew.free_slots(session),
                await store.about_to_begin(session, passing_over),
            )
            now, is_whole = self.database.clock.now(), False
            while len(found) < limit and not is_whole:  # again for those behind whom found their agent full
                known = {*passing_over, *(item.key for item in found)}
                room = limit - len(found)
                page = await store.candidates(session, now, line.full, known, room, self.crew.host)
                let_in = [item for item in page if line.lets_in(item.pipeline, item.stage, item.state)]
                is_whole = len(let_in) == len(page)
                found += let_in
        return [Candidate.of(item) for item in found]

    async def next_due(self) -> datetime | None:
        """When the next waiting item wants to be looked at."""
        async with self.database.read() as session:
            return await store.next_due(session, self.database.clock.now())

    async def current(self, key: str) -> Candidate:
        """The stage and round in which an item stands. Raises `NotFound`."""
        async with self.database.read() as session:
            item = await store.item(session, key)
        return Candidate(item.key, item.stage, item.round, item.version)

    async def claim(self, wanted: Candidate, flow_run: str = "", holder: str | None = None) -> StageWork:
        """Take (item, stage, round), with a new fencing number.

        Raises `NotFound`, or `Conflict` when another holds it, when there is nothing to do in this state, or
        when it waits for others. An item whose stage left its pipeline, or whose agent left the roster,
        becomes a person's move.
        """
        holder = holder or this_holder()
        async with self.database.command("claim") as unit:
            item = await store.item_for_update(unit.session, wanted.key)
            self._must_be_claimable(item, wanted)
            await self._must_not_wait(unit, item)
            claim = await store.claim_for_update(unit.session, item.id, item.stage, item.round)
            self._must_be_free(unit, item, claim)
            lost: Conflict | None = None
            try:
                pipeline, stage = await self.pipelines.way_of(unit.session, item)
                await self._must_have_an_agent(unit, stage)
            except (NotFound, Misconfigured, Conflict) as error:
                lost = Conflict(error.detail, error.instruction, code="no_stage")
                transitions.block(unit, item, rules.Block(lost.detail, f"{lost.instruction} Then retry it."))
            else:
                ticket = await self._take(unit, item, claim, holder, flow_run)
        if lost:
            raise lost
        return StageWork(self.database, self.crew, ticket, pipeline)

    async def _must_have_an_agent(self, unit: Unit, stage: Stage) -> None:
        known = await self.crew.free_slots(unit.session)
        if not stage.is_engine and stage.agent not in known:
            raise Misconfigured(
                f"The stage {stage.name} needs the agent {stage.agent}, who is not in the roster.",
                f"Add {stage.agent} to the roster, or name another in the pipeline.",
            )

    @staticmethod
    def _must_be_claimable(item: WorkItem, wanted: Candidate) -> None:
        if (item.stage, item.round) != (wanted.stage, wanted.round):
            raise Conflict(
                f"{item.key} stands in {item.stage}, round {item.round}, not in {wanted.stage}, "
                f"round {wanted.round}.",
                "Run the stage it stands in, or leave stage and round empty.",
                code="other_stage",
            )
        if not rules.may_be_claimed(item.state):
            raise Conflict(
                f"{item.key} is {item.state.value}: there is nothing for the engine to do.",
                "Decide what it waits for, or retry it if it is blocked or cancelled.",
                code="nothing_to_do",
            )
        if item.pipeline == OUTSIDE:
            raise Conflict(
                f"{item.key} stands for work of another source.",
                "Its agent's heartbeat sees to it.",
                code="not_ours",
            )

    @staticmethod
    async def _must_not_wait(unit: Unit, item: WorkItem) -> None:
        if item.state is State.QUEUED and (needed := await store.open_needs(unit.session, item.id)):
            raise Conflict(
                f"{item.key} waits for {', '.join(needed)}.",
                "It begins by itself when that is done; or take the dependency away.",
                code="waits",
            )

    @staticmethod
    def _must_be_free(unit: Unit, item: WorkItem, claim: Claim | None) -> None:
        if claim and claim.leased_until > unit.now and claim.holder and not is_dead(claim.holder):
            raise Conflict(
                f"{item.key} · {item.stage} · {item.round} is already claimed by {claim.holder}.",
                "It is being worked on: nothing to do.",
                code="already_claimed",
            )

    @staticmethod
    async def _take(unit: Unit, item: WorkItem, claim: Claim | None, holder: str, flow_run: str) -> Ticket:
        item.state, item.wake_at, item.move = State.RUNNING, None, None
        transitions.touch(unit, item)
        if claim is None:
            claim = Claim(
                item_id=item.id,
                stage=item.stage,
                round=item.round,
                fence=0,
                holder=holder,
                leased_until=unit.now,
                started_at=unit.now,
                taken_at=unit.now,
            )
        claim.fence += 1
        claim.holder, claim.flow_run = holder, flow_run
        claim.leased_until, claim.taken_at = unit.now + LEASE, unit.now
        unit.session.add(claim)
        await unit.session.flush()
        assert claim.id is not None
        return Ticket(claim.id, claim.fence, item.key, item.stage, item.round)

    async def run_of(self, ticket: Ticket) -> AgentRun | None:
        """The agent run of a claim, if there is one already."""
        async with self.database.read() as session:
            item = await store.item(session, ticket.key)
            return await store.run_of(session, item.id, ticket.stage, ticket.round)

    async def free_claims(self, of: Callable[[str], bool] = is_dead) -> int:
        """Give up the claims of some holders, so that nobody waits for their lease to run out.

        By default of those that died on this host; a desk that stops names itself.
        """
        async with self.database.read() as session:
            found = {claim.id: claim.fence for claim in await store.open_claims(session) if of(claim.holder)}
        if not found:
            return 0
        async with self.database.command("free claims") as unit:
            await store.free_claims(unit.session, found, unit.now)
            unit.wake("items")
        return len(found)

    async def block_hopeless(self) -> int:
        """Items that wait for a cancelled one would wait for ever: a person is asked instead."""
        async with self.database.read() as session:
            if not await store.hopeless(session):
                return 0
        async with self.database.command("block hopeless items") as unit:
            found = {item.key: (item, needed) for item, needed in await store.hopeless(unit.session)}
            for item, needed in found.values():
                why = f"It depends on {needed}, which was cancelled."
                todo = f"Take the dependency away, or retry {needed}; then retry this one."
                transitions.block(unit, item, rules.Block(why, todo))
        return len(found)

    async def wake_commit(self, unit: Unit, commit: str) -> list[str]:
        """CI or a reviewer said something about a commit: the items that wait for it are looked at now.

        Returns their keys.
        """
        await store.set_news(unit.session, commit)
        items = await store.waiting_for_commit(unit.session, commit)
        for item in items:
            item.wake_at = unit.now
            transitions.touch(unit, item)
        return [item.key for item in items]

    async def wake_waiting(
        self, unit: Unit, commits: Collection[str], keys: Collection[str], projects: Collection[UUID]
    ) -> list[str]:
        """There is news of these commits, and of the branches of these items of these projects.

        Those that wait for a gate are looked at now. Returns their keys.
        """
        for commit in sorted(commits):  # all before the first item: others lock in this order too
            await store.set_news(unit.session, commit)
        items = await store.waiting_for_news(unit.session, commits, keys, projects)
        for item in items:
            item.wake_at = unit.now
            transitions.touch(unit, item)
        return [item.key for item in items]

    async def flow_runs_under_way(self) -> list[str]:
        """The Prefect runs of stages that are worked on, or were when their process died."""
        async with self.database.read() as session:
            return await store.flow_runs_under_way(session)

    async def flow_runs_at_work(self) -> set[str]:
        """The Prefect runs that show signs of life, wherever they are."""
        async with self.database.read() as session:
            held = await store.open_claims(session)
        return {claim.flow_run for claim in held if claim.leased_until > self.database.clock.now()}

    async def interrupt(self, flow_run: str, why: str) -> bool:
        """Somebody cancelled a stage run from outside (Prefect's UI): stop its agent, then ask a person.

        What cannot be stopped now, or not from here, is left to `stop_interrupted_runs`.
        """
        async with self.database.command("interrupt") as unit:
            claim = await store.claim_of_flow(unit.session, flow_run)
            if claim is None or claim.ended_at is not None:
                return False
            claim.interrupted = claim.interrupted or why
            unit.session.add(claim)
        await self.stop_interrupted_runs()
        return True

    async def stop_interrupted_runs(self) -> int:
        """Stop the agents on this host whose stage runs were cancelled; whoever waits for them closes them.

        Raises `Unavailable` when some could not be stopped; the others were.
        """
        async with self.database.read() as session:
            found = await store.interrupted_runs(session, self.crew.host)
        return await _each(self.crew.stop(run, why) for run, why in found)

    async def stop_stray_runs(self) -> int:
        """Stop and close runs whose item went elsewhere: cancelled, or taken back by a person.

        Raises `Unavailable` when some could not be stopped; the others were.
        """
        async with self.database.read() as session:
            strays = await store.stray_runs(session)
        return await _each(self._stop_stray_run(run) for run in strays)

    async def _stop_stray_run(self, run: AgentRun) -> None:
        assert run.id is not None
        if outcome := await self.crew.stop(run, "the item no longer needs it"):
            async with self.database.command("close stray run") as unit:
                if await self.crew.close_run(unit, run.id, outcome):
                    unit.record("run_cancelled", item=run.item_key, run=run.id, agent=run.agent)
                    unit.wake("items")

    # People

    async def approval_of(self, key: str) -> Approval | None:
        """The newest request for a decision on an item."""
        async with self.database.read() as session:
            return await store.newest_approval(session, (await store.item(session, key)).id)

    async def approval(self, approval_id: UUID) -> Approval:
        """One request for a decision. Raises `NotFound`."""
        async with self.database.read() as session:
            return await store.approval(session, approval_id)

    async def decide(
        self,
        key: str,
        caller: Caller,
        *,
        approved: bool,
        comment: str = "",
        by: str | None = None,
        asked: UUID | None = None,
        said_at: datetime | None = None,
        request_key: str = "",
    ) -> Approval:
        """Approve or reject what waits for approval. The first decision wins.

        With `asked` it answers that request only, with `said_at` none that is younger; a repeated
        `request_key` is answered as before. Raises `Forbidden`, `Conflict` ("already decided by X", nothing
        waits, its stage is gone), `Invalid` (no comment), `NotFound` (no such item; or `by` is nobody of the
        roster's people).
        """
        said: dict[str, Any] = {"approved": approved, "comment": comment, "by": by, "asked": asked}
        request = request_of(caller.name, request_key, "decide", {"item": key, **said})
        async with self.database.command("decide approval") as unit:
            earlier = await earlier_answer(unit, request) if request else None
            if earlier and (known := await store.approval(unit.session, UUID(earlier["approval"]))):
                return known
            approval = await self.decide_within(unit, key, caller, said_at=said_at, **said)
            if request:
                await remember(unit, request, {"approval": str(approval.id)})
            return approval

    async def decide_within(
        self,
        unit: Unit,
        key: str,
        caller: Caller,
        *,
        approved: bool,
        comment: str = "",
        by: str | None = None,
        asked: UUID | None = None,
        said_at: datetime | None = None,
    ) -> Approval:
        """Decide as part of a larger command; see `decide`."""
        name = await self._decider(unit, caller, by, approved, comment)
        item = await store.item_for_update(unit.session, key)
        approval = await store.newest_approval(unit.session, item.id)
        if asked is not None and (approval is None or approval.id != asked):
            raise no_longer_asked(item.key, await store.approval(unit.session, asked, of=item.id))
        self._must_be_open(item, approval)
        assert approval is not None
        if asked is None and said_at is not None:
            before = await store.last_decision(unit.session, item.id)
            must_be_an_answer(said_at, approval.requested_at, before)
        if name == approval.requested_by:
            raise Forbidden("Whoever asks for approval may not give it.", "Ask somebody else.")
        approval.approved, approval.decided_by, approval.door = approved, name, caller.door
        approval.decided_at, approval.comment = unit.now, comment
        unit.session.add(approval)
        unit.record(
            "approval_decided",
            item=key,
            approval=str(approval.id),
            approved=approved,
            by=name,
            door=caller.door,
            comment=comment,
        )
        pipeline, stage = await self.pipelines.way_of(unit.session, item)
        step = rules.advance(pipeline, stage) if approved else rules.rejected(pipeline, stage, name, comment)
        await transitions.go(unit, item, step)
        unit.wake("approvals", approval.id)
        return approval

    async def _decider(self, unit: Unit, caller: Caller, by: str | None, approved: bool, comment: str) -> str:
        if not caller.may_approve:
            raise Forbidden(
                f"{caller.name} may not approve or reject.", "Ask the owner for `may_approve` in the roster."
            )
        if not approved and not comment.strip():
            raise Invalid("A rejection needs a comment.", "Say what must change.", field="comment")
        name = caller.acting_for(by)
        if name != caller.name:
            await self.crew.person(unit.session, name)
        return name

    @staticmethod
    def _must_be_open(item: WorkItem, approval: Approval | None) -> None:
        if (
            item.state is not State.WAITING_APPROVAL
            and approval is not None
            and approval.approved is not None
        ):
            raise no_longer_asked(item.key, approval)
        if item.state is not State.WAITING_APPROVAL or approval is None:
            raise Conflict(
                f"{item.key} does not wait for approval: it is {item.state.value} in {item.stage}.",
                "Wait until its agent asks.",
                code="not_waiting",
                item=item.key,
            )

    async def cancel(self, key: str, caller: Caller, comment: str = "", request_key: str = "") -> Card:
        """Stop the item for good (a retry reopens it); its agent is stopped within seconds.

        A repeated `request_key` changes nothing and is answered as before; so with `retry` and `move`.
        """
        caller.must_write()
        asked = request_of(caller.name, request_key, "cancel", {"item": key, "comment": comment})
        async with self.database.command("cancel item") as unit:
            return await once(unit, asked, Card, lambda: by_hand.cancel(unit, key, caller, comment))

    async def retry(self, key: str, caller: Caller, comment: str = "", request_key: str = "") -> Card:
        """Another try of the stage where it is blocked, with a fresh budget; reopens a cancelled item.

        The comment goes to the agent, after the reason for which it was blocked.
        """
        caller.must_write()
        asked = request_of(caller.name, request_key, "retry", {"item": key, "comment": comment})
        async with self.database.command("retry item") as unit:
            work = by_hand.retry
            return await once(unit, asked, Card, lambda: work(unit, self.pipelines, key, caller, comment))

    async def move(
        self,
        key: str,
        caller: Caller,
        to: str,
        comment: str = "",
        version: int | None = None,
        request_key: str = "",
    ) -> Card:
        """Put an item back into a stage, for another round there with a fresh budget; never forward.

        Whatever goes on in the stage that it leaves is stopped. The comment goes to the agent. Raises
        `Forbidden`, `NotFound` (item or stage), `Stale` when the item is not at `version` any more, and
        `Conflict`: it is done or cancelled, the stage lies ahead, or it stands for work of another source.
        """
        caller.must_write()
        way = by_hand.Way(to, comment, version)
        asked = request_of(caller.name, request_key, "move", {"item": key, **asdict(way)})
        async with self.database.command("move item") as unit:
            work = by_hand.move
            return await once(unit, asked, Card, lambda: work(unit, self.pipelines, key, caller, way))

    # Approval forms (shown by whoever has a UI; the decision never waits for them)

    async def approvals_without_form(self) -> list[Approval]:
        async with self.database.read() as session:
            return await store.approvals_without_form(session)

    async def open_forms(self) -> list[Approval]:
        async with self.database.read() as session:
            return await store.open_forms(session)

    async def forms_to_close(self) -> list[Approval]:
        async with self.database.read() as session:
            return await store.forms_to_close(session)

    async def form_opened(self, approval_id: UUID, flow_run: str) -> None:
        async with self.database.command("record approval form") as unit:
            approval = await store.approval(unit.session, approval_id)
            approval.flow_run = flow_run
            unit.session.add(approval)

    async def form_closed(self, approval_id: UUID) -> None:
        async with self.database.command("record closed form") as unit:
            approval = await store.approval(unit.session, approval_id)
            approval.form_closed = True
            unit.session.add(approval)


async def _each(stops: Iterable[Awaitable[object]]) -> int:
    """All at once, as each may take its grace; the first error is raised when the others are through."""
    ends = await asyncio.gather(*stops, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return len(ends)
