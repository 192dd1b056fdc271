"""The desk: takes up what waits, runs its stages in this process, delivers messages.

Everything it does is found in tables, so any number of desks may run and any of them may die. Each duty
is a loop of its own that looks when its bell rings (a row changed) and, because a bell may be missed,
every few seconds. A duty that fails is logged and tried again with a growing pause; the others go on.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta

import httpx
import structlog
from prefect.context import AsyncClientContext, SyncClientContext

from deployments import leash, process, starting
from flows.approval import verdict
from flows.keep_house import time_limits
from flows.stage import let_go, run_stage
from quarterdeck.house import House, open_house
from quarterdeck.kernel import disk
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.bell import rung
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.kernel.settings import Settings, load
from quarterdeck.pipeline import long_finished, work_trees
from quarterdeck.pipeline.service import is_dead, this_holder
from quarterdeck.pipeline.store import Candidate
from tasks.approvals import close_form, open_form
from tasks.ci import run_next_ci
from tasks.connections import copy_blocks
from tasks.telegram import start_listener
from tasks.upkeep import close_overdue_runs

log = structlog.get_logger(__name__)

LOOK_ANYWAY = 5.0
"""Seconds after which a duty looks even though no bell rang."""
LONGEST_PAUSE = 10.0
AFTER_A_BREAK = timedelta(seconds=5)
"""How long an item is left alone whose stage run broke: at once it would break again."""
CI_AT_ONCE = 2
SENT_AGAIN = 300.0
"""Seconds in which a stage that was sent to a work pool must have begun."""
TOPICS = (
    "items",
    "ci_waiting",
    "approvals",
    "outbox",
    "connections",
    "telegram_bots",
    "inbox",
    "tracker",
    "assignments",
    "runs",
)
"""The bells: what a commit may wake us for (see `bus`)."""


class Desk:
    """One desk. `run` returns after `stop` was set and everything was handed over."""

    def __init__(self, house: House, api: httpx.AsyncClient) -> None:
        self.house = house
        self.stopping = asyncio.Event()
        self._api = api
        self._runs: set[asyncio.Task[None]] = set()
        self._at_work: dict[str, Candidate] = {}
        self._broken: dict[str, datetime] = {}  # until when the item is left alone
        house.deliveries.add("generic", starting.by_webhook(house.settings))
        self._bells = {topic: asyncio.Event() for topic in TOPICS}

    async def run(self) -> None:
        """Do all duties until told to stop; running agents are left to their keepers."""
        duties: list[tuple[str, Callable[[], Awaitable[float]]]] = [
            ("items", self._take_up),
            *[("ci_waiting", self._run_ci)] * CI_AT_ONCE,
            ("approvals", self._show_approvals),
            ("outbox", self._deliver),
            ("inbox", self._work_off),
            ("assignments", self.house.assignments.see_through),
            ("tracker", self._tell_tracker),
            ("runs", self._settle),
            ("heartbeats", self._watch),
            ("connections", self._copy_blocks),
            ("telegram_bots", self._start_listener),
            ("cancellations", self._obey_cancellations),
            ("strays", self._stop_strays),
            ("given up", self._stop_given_up),
            ("leftovers", self._sweep),
            ("overdue runs", self._close_overdue_runs),
            ("folders", self._clear_folders),
        ]
        loops = [asyncio.create_task(self._listen())]
        loops += [asyncio.create_task(self._do(name, duty)) for name, duty in duties]
        log.info("desk_open", holder=this_holder())
        await self.stopping.wait()
        await self._hand_over(loops)

    async def _hand_over(self, loops: list[asyncio.Task[None]]) -> None:
        going_on = [*loops, *self._runs]
        for task in going_on:
            task.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)
        await self.house.assignments.close()
        with suppress(Unavailable):
            await self.house.engine.free_claims(_is_ours)
            await self.house.forge.ci.free(_is_ours)
        log.info("desk_closed")

    async def _listen(self) -> None:
        async for wake in self.house.bus.listen(*self._bells):
            self._bells[wake.topic].set()

    async def _do(self, name: str, duty: Callable[[], Awaitable[float]]) -> None:
        """Repeat a duty: it says in how many seconds it wants to look again if nothing rings."""
        bell, pause = self._bells.get(name, asyncio.Event()), 0.5
        while True:
            bell.clear()
            try:
                wait, pause = await duty(), 0.5
            except Exception as error:
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
                _complain(name, error, wait)
            await rung(bell, max(wait, 0.0))

    # Items

    async def _take_up(self) -> float:
        room = self.house.settings.concurrency - len(self._runs)
        found = await self.house.engine.candidates(room, self._left_alone()) if room > 0 else []
        if found:
            disk.must_have_room(self.house.settings.folder)
            await self._must_reach_prefect()
        if any(candidate.was_running for candidate in found):
            await self._obey_cancellations()  # before somebody takes up what a person stopped
        for candidate in found:
            self._at_work[candidate.key] = candidate
            run = asyncio.create_task(self._work_on(candidate))
            self._runs.add(run)
            run.add_done_callback(self._runs.discard)
        due = await self.house.engine.next_due()
        now = self.house.database.clock.now()
        return min(LOOK_ANYWAY, max(0.05, (due - now).total_seconds())) if due else LOOK_ANYWAY

    def _left_alone(self) -> set[str]:
        now = self.house.database.clock.now()
        self._broken = {key: until for key, until in self._broken.items() if until > now}
        return {*self._at_work, *self._broken}

    async def _work_on(self, candidate: Candidate) -> None:
        let_go.set(lambda: self._let_go(candidate))
        try:
            if self.house.settings.stages == "deployment":
                await self._send_away(candidate)
            else:
                await run_stage(
                    item=candidate.key, stage=candidate.stage, round=candidate.round, return_state=True
                )
        except Exception as error:  # what was done is recorded; what was not is found again
            log.warning("stage_run_broke", item=candidate.key, stage=candidate.stage, reason=repr(error))
            self._broken[candidate.key] = self.house.database.clock.now() + AFTER_A_BREAK
        finally:
            self._let_go(candidate)
            self._bells["items"].set()

    def _let_go(self, candidate: Candidate) -> None:
        """The item's next stage may begin, though Prefect may still be told how this one ended."""
        if self._at_work.get(candidate.key) is candidate:
            del self._at_work[candidate.key]
            self._bells["items"].set()

    async def _send_away(self, candidate: Candidate) -> None:
        """Have the stage run elsewhere, and leave the item alone until somebody claimed it there.

        The same item in the same version is sent once; after `SENT_AGAIN` seconds it counts as lost.
        """
        try_number = int(self.house.database.clock.now().timestamp() // SENT_AGAIN)
        wanted = {
            "parameters": {"item": candidate.key, "stage": candidate.stage, "round": candidate.round},
            "idempotency_key": f"{candidate.key}@{candidate.version}#{try_number}",
        }
        stage = (await self._api.get("/deployments/name/stage/stage")).raise_for_status().json()
        (await self._api.post(f"/deployments/{stage['id']}/create_flow_run", json=wanted)).raise_for_status()
        for _ in range(int(SENT_AGAIN)):
            if (await self.house.engine.current(candidate.key)).version != candidate.version:
                return
            await asyncio.sleep(1)

    async def _must_reach_prefect(self) -> None:
        try:
            (await self._api.get("/health")).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(
                f"Prefect's server does not answer: {type(error).__name__}.", "Stages wait until it is back."
            ) from error

    async def _sweep(self) -> float:
        await self.house.engine.free_claims()
        await self.house.forge.ci.free(is_dead)
        await self.house.engine.block_hopeless()
        return 2.0

    async def _stop_strays(self) -> float:
        await self.house.engine.stop_stray_runs()
        return 2.0

    async def _stop_given_up(self) -> float:
        await self.house.hosts.stop_given_up()
        return LOOK_ANYWAY

    async def _obey_cancellations(self) -> float:
        """Cancel was pressed in Prefect's UI: nobody stops the agent but us.

        Prefect does not look at runs inside a desk, and a run in a process of its own may be killed
        before it can tell anybody.
        """
        under_way = await self.house.engine.flow_runs_under_way()
        if under_way:
            wanted = {"id": {"any_": under_way}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
            answer = await self._api.post("/flow_runs/filter", json={"flow_runs": wanted})
            for run in answer.raise_for_status().json():
                await self.house.engine.interrupt(run["id"], "The stage run was cancelled in Prefect.")
        return 2.0

    async def _close_overdue_runs(self) -> float:
        await self._must_reach_prefect()
        if closed := await close_overdue_runs(self.house, time_limits()):
            log.warning("runs_closed", overdue=closed)
        return 60.0

    async def _clear_folders(self) -> float:
        database, settings = self.house.database, self.house.settings
        if cleared := await work_trees.clear(database, settings.work_folder):
            log.info("work_trees_cleared", finished=cleared)
        runs, host = settings.runs_folder, self.house.crew.host
        if cleared := await long_finished.clear_runs(database, runs, host, settings.kept):
            log.info("runs_cleared", folders=cleared)
        return 3600.0

    # Everything else

    async def _run_ci(self) -> float:
        disk.must_have_room(self.house.settings.folder)
        return 0 if await run_next_ci(self.house) else LOOK_ANYWAY

    async def _show_approvals(self) -> float:
        await self._must_reach_prefect()
        for approval in await self.house.engine.approvals_without_form():
            await self.house.engine.form_opened(approval.id, str(await open_form(approval)))
        for approval in await self.house.engine.forms_to_close():
            if await close_form(approval.flow_run, verdict(approval)):
                await self.house.engine.form_closed(approval.id)
        return LOOK_ANYWAY

    async def _deliver(self) -> float:
        told = await self.house.notify.deliver_round()
        if told.next_at is None:
            return LOOK_ANYWAY
        return min(LOOK_ANYWAY, (told.next_at - self.house.database.clock.now()).total_seconds())

    async def _work_off(self) -> float:
        seconds = await self.house.deliveries.work_off()
        return LOOK_ANYWAY if seconds is None else min(LOOK_ANYWAY, seconds)

    async def _tell_tracker(self) -> float:
        seconds = await self.house.posts.work_off()
        return LOOK_ANYWAY if seconds is None else min(LOOK_ANYWAY, seconds)

    async def _settle(self) -> float:
        """What runs of found work brought goes back to its sources."""
        await self.house.sweeper.settle()
        return 15.0

    async def _watch(self) -> float:
        await self.house.sweeper.watch()
        await self.house.sweeper.tell_agents()
        return 30.0

    async def _copy_blocks(self) -> float:
        await self._must_reach_prefect()
        await copy_blocks(self.house)
        return 15.0

    async def _start_listener(self) -> float:
        await self._must_reach_prefect()
        await start_listener(self.house)
        return LOOK_ANYWAY


def _is_ours(holder: str) -> bool:
    return holder == this_holder()


def _complain(duty: str, error: Exception, seconds: float) -> None:
    """What is down is waited for; everything else somebody should look at."""
    if isinstance(error, Unavailable | httpx.HTTPError):
        log.warning("duty_waits", duty=duty, reason=str(error), seconds=seconds)
    elif isinstance(error, QuarterdeckError):
        log.error("duty_failed", duty=duty, reason=str(error), seconds=seconds)
    else:
        log.error("duty_broke", duty=duty, seconds=seconds, exc_info=error)


def main() -> None:
    """Open the desk in this process until SIGTERM or Ctrl-C.

    Its loop has a thread of its own: on the main thread Prefect takes SIGTERM for itself while a stage
    runs, and raises in the middle of whatever the desk does just then.
    """
    settings = load()
    logs.set_up(settings)
    asked_to_stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: asked_to_stop.set())
    with ThreadPoolExecutor(1, thread_name_prefix="desk") as thread:
        thread.submit(asyncio.run, _open(settings, asked_to_stop)).result()


async def _open(settings: Settings, asked_to_stop: threading.Event) -> None:
    async with open_house(settings) as house, _prefect() as api, AsyncClientContext():
        # Without clients here every stage run would make its own: a tenth of a second in which all wait.
        with SyncClientContext():
            await _attend(Desk(house, api), asked_to_stop)


async def _attend(desk: Desk, asked_to_stop: threading.Event) -> None:
    watching = asyncio.create_task(asyncio.to_thread(asked_to_stop.wait))
    watching.add_done_callback(lambda _: desk.stopping.set())
    leash.ready()
    try:
        await desk.run()
    finally:
        asked_to_stop.set()  # else its thread would wait for ever
        await watching


def _prefect() -> httpx.AsyncClient:
    """Prefect's API with the credentials of our own processes (see `prefect_server.client_environment`)."""
    if "PREFECT_API_URL" not in os.environ:
        raise Unavailable(
            "The desk does not know where Prefect's server is.",
            "Start both with `quarterdeck up`, or set PREFECT_API_URL.",
            code="prefect_unavailable",
        )
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    return httpx.AsyncClient(
        base_url=os.environ["PREFECT_API_URL"],
        auth=httpx.BasicAuth(user, password) if user else None,
        timeout=5,
    )


if __name__ == "__main__":
    process.run(main)
