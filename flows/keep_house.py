"""Upkeep, every ten minutes: what a lost event, a dead process or a lost run left behind is put right."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.approval import ask_for_approval
from flows.deliver import deliver
from flows.reconcile_plane import reconcile_plane
from flows.router_upkeep import router_upkeep
from flows.sweep import QUIET, sweep
from quarterdeck.house import at_hand
from tasks.telegram import restart_listener
from tasks.upkeep import (
    close_dead_runs,
    copy_changed_blocks,
    forget_deliveries,
    forget_messages,
    forget_prompts,
    forget_quiet_runs,
    forget_sweeps,
    forget_talks,
    forget_telegram,
    forget_vanished_work,
    free_claims,
    pack_repositories,
    restore_forms,
)

LIMIT = 540
"""Seconds: less than the ten minutes to the next one."""


@flow(name="keep house", flow_run_name="upkeep", timeout_seconds=LIMIT, persist_result=False)
async def keep_house() -> "State[None]":
    """Copy changed blocks, free dead claims, ask again for lost forms, close dead runs, forget the old.

    Repositories in which much lies loose are packed.
    """
    async with at_hand() as house:
        done = {
            "blocks copied": await copy_changed_blocks(house),
            "claims freed": await free_claims(house),
            "forms restored": await restore_forms(house),
            "dead runs closed": await close_dead_runs(house, time_limits()),
            "quiet sweeps forgotten": await forget_quiet_runs(house, QUIET),
            "old sweeps forgotten": await forget_sweeps(house),
            "vanished work forgotten": await forget_vanished_work(house),
            "old deliveries forgotten": await forget_deliveries(house),
            "old messages forgotten": await forget_messages(house),
            "old prompts forgotten": await forget_prompts(house),
            "old Telegram rows forgotten": await forget_telegram(house),
            "old conversations forgotten": await forget_talks(house),
            "listeners started": await restart_listener(house),
            **(await pack_repositories(house)).counts,
        }
    found = ", ".join(f"{count} {what}" for what, count in done.items() if count)
    return Completed(message=found or "Everything was in order.")


def time_limits() -> dict[str, float]:
    """Of every flow that has one, in seconds."""
    flows = (ask_for_approval, deliver, reconcile_plane, router_upkeep, sweep)
    limits = {flow.name: flow.timeout_seconds for flow in flows}
    return {"keep house": LIMIT, **{name: seconds for name, seconds in limits.items() if seconds}}
