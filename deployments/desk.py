"""The desk: takes up what waits, runs its stages in this process, delivers messages.

Everything it does is found in tables, so any number of desks may run and any of them may die. Each duty
is a loop of its own that looks when its bell rings (a row changed) and, because a bell may be missed,
every few seconds. A duty that fails is logged and tried again with a growing pause; the others go on.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import structlog

from deployments import leash
from flows.approval import verdict
from flows.stage import run_stage
from quarterdeck.house import House, open_house
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.kernel.settings import load
from quarterdeck.pipeline.service import this_holder
from quarterdeck.pipeline.store import Candidate
from tasks.approvals import close_form, open_form
from tasks.ci import run_next_ci
from tasks.connections import copy_blocks

log = structlog.get_logger(__name__)

LOOK_ANYWAY = 5.0
"""Seconds after which a duty looks even though no bell rang."""
LONGEST_PAUSE = 10.0
CI_AT_ONCE = 2
TOPICS = ("items", "ci_waiting", "approvals", "outbox", "connections")
"""The bells: what a commit may wake us for (see `bus`)."""


class Desk:
    """One desk. `run` returns after `stop` was set and everything was handed over."""

    def __init__(self, house: House, api: httpx.AsyncClient) -> None:
        self.house = house
        self.stopping = asyncio.Event()
        self._api = api
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._bells = {
            topic: asyncio.Event() for topic in ("items", "ci_waiting", "approvals", "outbox", "connections")
        }

    async def run(self) -> None:
        """Do all duties until told to stop; running agents are left to their keepers."""
        duties: dict[str, Callable[[], Awaitable[float]]] = {
            "items": self._take_up,
            "ci_waiting": self._run_ci,
            "approvals": self._show_approvals,
            "outbox": self._deliver,
            "connections": self._copy_blocks,
            "cancellations": self._obey_cancellations,
            "strays": self._sweep,
        }
        loops = [asyncio.create_task(self._listen())]
        loops += [asyncio.create_task(self._do(name, duty)) for name, duty in duties.items()]
        log.info("desk_open", holder=this_holder())
        await self.stopping.wait()
        await self._hand_over(loops)

    async def _hand_over(self, loops: list[asyncio.Task[None]]) -> None:
        for going_on in [*loops, *self._at_work.values()]:
            going_on.cancel()
        await asyncio.gather(*loops, *self._at_work.values(), return_exceptions=True)
        with suppress(Unavailable):
            await self.house.engine.free_claims(lambda holder: holder == this_holder())
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
            except (Unavailable, httpx.HTTPError) as error:
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
                log.warning("duty_waits", duty=name, reason=str(error), seconds=wait)
            except QuarterdeckError as error:
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
                log.error("duty_failed", duty=name, reason=str(error), seconds=wait)
            except Exception:
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
                log.exception("duty_broke", duty=name, seconds=wait)
            with suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), max(wait, 0.0))

    # Items

    async def _take_up(self) -> float:
        room = self.house.settings.concurrency - len(self._at_work)
        found = await self.house.engine.candidates(room, tuple(self._at_work)) if room > 0 else []
        if found:
            await self._must_reach_prefect()
        for candidate in found:
            self._at_work[candidate.key] = asyncio.create_task(self._work_on(candidate))
        due = await self.house.engine.next_due()
        now = self.house.database.clock.now()
        return min(LOOK_ANYWAY, max(0.05, (due - now).total_seconds())) if due else LOOK_ANYWAY

    async def _work_on(self, candidate: Candidate) -> None:
        try:
            await run_stage(
                item=candidate.key, stage=candidate.stage, round=candidate.round, return_state=True
            )
        except Exception as error:  # what was done is recorded; what was not is found again
            log.warning("stage_run_broke", item=candidate.key, stage=candidate.stage, reason=repr(error))
        finally:
            self._at_work.pop(candidate.key, None)
            self._bells["items"].set()

    async def _must_reach_prefect(self) -> None:
        try:
            (await self._api.get("/health")).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(
                f"Prefect's server does not answer: {type(error).__name__}.", "Stages wait until it is back."
            ) from error

    async def _sweep(self) -> float:
        await self.house.engine.free_claims()
        await self.house.engine.stop_stray_runs()
        return 2.0

    async def _obey_cancellations(self) -> float:
        """Cancel was pressed in Prefect's UI on a run of this process: nobody else would notice."""
        ours = await self.house.engine.flow_runs_of(this_holder())
        if ours:
            wanted = {"id": {"any_": ours}, "state": {"type": {"any_": ["CANCELLING"]}}}
            answer = await self._api.post("/flow_runs/filter", json={"flow_runs": wanted})
            for run in answer.raise_for_status().json():
                await self.house.engine.interrupt(run["id"], "The stage run was cancelled in Prefect.")
        return 2.0

    # Everything else

    async def _run_ci(self) -> float:
        worked = await asyncio.gather(*(run_next_ci(self.house) for _ in range(CI_AT_ONCE)))
        return 0 if any(worked) else LOOK_ANYWAY

    async def _show_approvals(self) -> float:
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

    async def _copy_blocks(self) -> float:
        if self.house.settings.blocks:
            await copy_blocks(self.house)
        return 15.0


async def main() -> None:
    """Open the desk in this process until SIGTERM or Ctrl-C."""
    settings = load()
    logs.set_up(settings)
    async with open_house(settings) as house, _prefect() as api:
        desk = Desk(house, api)
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, desk.stopping.set)
        leash.ready()
        await desk.run()


def _prefect() -> httpx.AsyncClient:
    """Prefect's API with the credentials of our own processes (see `prefect_server.client_environment`)."""
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    return httpx.AsyncClient(
        base_url=os.environ["PREFECT_API_URL"],
        auth=httpx.BasicAuth(user, password) if user else None,
        timeout=5,
    )


if __name__ == "__main__":
    asyncio.run(main())
