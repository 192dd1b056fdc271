"""Every deployment, one typed entry each: what the runner serves, `setup` registers and `prefect.yaml` lists.

    python -m deployments.catalogue        # writes prefect.yaml anew

Flows are imported only when they are asked for: reading the catalogue must stay cheap.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import yaml

from quarterdeck.kernel.errors import NotFound

if TYPE_CHECKING:
    from prefect import Flow

    from quarterdeck.heartbeat.roster import Heartbeat

FILE = Path(__file__).resolve().parent.parent / "prefect.yaml"
WORK_POOL = "quarterdeck"
"""The work pool of those who run on several machines: `prefect deploy --all` sends the entries there."""


@dataclass(frozen=True)
class Schedule:
    """When an entry runs by itself: a cron expression in a time zone."""

    cron: str
    timezone: str = "UTC"


@dataclass(frozen=True)
class Entry:
    """One deployment. `flow` is `module:function`; its time limit is the flow's own.

    `limit` is how many runs may go on at once; `when_full` says what becomes of one too many: it waits
    (`ENQUEUE`), or it is dropped because the next one does the same work (`CANCEL_NEW`).
    """

    name: str
    flow: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    limit: int | None = None
    when_full: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    tags: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        """The flow's import path, as Prefect writes it."""
        return self.flow.replace(":", ".")

    def load(self) -> "Flow[..., Any]":
        """The flow itself; imports it, and Prefect."""
        module, _, function = self.flow.partition(":")
        return cast("Flow[..., Any]", getattr(importlib.import_module(module), function))


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        name="stage",
        flow="flows.stage:run_stage",
        description="Run one stage of a work item by hand. The item must stand there; a stage that"
        " somebody works on already is left alone.",
        tags=("by hand",),
    ),
    Entry(
        name="approval",
        flow="flows.approval:ask_for_approval",
        description="One request for a person's decision. The run waits with a form: press Resume.",
        tags=("approval",),
    ),
    Entry(
        name="deliver",
        flow="flows.deliver:deliver",
        description="One round of delivering messages, by hand. The desk does it all the time.",
        limit=1,
        when_full="CANCEL_NEW",
        tags=("by hand",),
    ),
    Entry(
        name="listen",
        flow="flows.listen:listen",
        description="Serves the Telegram bots until it is cancelled. The desk starts it where there are bots"
        " and nobody serves them, the upkeep does the same; without bots nothing runs.",
        tags=("listener",),
    ),
    Entry(
        name="keep-house",
        flow="flows.keep_house:keep_house",
        description="Copies changed blocks, asks again for approvals whose form was lost, and closes"
        " runs whose process is gone.",
        schedule=Schedule(cron="*/10 * * * *"),
        limit=1,
        when_full="CANCEL_NEW",
        tags=("upkeep",),
    ),
    Entry(
        name="reconcile-plane",
        flow="flows.reconcile_plane:reconcile_plane",
        description="Looks in Plane for changes and decisions whose webhooks were lost.",
        schedule=Schedule(cron="*/2 * * * *"),
        limit=1,
        when_full="CANCEL_NEW",
        tags=("tracker",),
    ),
    Entry(
        name="sweep",
        flow="flows.sweep:sweep",
        description="Sweep an agent by hand. Those of the roster have a deployment each, with a schedule.",
        parameters={"cause": "by hand"},
        tags=("by hand", "heartbeat"),
    ),
    *(
        Entry(
            name=f"router-{job}",
            flow="flows.router_upkeep:router_upkeep",
            description=f"{does} The router does it by itself when this does not come.",
            parameters={"job": job},
            schedule=Schedule(cron=cron),
            limit=1,
            when_full="CANCEL_NEW",
            tags=("upkeep", "router"),
        )
        for job, cron, does in (
            ("probe", "*/5 * * * *", "Asks every provider whether it is there."),
            ("aggregate", "7 * * * *", "Brings the sums of days up to date and fills gaps."),
            ("retention", "23 3 * * *", "Drops usage, calls and events that are too old."),
            ("backup", "41 2 * * *", "Writes a verified backup, and retires old ones."),
            ("rotate", "11 4 * * *", "Seals provider keys that are not under the present key yet."),
        )
    ),
)


SWEEP = "sweep-"
"""How the deployments of the roster's agents begin; `prefect.yaml` does not know them, tables do."""


def sweeps(beats: "Mapping[str, Heartbeat]") -> tuple[Entry, ...]:
    """One deployment per agent that Prefect wakes, at its own minute and second.

    Two may begin, so that a tick that comes too early is counted by the one that goes on; the sweep itself
    lets one in. A third is dropped.
    """
    return tuple(
        Entry(
            name=f"{SWEEP}{agent}",
            flow="flows.sweep:sweep",
            description=f"The heartbeat of {agent}: finds its work, starts it, brings on what stands still.",
            parameters={"agent": agent, "delay": beat.delay},
            schedule=Schedule(cron=beat.cron, timezone=beat.zone),
            limit=2,
            when_full="CANCEL_NEW",
            tags=("heartbeat",),
        )
        for agent, beat in beats.items()
        if beat.scheduler.value == "prefect"
    )


def find(name: str) -> Entry:
    """The entry of that name. Raises `NotFound` naming those that exist."""
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise NotFound.among("deployment", name, (entry.name for entry in CATALOGUE))


def document() -> dict[str, Any]:
    """The catalogue in the words of `prefect.yaml`."""
    return {"name": "quarterdeck", "pull": None, "deployments": [_described(entry) for entry in CATALOGUE]}


def _described(entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": entry.name,
        "entrypoint": entry.entrypoint,
        "description": entry.description,
        "tags": list(entry.tags),
        "parameters": dict(entry.parameters),
        "schedules": [],
        "work_pool": {"name": WORK_POOL},
    }
    if entry.schedule:
        schedule = {"cron": entry.schedule.cron, "timezone": entry.schedule.timezone, "slug": entry.name}
        described["schedules"] = [schedule]
    if entry.limit:
        described["concurrency_limit"] = {"limit": entry.limit, "collision_strategy": entry.when_full}
    return described


def render() -> str:
    """The text of `prefect.yaml`."""
    head = "# Written by `python -m deployments.catalogue`; change deployments/catalogue.py instead.\n"
    return head + yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
