"""OpenClaw automations that wake agents with `scheduler: openclaw` (spec heartbeat.md, section 11).

They are made from the roster and known by their declaration key, so that doing it again changes nothing. An
agent that Prefect wakes has none: what is left of one is removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quarterdeck.heartbeat.roster import Heartbeat, Scheduler
from quarterdeck.heartbeat.sources.openclaw_cli import OpenClawProgram
from quarterdeck.heartbeat.sources.reading import mapping, rows, word
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Trouble

KEY = "quarterdeck.heartbeat."
MESSAGE = (
    "Heartbeat. Run `quarterdeck heartbeat {agent}` now, and wait for its end, which may take a minute. It"
    " looks into every source and starts what waits: begin nothing yourself, or it is done twice. Then follow"
    " HEARTBEAT.md of your workspace. Ask nobody; report through the place that the work came from. Reply"
    " NO_REPLY when there is nothing."
)


class Step(StrEnum):
    """What becomes of one automation."""

    CREATE = "create"
    UPDATE = "update"
    KEEP = "keep"
    REMOVE = "remove"


@dataclass(frozen=True)
class Automation:
    """One automation as it should be. `expr` has six fields: seconds first."""

    agent: str
    expr: str
    zone: str

    @property
    def key(self) -> str:
        return KEY + self.agent

    @property
    def message(self) -> str:
        return MESSAGE.format(agent=self.agent)

    @property
    def options(self) -> tuple[str, ...]:
        """What `openclaw cron add` and `edit` are told."""
        return (
            *("--name", f"Heartbeat of {self.agent}", "--agent", self.agent),
            *("--cron", self.expr, "--tz", self.zone, "--exact"),
            *("--session", "isolated", "--message", self.message, "--no-deliver", "--json"),
        )


@dataclass(frozen=True)
class Planned:
    """One step of bringing OpenClaw in line; `id` is OpenClaw's own of what is there."""

    step: Step
    key: str
    id: str = ""
    wanted: Automation | None = None


def wanted(heartbeats: Mapping[str, Heartbeat]) -> list[Automation]:
    """The automations of those agents that OpenClaw wakes, each at a second of its own."""
    return [
        Automation(one.agent, f"{one.delay} {one.cron}", one.zone)
        for one in heartbeats.values()
        if one.scheduler is Scheduler.OPENCLAW
    ]


def plan(automations: Sequence[Automation], jobs: Sequence[Mapping[str, Any]]) -> list[Planned]:
    """What must be done so that exactly these automations of ours are there; others are left alone."""
    there: dict[str, Mapping[str, Any]] = {}
    steps: list[Planned] = []
    for job in jobs:
        key = word(job.get("declarationKey"))
        if not key.startswith(KEY):
            continue
        if key in there:  # two of one agent would wake it twice
            steps.append(Planned(Step.REMOVE, key, word(job.get("id"))))
        else:
            there[key] = job
    steps += [_step(one, there.pop(one.key, None)) for one in automations]
    return steps + [Planned(Step.REMOVE, key, word(job.get("id"))) for key, job in there.items()]


def _step(one: Automation, job: Mapping[str, Any] | None) -> Planned:
    if job is None:
        return Planned(Step.CREATE, one.key, wanted=one)
    return Planned(Step.KEEP if is_as_wanted(one, job) else Step.UPDATE, one.key, word(job.get("id")), one)


def is_as_wanted(one: Automation, job: Mapping[str, Any]) -> bool:
    """Does a job of OpenClaw say what it should?"""
    schedule, payload = mapping(job.get("schedule")), mapping(job.get("payload"))
    found = (
        job.get("enabled", True), job.get("agentId"), schedule.get("kind"), schedule.get("expr"),
        schedule.get("tz"), job.get("sessionTarget"), payload.get("kind"), payload.get("message"),
        mapping(job.get("delivery")).get("mode"),
    )  # fmt: skip
    should = (True, one.agent, "cron", one.expr, one.zone, "isolated", "agentTurn", one.message, "none")
    return found == should


class Automations:
    """Brings OpenClaw's automations in line with the roster."""

    def __init__(self, program: OpenClawProgram) -> None:
        self._program = program

    async def planned(self, heartbeats: Mapping[str, Heartbeat]) -> list[Planned]:
        """What would be done. Raises what `OpenClawProgram` raises."""
        told = mapping(await self._program.call("cron_list"))
        if not isinstance(told.get("jobs"), list):
            raise unavailable(Trouble.UNREADABLE, "openclaw told something that is no list of automations.")
        if told.get("hasMore"):
            raise unavailable(Trouble.TOO_LARGE, "openclaw has more automations than it tells at once.")
        return plan(wanted(heartbeats), [mapping(job) for job in rows(told["jobs"])])

    async def apply(self, steps: Sequence[Planned]) -> None:
        """Do them; doing it again changes nothing."""
        for step in steps:
            if step.step is Step.REMOVE:
                await self._program.call("cron_remove", id=step.id)
            elif step.step is Step.UPDATE and step.wanted:
                await self._program.call_with("cron", "edit", step.id, "--enable", *step.wanted.options)
            elif step.step is Step.CREATE and step.wanted:
                key = ("--declaration-key", step.key)
                await self._program.call_with("cron", "add", *key, *step.wanted.options)
