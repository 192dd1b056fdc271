"""The rules of the pipeline, without a database: every decision is a function of recorded facts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import ValidationError

from quarterdeck.board.model import State
from quarterdeck.crew.runtime import CLOSED
from quarterdeck.pipeline.definition import DONE, Pipeline
from quarterdeck.pipeline.model import GateVerdict
from quarterdeck.pipeline.rules import (
    Advance,
    AskApproval,
    AwaitRun,
    Block,
    CheckGate,
    Facts,
    GateFacts,
    Publish,
    Repair,
    RunFacts,
    Standing,
    StartRun,
    Wait,
    advance,
    may_be_cancelled,
    may_be_claimed,
    may_be_retried,
    moved,
    next_step,
    pause_when_down,
    rejected,
    retried,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PIPELINE = Pipeline.model_validate(
    {
        "name": "default",
        "stages": [
            {
                "name": "analysis",
                "agent": "analyst",
                "gates": [{"check_documents": ["brd"]}],
                "approval": True,
            },
            {"name": "development", "agent": "developer", "gates": ["check_pr_open", "check_ci_green"]},
            {
                "name": "merge",
                "agent": "engine",
                "gates": ["check_merged"],
                "fails_to": "development",
                "rounds": 1,
            },
        ],
    }
)


def facts(stage: str = "development", **known: object) -> Facts:
    found = PIPELINE.stage(stage)
    assert found
    return replace(Facts(PIPELINE, found, State.RUNNING), **known)  # type: ignore[arg-type]


FINISHED = RunFacts(7, ended=True, exit_code=0)
PASSED = GateFacts(GateVerdict.PASSED)


def test_a_stage_starts_with_its_agent() -> None:
    assert next_step(facts(), NOW) == StartRun()


def test_a_run_that_is_under_way_is_adopted_and_never_started_again() -> None:
    assert next_step(facts(run=RunFacts(7)), NOW) == AwaitRun(7)


def test_work_is_published_before_any_gate_is_asked() -> None:
    assert next_step(facts(run=FINISHED), NOW) == Publish(7)


def test_gates_are_asked_in_their_order() -> None:
    known = facts(run=FINISHED, published=True)
    assert next_step(known, NOW) == CheckGate("check_pr_open")
    assert next_step(replace(known, gates={"check_pr_open": PASSED}), NOW) == CheckGate("check_ci_green")


def test_when_all_gates_passed_the_item_goes_on_and_its_next_agent_is_named() -> None:
    known = facts(run=FINISHED, published=True, gates={"check_pr_open": PASSED, "check_ci_green": PASSED})
    assert next_step(known, NOW) == Advance("merge", None)
    assert advance(PIPELINE, known.pipeline.stages[0]) == Advance("development", "developer")


def test_after_the_last_stage_an_item_is_done() -> None:
    assert next_step(facts("merge", gates={"check_merged": PASSED}), NOW) == Advance(DONE, None)


def test_an_engine_stage_has_no_agent_and_goes_straight_to_its_gates() -> None:
    assert next_step(facts("merge"), NOW) == CheckGate("check_merged")


def test_a_stage_with_approval_asks_a_person_after_its_gates() -> None:
    known = facts("analysis", run=FINISHED, published=True, gates={"check_documents": PASSED})
    assert next_step(known, NOW) == AskApproval()


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (RunFacts(7, ended=True, exit_code=1), "developer failed (exit_code=1)"),
        (
            RunFacts(7, ended=True, exit_code=-9, timed_out=True),
            "developer was killed at its limit of 1800 s",
        ),
        (RunFacts(7, ended=True, exit_code=0, error="the result is not JSON"), "the result is not JSON"),
    ],
)
def test_an_agent_that_fails_uses_up_one_round_of_its_stage(run: RunFacts, said: str) -> None:
    step = next_step(facts(run=run), NOW)
    assert step == Repair("development", "developer", "agent:development", said)


def test_a_launch_that_failed_is_tried_again_after_a_pause_that_grows() -> None:
    never = facts(run=RunFacts(7, ended=True, error="no such program"))
    first, second = next_step(never, NOW), next_step(replace(never, spent={"agent:development": 1}), NOW)
    assert isinstance(first, Repair)
    assert isinstance(second, Repair)
    assert timedelta(0) < first.pause < second.pause


def test_rounds_used_up_block_the_item_and_the_last_reason_is_told() -> None:
    step = next_step(facts(run=RunFacts(7, ended=True, exit_code=1), spent={"agent:development": 3}), NOW)
    assert isinstance(step, Block)
    assert "All 3 repairs are used up" in step.why
    assert "exit_code=1" in step.why
    assert step.note == "developer failed (exit_code=1)"


def test_a_failed_gate_sends_its_reason_to_the_stage_that_can_repair_it() -> None:
    step = next_step(facts("merge", gates={"check_merged": GateFacts(GateVerdict.FAILED, "moved on")}), NOW)
    assert step == Repair("development", "developer", "gate:check_merged", "check_merged: moved on")


def test_budgets_are_counted_per_cause() -> None:
    gates = {"check_pr_open": PASSED, "check_ci_green": GateFacts(GateVerdict.FAILED, "red")}
    known = facts(
        run=FINISHED, published=True, gates=gates, spent={"agent:development": 3, "gate:check_pr_open": 3}
    )
    assert isinstance(next_step(known, NOW), Repair)
    assert isinstance(next_step(replace(known, spent={"gate:check_ci_green": 3}), NOW), Block)


def test_a_gate_that_cannot_be_repaired_from_there_blocks_at_once() -> None:
    gates = {"check_pr_open": PASSED, "check_ci_green": GateFacts(GateVerdict.STUCK, "red on main too")}
    step = next_step(facts(run=FINISHED, published=True, gates=gates), NOW)
    assert isinstance(step, Block)
    assert step.why == step.note == "check_ci_green: red on main too"


def test_a_pending_gate_is_no_failure_and_is_waited_for_until_its_patience_ends() -> None:
    pending = GateFacts(GateVerdict.PENDING, "CI state: pending", expires_at=NOW + timedelta(hours=1))
    known = facts(run=FINISHED, published=True, gates={"check_pr_open": PASSED, "check_ci_green": pending})
    step = next_step(known, NOW)
    assert isinstance(step, Wait)
    assert NOW < step.until <= NOW + timedelta(hours=1)
    assert isinstance(next_step(known, NOW + timedelta(hours=1)), Block)


def test_an_old_pending_answer_is_asked_again_before_it_counts() -> None:
    old = GateFacts(GateVerdict.PENDING, "CI state: pending", expires_at=NOW, fresh=False)
    known = facts(run=FINISHED, published=True, gates={"check_pr_open": PASSED, "check_ci_green": old})
    assert next_step(known, NOW) == CheckGate("check_ci_green")


def test_a_rejection_goes_back_with_the_persons_words_and_costs_no_round() -> None:
    step = rejected(PIPELINE, PIPELINE.stages[0], "anna", "say who pays")
    assert step == Repair("analysis", "analyst", "", "rejected by anna: say who pays")
    before = Standing("analysis", State.WAITING_APPROVAL, {"agent:analysis": 1})
    assert moved(before, step).spent == before.spent


def test_a_cancelled_stage_run_asks_a_person() -> None:
    step = next_step(facts(run=RunFacts(7, ended=True, cancelled=True)), NOW)
    assert isinstance(step, Block)
    waiting = facts(run=RunFacts(7), interrupted="cancelled in Prefect")
    assert next_step(waiting, NOW) == AwaitRun(7), "its agent is still being stopped"
    assert isinstance(next_step(facts(interrupted="cancelled in Prefect"), NOW), Block)


def test_a_run_that_a_closing_desk_stopped_begins_anew_at_no_cost_and_with_its_note() -> None:
    run = RunFacts(7, ended=True, cancelled=True, error=CLOSED)
    step = next_step(facts(run=run, note="check_ci_green: red"), NOW)
    assert step == Repair("development", "developer", "", "check_ci_green: red")


def test_a_retry_gives_the_stage_a_fresh_budget_and_leaves_the_others_alone() -> None:
    spent = {"agent:development": 3, "gate:check_ci_green": 2, "gate:check_merged": 1}
    after = retried(Standing("development", State.BLOCKED, spent), PIPELINE.stages[1])
    assert after.state is State.QUEUED
    assert after.spent == {"gate:check_merged": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gates": ["check_moon"]}, "check_documents"),
        ({"agent": ""}, "at least 1"),
        ({"fails_to": "review"}, "not before it"),
        ({"limit": "soon"}, "duration"),
        ({"limit": "0s"}, "greater than"),
        ({"surprise": 1}, "not permitted"),
    ],
)
def test_a_pipeline_that_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    stage = {"name": "analysis", "agent": "analyst"} | change
    with pytest.raises(ValidationError, match=said):
        Pipeline.model_validate({"name": "x", "stages": [stage]})


class ItemJourney(RuleBasedStateMachine):
    """An item under every weather: agents fail, gates fail, people reject, cancel and retry.

    The journal of one (stage, round) is kept here as the tables keep it; `next_step` is asked again and
    again as it would be after any crash.
    """

    @initialize()
    def file(self) -> None:
        self.at = Standing("analysis", State.QUEUED)
        self.run: RunFacts | None = None
        self.published = False
        self.gates: dict[str, GateFacts] = {}
        self.started = 0
        self.moves = 0

    def facts(self) -> Facts:
        stage = PIPELINE.stage(self.at.stage)
        assert stage, "an item never stands in a stage that its pipeline does not have"
        return Facts(
            PIPELINE, stage, self.at.state, self.run, self.published, gates=self.gates, spent=self.at.spent
        )

    def go(self, step: Advance | Repair) -> None:
        names = [stage.name for stage in PIPELINE.stages] + [DONE]
        here, there = names.index(self.at.stage), names.index(step.to)
        if isinstance(step, Advance):
            assert there == here + 1, "forwards is one stage at a time"
            assert all(
                self.gates[gate.name].verdict is GateVerdict.PASSED for gate in self.facts().stage.gates
            )
        else:
            assert step.to in (self.at.stage, self.facts().stage.back), "back is where the pipeline says"
        self.at = moved(self.at, step)
        self.run, self.published, self.gates, self.started = None, False, {}, 0
        self.moves += 1

    @precondition(lambda self: may_be_claimed(self.at.state))
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        step = next_step(self.facts(), NOW)
        assert step == next_step(self.facts(), NOW), "the same facts always give the same step"
        self.at = replace(self.at, state=State.RUNNING)
        match step:
            case StartRun():
                self.started += 1
                self.run = RunFacts(self.started)
            case AwaitRun():
                exit_code = data.draw(st.sampled_from([0, 0, 0, 1, -9, None]))
                self.run = RunFacts(
                    step.run_id,
                    True,
                    exit_code,
                    exit_code == -9,
                    error="" if exit_code is not None else "gone",
                )
            case Publish():
                self.published = True
            case CheckGate(gate):
                verdict = data.draw(st.sampled_from(GateVerdict))
                self.gates[gate] = GateFacts(verdict, "because", NOW + timedelta(hours=1))
            case Wait(gate=gate):
                self.at = replace(self.at, state=State.WAITING_GATE)
                self.gates[gate] = replace(self.gates[gate], fresh=False)
            case AskApproval():
                self.at = replace(self.at, state=State.WAITING_APPROVAL)
            case Block():
                self.at = replace(self.at, state=State.BLOCKED)
            case Advance() | Repair():
                self.go(step)

    @precondition(lambda self: self.at.state is State.WAITING_APPROVAL)
    @rule(approved=st.booleans())
    def decide(self, approved: bool) -> None:
        stage = self.facts().stage
        self.go(advance(PIPELINE, stage) if approved else rejected(PIPELINE, stage, "anna", "no"))

    @precondition(lambda self: may_be_cancelled(self.at.state))
    @rule(really=st.sampled_from([False, False, False, True]))
    def cancel(self, really: bool) -> None:
        if really:
            self.at = replace(self.at, state=State.CANCELLED)

    @precondition(lambda self: may_be_retried(self.at.state))
    @rule()
    def retry(self) -> None:
        self.at = retried(self.at, self.facts().stage)
        self.run, self.published, self.gates, self.started = None, False, {}, 0

    @precondition(lambda self: self.at.state is State.DONE)
    @rule()
    def stay_done(self) -> None:
        state = self.at.state
        assert not (may_be_claimed(state) or may_be_cancelled(state) or may_be_retried(state))

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every item can be worked on, waits for a named person, or has reached an end."""
        state = self.at.state
        waits = state in (State.WAITING_APPROVAL, State.BLOCKED)
        assert may_be_claimed(state) or waits or state in (State.DONE, State.CANCELLED)
        assert (state is State.DONE) == (self.at.stage == DONE)

    @invariant()
    def one_start_a_round(self) -> None:
        assert self.started <= 1

    @invariant()
    def budgets_hold(self) -> None:
        for cause, count in self.at.spent.items():
            rounds = max(s.rounds for s in PIPELINE.stages)
            assert count <= rounds, cause


TestItemJourney = ItemJourney.TestCase
TestItemJourney.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize(
    ("told", "pause"), [(None, 2), (0, 2), (1, 2), (90, 90), (1800, 1800), (86_400, 1800)]
)
def test_whoever_asks_for_peace_is_left_alone_but_not_longer_than_the_stage_may_take(
    told: float | None, pause: float
) -> None:
    assert pause_when_down(told, timedelta(minutes=30)) == timedelta(seconds=pause)
