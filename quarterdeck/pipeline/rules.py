"""What comes next for a work item: pure decisions from recorded facts (orchestrator spec, section 2).

`next_step` looks at what is recorded for one (item, stage, round) and names one step. Whoever holds the
claim performs it and records the result, which changes the facts; the same facts always give the same
step, so a crash between any two of them costs nothing and repeats nothing.

    agent stage   StartRun → AwaitRun → Publish → CheckGate … → AskApproval → Advance
    engine stage  CheckGate … → Advance
    on trouble    Repair (a new round), Wait (something outside must report), Block (a person must act)
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from quarterdeck.board.model import FINAL, State
from quarterdeck.crew.runtime import CLOSED
from quarterdeck.pipeline.definition import DONE, Pipeline, Stage
from quarterdeck.pipeline.model import GateVerdict

POLL = timedelta(seconds=15)
"""How often a pending gate is asked again when nothing wakes the item."""

TOLERANCE = timedelta(seconds=30)
"""How far the clock of a door may be behind ours before an answer seems older than its question."""

Place = tuple[str, str]
"""A pipeline, and a stage of it."""

RELAUNCH = timedelta(seconds=2)
"""The pause after a launch that failed, doubled each time: at once it would fail again."""


DOWN = timedelta(seconds=2)
"""The pause when something we need is down, and does not say for how long."""


def pause_when_down(told: float | None, limit: timedelta) -> timedelta:
    """Until a stage goes on whose work somebody was too busy for; `told`: the seconds that were asked for.

    Nobody makes it wait longer than the stage itself may take (`limit`).
    """
    return max(DOWN, min(timedelta(seconds=told or 0), limit))


@dataclass(frozen=True)
class RunFacts:
    """The agent run of this round."""

    id: int
    ended: bool = False
    exit_code: int | None = None
    timed_out: bool = False
    cancelled: bool = False
    error: str = ""

    @property
    def was_launched(self) -> bool:
        return not self.ended or self.exit_code is not None

    @property
    def succeeded(self) -> bool:
        return self.ended and self.exit_code == 0 and not (self.timed_out or self.cancelled or self.error)


@dataclass(frozen=True)
class GateFacts:
    """The newest answer of one gate in this round; a stale "pending" is asked again before it counts."""

    verdict: GateVerdict
    reason: str = ""
    expires_at: datetime | None = None
    fresh: bool = True


@dataclass(frozen=True)
class Facts:
    """Everything recorded about one (item, stage, round) that a decision may depend on."""

    pipeline: Pipeline
    stage: Stage
    state: State
    run: RunFacts | None = None
    published: bool = False
    publish_error: str = ""
    interrupted: str = ""
    note: str = ""
    gates: Mapping[str, GateFacts] = field(default_factory=dict)
    spent: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StartRun:
    """Give the stage's agent its job."""


@dataclass(frozen=True)
class AwaitRun:
    """The agent is at work, or was when somebody last looked: adopt it and wait."""

    run_id: int


@dataclass(frozen=True)
class Publish:
    """Push what the agent committed; open the pull request or give the review it reported."""

    run_id: int


@dataclass(frozen=True)
class CheckGate:
    """Ask this gate."""

    gate: str


@dataclass(frozen=True)
class AskApproval:
    """A person decides; the stage run ends here."""


@dataclass(frozen=True)
class Wait:
    """Something outside must report; look again at `until` at the latest."""

    gate: str
    reason: str
    until: datetime


@dataclass(frozen=True)
class Advance:
    """Every gate passed: on to the next stage, or done."""

    to: str
    agent: str | None


@dataclass(frozen=True)
class Repair:
    """Back to `to` for another round, because of `cause`, with `note` for its agent, after `pause`."""

    to: str
    agent: str | None
    cause: str
    note: str
    pause: timedelta = timedelta(0)


@dataclass(frozen=True)
class Block:
    """A person must act: why, and what they can do. `cancelled`: because a person stopped it.

    `note` is for the agent of the next round, should it be retried; empty = what it was told before.
    """

    why: str
    todo: str
    cancelled: bool = False
    note: str = ""


Step = StartRun | AwaitRun | Publish | CheckGate | AskApproval | Wait | Advance | Repair | Block
Decision = AskApproval | Wait | Advance | Repair | Block
"""Steps that end the stage run: they are recorded, and nothing else is done."""


def next_step(facts: Facts, now: datetime) -> Step:
    """The one thing to do now."""
    if facts.interrupted and (facts.run is None or facts.run.ended):
        return Block(facts.interrupted, "Retry the stage, or cancel the item.", cancelled=True)
    if not facts.stage.is_engine:
        step = _agent_step(facts)
        if step is not None:
            return step
    for gate in facts.stage.gates:
        step = _gate_step(facts, gate.name, now)
        if step is not None:
            return step
    return AskApproval() if facts.stage.approval else advance(facts.pipeline, facts.stage)


def _agent_step(facts: Facts) -> Step | None:
    run = facts.run
    if run is None:
        return StartRun()
    if not run.ended:
        return AwaitRun(run.id)
    if run.cancelled and run.error == CLOSED:
        return Repair(facts.stage.name, starter(facts.stage), cause="", note=facts.note)
    if run.cancelled:
        return Block(
            f"The run of {facts.stage.agent} was cancelled.",
            "Retry the stage, or cancel the item.",
            cancelled=True,
        )
    if not run.succeeded:
        return _failed_run(facts, run)
    if facts.publish_error:
        return again(facts, f"agent:{facts.stage.name}", facts.stage.name, facts.publish_error)
    return None if facts.published else Publish(run.id)


def _gate_step(facts: Facts, gate: str, now: datetime) -> Step | None:
    known = facts.gates.get(gate)
    if known is None or (known.verdict is GateVerdict.PENDING and not known.fresh):
        return CheckGate(gate)
    said = f"{gate}: {known.reason}"
    match known.verdict:
        case GateVerdict.PASSED:
            return None
        case GateVerdict.FAILED:
            return again(facts, f"gate:{gate}", facts.stage.back, said)
        case GateVerdict.STUCK:
            return Block(said, "Mend the cause, then retry the item.", note=said)
        case GateVerdict.PENDING:
            if known.expires_at is not None and now >= known.expires_at:
                return Block(said, "Find out why nothing reports, then retry the item.", note=said)
            return Wait(gate, known.reason, min(now + POLL, known.expires_at or now + POLL))


def _failed_run(facts: Facts, run: RunFacts) -> Repair | Block:
    cause = f"agent:{facts.stage.name}"
    step = again(facts, cause, facts.stage.name, failure(facts.stage, run))
    if isinstance(step, Block) or run.was_launched:
        return step
    return replace(step, pause=RELAUNCH * 2 ** facts.spent.get(cause, 0))


def failure(stage: Stage, run: RunFacts) -> str:
    """What went wrong with a run, in one sentence for the next round's agent and for people."""
    if run.error:
        return run.error
    if run.timed_out:
        return f"{stage.agent} was killed at its limit of {stage.limit.total_seconds():g} s"
    return f"{stage.agent} failed (exit_code={run.exit_code})"


def again(facts: Facts, cause: str, to: str, note: str) -> Repair | Block:
    """Another round if the budget of this cause allows it, else a person's move."""
    used, allowed = facts.spent.get(cause, 0), facts.stage.rounds
    if used >= allowed:
        return Block(
            f"All {allowed} repairs are used up. Last reason: {note}",
            "Look at the log of the last run, mend the cause, then retry the item.",
            note=note,
        )
    target = facts.pipeline.stage(to)
    assert target is not None, "a pipeline is checked at load"
    return Repair(to, starter(target), cause, note)


def advance(pipeline: Pipeline, stage: Stage) -> Advance:
    """The way forward from a stage whose gates all passed."""
    following = pipeline.after(stage.name)
    return Advance(following.name, starter(following)) if following else Advance(DONE, None)


def rejected(pipeline: Pipeline, stage: Stage, by: str, comment: str) -> Repair:
    """A person said no: back with their words. That is no failure, so no budget is spent."""
    target = pipeline.stage(stage.back)
    assert target is not None, "a pipeline is checked at load"
    return Repair(stage.back, starter(target), "", f"rejected by {by}: {comment}".rstrip(": "))


def was_said_before(said_at: datetime, asked_at: datetime, last_decision: datetime | None) -> bool:
    """Is an answer older than the question that it would answer?

    Clocks may differ, unless it may have been meant for the question before, decided at `last_decision`.
    """
    if last_decision is not None and last_decision > said_at - TOLERANCE:
        return said_at < asked_at
    return said_at < asked_at - TOLERANCE


def starter(stage: Stage) -> str | None:
    """The agent that begins there, if it is one."""
    return None if stage.is_engine else stage.agent


class Line:
    """Lets no more of those that wait begin than their agents have free slots.

    `agents` are those of the places, `free` their slots; each of the places in `taken` has one of these.
    """

    def __init__(
        self, agents: Mapping[Place, str], free: Mapping[str, int], taken: Iterable[Place] = ()
    ) -> None:
        self._agents = agents
        self._free = dict(free)
        for pipeline, stage in taken:
            self.lets_in(pipeline, stage, State.QUEUED)

    @property
    def full(self) -> list[Place]:
        """Where no agent can begin anything more."""
        return [place for place, agent in self._agents.items() if self._free.get(agent, 1) <= 0]

    def lets_in(self, pipeline: str, stage: str, state: State) -> bool:
        """A new one takes a slot. An agent who left the roster has none to take: that shows at the claim."""
        agent = self._agents.get((pipeline, stage), "")
        if state is not State.QUEUED or agent not in self._free:
            return True
        self._free[agent] -= 1
        return self._free[agent] >= 0


def may_be_claimed(state: State) -> bool:
    """Is there work for the engine in this state?"""
    return state in (State.QUEUED, State.RUNNING, State.WAITING_GATE)


def may_be_cancelled(state: State) -> bool:
    return state not in FINAL


def may_be_retried(state: State) -> bool:
    """Blocked items go on; cancelled ones are taken up again."""
    return state in (State.BLOCKED, State.CANCELLED)


def may_be_moved(state: State, *, is_lost: bool = False) -> bool:
    """What is done stays done, and what was cancelled is retried first.

    That cannot be where an item is lost: its stage left the pipeline. A move takes it up again then.
    """
    return state not in FINAL or (state is State.CANCELLED and is_lost)


def ways_back(pipeline: Pipeline, stage: str, been: Collection[str]) -> tuple[str, ...]:
    """The stages to which a person may move an item: its own, and all before it.

    `been` are the stages that were ever worked on; they count if its own was taken out of the pipeline.
    """
    names = [one.name for one in pipeline.stages]
    reached = [stage] if stage in names else [name for name in been if name in names]
    return tuple(names[: 1 + max(map(names.index, reached), default=0)])


@dataclass(frozen=True)
class Standing:
    """Where an item stands, as far as rules change it. Its round is counted where rounds are recorded."""

    stage: str
    state: State
    spent: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def moved(standing: Standing, step: Advance | Repair) -> Standing:
    """The item after a move along its pipeline: queued for a new round there, or done."""
    spent = dict(standing.spent)
    if isinstance(step, Repair) and step.cause:
        spent[step.cause] = spent.get(step.cause, 0) + 1
    state = State.DONE if step.to == DONE else State.QUEUED
    return Standing(step.to, state, spent, step.note if isinstance(step, Repair) else "")


def retried(standing: Standing, stage: Stage, words: str = "") -> Standing:
    """The item after a person asked for another try: the budget of this stage's causes starts anew.

    The words of whoever asked come after what its agent would be told anyway.
    """
    return moved_by_hand(standing, stage, "\n".join(filter(None, [standing.note, words])))


def moved_by_hand(standing: Standing, stage: Stage, note: str) -> Standing:
    """The item after a person put it into this stage, with a fresh budget there."""
    mine = {f"agent:{stage.name}", f"engine:{stage.name}", *(f"gate:{gate.name}" for gate in stage.gates)}
    spent = {cause: count for cause, count in standing.spent.items() if cause not in mine}
    return Standing(stage.name, State.QUEUED, spent, note)
