"""Work on one stage: what the holder of a claim may do, and how each result is recorded.

Every method is one transaction that first checks the fencing number, and that the item still runs where
the claim says: a holder that was taken over by another, or whose item a person moved, gets `Stale` and must
stop, having changed nothing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from quarterdeck.board.model import FINAL, Project, State, WorkItem
from quarterdeck.crew.model import AgentRun
from quarterdeck.crew.runtime import Outcome
from quarterdeck.crew.service import Crew
from quarterdeck.forge.rules import ITEMS
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Stale
from quarterdeck.pipeline import rules, store, transitions
from quarterdeck.pipeline.definition import Pipeline, Stage
from quarterdeck.pipeline.gates import Answer, Asked
from quarterdeck.pipeline.model import Approval, Claim, GateCheck, GateVerdict
from quarterdeck.pipeline.rules import AskApproval, Block, Decision, Facts, Step, Wait

LEASE = timedelta(seconds=30)
"""How long a claim is held without a sign of life; renewed at a third of it."""


@dataclass(frozen=True)
class Ticket:
    """Which claim is held, and its fencing number."""

    claim_id: int
    fence: int
    key: str
    stage: str
    round: int

    def __str__(self) -> str:
        return f"{self.key} · {self.stage} · {self.round}"


@dataclass(frozen=True)
class Assignment:
    """What the effects outside need to know of a stage under way; `snapshot`: as of when."""

    item: WorkItem
    project: Project
    stage: Stage
    base: str = ""
    snapshot: str = ""
    wants_ci: bool = False

    @property
    def branch(self) -> str:
        return branch_of(self.item.key)

    @property
    def repository(self) -> str:
        return repository_of(self.project)

    def asks(self, gate: str) -> Asked:
        """The question that a gate puts to the code host."""
        needs = next(g.needs for g in self.stage.gates if g.name == gate)
        return Asked(
            item_key=self.item.key,
            title=self.item.title,
            repository=self.repository,
            branch=self.branch,
            base=self.project.default_branch,
            needs=needs,
            wants_ci=self.wants_ci,
        )


def branch_of(item_key: str) -> str:
    """The branch on which an item is worked on."""
    return f"{ITEMS}/{item_key}"


def key_of(branch: str) -> str:
    """The item that is worked on on a branch; "" if it is nobody's."""
    return branch.removeprefix(f"{ITEMS}/") if branch.startswith(f"{ITEMS}/") else ""


def repository_of(project: Project) -> str:
    """The project's repository; one of its own when none was named."""
    return project.repository or project.key.lower()


class StageWork:
    """The holder's side of one claim."""

    def __init__(self, database: Database, crew: Crew, ticket: Ticket, pipeline: Pipeline) -> None:
        self.ticket = ticket
        self._database = database
        self._crew = crew
        self._pipeline = pipeline
        self._asked: set[str] = set()  # the gates that answered since the claim was taken
        stage = pipeline.stage(ticket.stage)
        assert stage is not None, "a claim is only given for a stage of the pipeline"
        self.stage: Stage = stage

    @asynccontextmanager
    async def _command(self, name: str) -> AsyncIterator[tuple[Unit, WorkItem, Claim]]:
        """A transaction in which the claim is surely ours. Raises `Stale` or `Conflict` (cancelled)."""
        async with self._database.command(name) as unit:
            item = await store.item_for_update(unit.session, self.ticket.key)
            claim = await store.claim_for_update(unit.session, item.id, self.ticket.stage, self.ticket.round)
            self._must_hold(item, claim)
            assert claim is not None
            if claim.flow_run:
                unit.circumstances["flow_run"] = claim.flow_run
            yield unit, item, claim

    def _must_hold(self, item: WorkItem, claim: Claim | None) -> None:
        if item.state in FINAL:
            raise Conflict(f"{item.key} is {item.state.value}.", "Nothing more is done.", code="item_final")
        is_here = (item.stage, item.round) == (self.ticket.stage, self.ticket.round)
        if not is_here or item.state is not State.RUNNING:
            raise Stale(
                f"{item.key} was taken away from {self.ticket.stage}, round {self.ticket.round}: it is "
                f"{item.state.value} in {item.stage}, round {item.round}.",
                "Nothing more is done.",
                code="claim_lost",
            )
        if claim is None or claim.fence != self.ticket.fence or claim.ended_at is not None:
            raise Stale(
                f"The claim on {self.ticket} was taken over.", "The new holder goes on.", code="claim_lost"
            )

    async def assignment(self) -> Assignment:
        async with self._database.read() as session:
            item = await store.item(session, self.ticket.key)
            claim = await store.claim(session, self.ticket.claim_id)
            project = await store.project_of(session, item)
            wants_ci, snapshot = self._pipeline.asks("check_ci_green"), await store.snapshot(session)
            return Assignment(item, project, self.stage, claim.base, snapshot, wants_ci)

    async def next_step(self) -> Step:
        """What to do now, from what is recorded."""
        async with self._database.read() as session:
            item = await store.item(session, self.ticket.key)
            claim = await store.claim(session, self.ticket.claim_id)
            self._must_hold(item, claim)
            run = await store.run_of(session, item.id, self.ticket.stage, self.ticket.round)
            checks = await store.checks_of(session, item.id, self.ticket.stage, self.ticket.round)
        return rules.next_step(self._facts(item, claim, run, checks), self._database.clock.now())

    def _facts(self, item: WorkItem, claim: Claim, run: AgentRun | None, checks: list[GateCheck]) -> Facts:
        return Facts(
            pipeline=self._pipeline,
            stage=self.stage,
            state=item.state,
            run=run_facts(run) if run else None,
            published=bool(claim.head),
            publish_error=claim.publish_error,
            interrupted=claim.interrupted,
            note=item.note,
            gates={
                check.gate: rules.GateFacts(
                    check.verdict, check.reason, check.expires_at, fresh=check.gate in self._asked
                )
                for check in checks
            },
            spent=item.spent,
        )

    async def must_have_the_tree(self) -> None:
        """Raises `Conflict` (busy) while a run of another round goes on here: it has the item's work tree.

        None can begin meanwhile, for only the item's own round is given runs.
        """
        async with self._database.read() as session:
            item = await store.item(session, self.ticket.key)
            run = await store.run_of_another_round(session, item.id, self._crew.host)
        if run is not None:
            raise Conflict(
                f"Run {run.id} of {run.stage}, round {run.round}, still works on {item.key}.",
                "It is stopped; this round begins when it has ended.",
                code="busy",
            )

    async def open_run(self, base: str) -> AgentRun:
        """Commit the run before its program starts on `base`. Raises `Conflict` when no slot is free."""
        async with self._command("open run") as (unit, item, claim):
            claim.base = base
            unit.session.add(claim)
            return await self._crew.open_run(
                unit,
                item_id=item.id,
                item_key=item.key,
                stage=self.ticket.stage,
                round=self.ticket.round,
                agent=self.stage.agent,
                limit_seconds=self.stage.limit.total_seconds(),
                idempotency_key=str(self.ticket),
            )

    async def run_started(self, run_id: int) -> None:
        """The program is alive; told once, however often it is adopted."""
        async with self._command("start run") as (unit, item, _):
            if await self._crew.mark_started(unit, run_id):
                unit.record("agent_started", item=item.key, run=run_id, agent=self.stage.agent)

    async def run_ended(self, run_id: int, outcome: Outcome) -> None:
        """Record how a run ended, once."""
        async with self._command("end run") as (unit, item, _):
            if await self._crew.close_run(unit, run_id, outcome):
                tell_outcome(unit, item.key, run_id, self.stage.agent, self.stage.limit, outcome)

    async def published(self, head: str) -> None:
        async with self._command("record publication") as (unit, item, claim):
            claim.head = head
            unit.session.add(claim)
            unit.record("work_published", item=item.key, commit=head)

    async def publish_failed(self, reason: str) -> None:
        async with self._command("record failed publication") as (unit, item, claim):
            claim.publish_error = reason
            unit.session.add(claim)
            unit.record("work_refused", item=item.key, reason=reason)

    async def gate_answered(self, gate: str, answer: Answer, snapshot: str) -> None:
        """Record a gate's answer; a pending one keeps the time of the first about its commit.

        `snapshot` is the assignment's, taken before the gate was asked.
        """
        async with self._command(f"record {gate}") as (unit, item, _):
            checks = await store.checks_of(unit.session, item.id, self.ticket.stage, self.ticket.round)
            check = next((known for known in checks if known.gate == gate), None) or GateCheck(
                item_id=item.id,
                stage=self.ticket.stage,
                round=self.ticket.round,
                gate=gate,
                verdict=answer.verdict,
                first_at=unit.now,
                at=unit.now,
            )
            if check.commit != answer.commit:
                check.first_at = unit.now
            check.verdict, check.reason, check.commit, check.at = (
                answer.verdict, answer.reason, answer.commit, unit.now,
            )  # fmt: skip
            check.snapshot = snapshot
            patience = self.stage.patience if answer.patience is None else answer.patience
            check.expires_at = check.first_at + patience
            unit.session.add(check)
            if answer.verdict is GateVerdict.PASSED:
                unit.record("gate_passed", item=item.key, gate=gate)
            elif answer.verdict is not GateVerdict.PENDING:
                unit.record("gate_failed", item=item.key, gate=gate, reason=answer.reason)
        self._asked.add(gate)

    async def record(self, decision: Decision) -> None:
        """Write the decision that ends this stage run."""
        async with self._command(f"decide {type(decision).__name__.lower()}") as (unit, item, claim):
            if isinstance(decision, Wait):
                await self._wait(unit, item, claim, decision)
                return
            claim.ended_at = unit.now
            self._free(unit, claim)
            match decision:
                case AskApproval():
                    self._ask(unit, item)
                case Block():
                    transitions.block(unit, item, decision)
                case _:
                    await transitions.go(unit, item, decision)

    async def _wait(self, unit: Unit, item: WorkItem, claim: Claim, decision: Wait) -> None:
        checks = await store.checks_of(unit.session, item.id, self.ticket.stage, self.ticket.round)
        check = next(known for known in checks if known.gate == decision.gate)
        item.state, item.wake_at = State.WAITING_GATE, decision.until
        if check.commit and await store.has_news(unit.session, check.commit, check.snapshot):
            item.wake_at = unit.now  # it was said between our question and this moment
        item.move = transitions.move(
            unit, decision.gate, decision.reason, "Nothing: it is asked again by itself."
        )
        transitions.touch(unit, item)
        self._free(unit, claim)

    def _ask(self, unit: Unit, item: WorkItem) -> None:
        approval = Approval(
            item_id=item.id,
            item_key=item.key,
            stage=self.ticket.stage,
            round=self.ticket.round,
            requested_by=self.stage.agent,
            requested_at=unit.now,
        )
        unit.session.add(approval)
        item.state = State.WAITING_APPROVAL
        item.move = transitions.move(
            unit,
            "approver",
            f"{self.stage.agent} asks for approval of {self.ticket.stage}.",
            "Approve or reject.",
        ) | {"approval": str(approval.id)}
        transitions.touch(unit, item)
        unit.record("approval_requested", item=item.key, stage=self.ticket.stage, approval=str(approval.id))
        unit.wake("approvals", approval.id)

    @staticmethod
    def _free(unit: Unit, claim: Claim) -> None:
        claim.holder, claim.leased_until = "", unit.now
        unit.session.add(claim)

    async def renew(self) -> None:
        """A sign of life. Raises `Stale` when the claim is lost, `Conflict` when the item is final."""
        async with self._command("renew claim") as (unit, _, claim):
            claim.leased_until = unit.now + LEASE
            unit.session.add(claim)

    async def postpone(self, seconds: float) -> None:
        """The agent is busy: back into the queue for a moment."""
        async with self._command("postpone") as (unit, item, claim):
            transitions.postpone(unit, item, timedelta(seconds=seconds))
            self._free(unit, claim)

    async def release(self, seconds: float) -> None:
        """Something we need is down: whoever comes first afterwards goes on where we stopped."""
        async with self._command("release claim") as (unit, item, claim):
            item.wake_at = unit.now + timedelta(seconds=seconds)
            claim.holder, claim.leased_until = "", item.wake_at
            unit.session.add_all([claim, item])

    async def failed(self, error: str) -> None:
        """The engine itself failed here: try again with a growing pause, then ask a person."""
        async with self._command("record engine failure") as (unit, item, claim):
            cause = f"engine:{self.ticket.stage}"
            tries = item.spent.get(cause, 0)
            if tries >= self.stage.rounds:
                claim.ended_at = unit.now
                self._free(unit, claim)
                transitions.block(unit, item, Block(error, "Look at the desk's log, then retry the item."))
                return
            item.spent = {**item.spent, cause: tries + 1}
            item.wake_at = unit.now + timedelta(seconds=2 ** (tries + 1))
            claim.holder, claim.leased_until = "", item.wake_at
            unit.session.add_all([claim, item])
            unit.record("engine_failed", item=item.key, reason=error, tries=tries + 1)


def run_facts(run: AgentRun) -> rules.RunFacts:
    """A stored run as the rules see it."""
    assert run.id is not None
    facts = rules.RunFacts(run.id)
    if run.ended_at is None:
        return facts
    return replace(
        facts,
        ended=True,
        exit_code=run.exit_code,
        timed_out=run.timed_out,
        cancelled=run.cancelled,
        error=run.error,
    )


def tell_outcome(unit: Unit, key: str, run_id: int, agent: str, limit: timedelta, outcome: Outcome) -> None:
    """The one event that says how a run ended."""
    seconds = (
        (outcome.ended_at - outcome.started_at).total_seconds()
        if outcome.started_at and outcome.ended_at
        else None
    )
    if outcome.cancelled:
        unit.record("run_cancelled", item=key, run=run_id, agent=agent)
    elif outcome.timed_out:
        seconds = limit.total_seconds()
        unit.record("agent_timed_out", item=key, run=run_id, agent=agent, limit_seconds=seconds)
    elif outcome.started_at is None:
        unit.record("error", item=key, run=run_id, reason="Failed to launch agent", detail=outcome.error)
    elif outcome.exit_code == 0 and not outcome.error:
        unit.record("agent_finished", item=key, run=run_id, agent=agent, exit_code=0, seconds=seconds)
    else:
        unit.record(
            "agent_failed", item=key, run=run_id, agent=agent, exit_code=outcome.exit_code, seconds=seconds
        )
