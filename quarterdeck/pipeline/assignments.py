"""Runs that somebody asks for by hand: an agent, an item, and a prompt.

They take a slot like every other run, work in a folder of their own, and move nothing: their answer stands
in the run and in the journal. The rows are all there is, so any desk of the host goes on with them. One that
was stopped when everything was closed in order is begun anew, as a run of its own.
"""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial

from quarterdeck.board.model import FINAL
from quarterdeck.crew.assigning import assign, assign_anew
from quarterdeck.crew.cards import RunCard, run_card
from quarterdeck.crew.model import ASSIGNED, AgentRun, RunState
from quarterdeck.crew.runtime import Job, Outcome
from quarterdeck.crew.service import Crew, if_gone
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound, Unavailable
from quarterdeck.kernel.idempotency import answered, earlier_answer, keep, remember, request
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline import store
from quarterdeck.pipeline.work import tell_outcome

GONE = "its agent is no longer in the roster"


class NotAssigned(Conflict):
    """The agent takes nothing up now: it is disabled, or busy."""

    status = 400


@dataclass(frozen=True)
class Wish:
    """What is asked for. `item` is the item's key."""

    agent: str
    item: str
    prompt: str
    limit: timedelta


class Assignments:
    """Opens such runs, and sees them through."""

    def __init__(self, database: Database, crew: Crew) -> None:
        self._database = database
        self._crew = crew
        self._at_work: dict[int, asyncio.Task[None]] = {}

    async def assign(self, caller: Caller, wish: Wish, request_key: str = "") -> AgentRun:
        """Open a run; the same key with the same wish gives the same run again, whatever became of its item.

        Raises `Forbidden`, `NotFound`, `NotAssigned`, `Conflict` for an item that is done or cancelled, and
        `Invalid` for a key that belongs to another wish.
        """
        caller.must_write()
        asked = request(caller.name, request_key, "assign", asdict(wish))
        key = f"assigned · {caller.name} · {request_key or secrets.token_hex(16)}"
        try:
            async with self._database.command("assign") as unit:
                if asked and (earlier := await earlier_answer(unit, asked)):
                    return await self._crew.run(earlier["run"])
                run = await self._open(unit, wish, key)
                if asked:
                    await remember(unit, asked, {"run": run.id})
        except Conflict as error:
            if error.code not in ("busy", "agent_disabled"):
                raise
            raise _not_assigned(wish.agent, error) from None
        return run

    async def _open(self, unit: Unit, wish: Wish, key: str) -> AgentRun:
        item = await store.item(unit.session, wish.item)
        if item.state in FINAL:
            raise Conflict(f"{item.key} is {item.state.value}.", "Retry it first.", code="item_final")
        place = (item.id, item.key)
        return await assign(self._crew, unit, place, wish.agent, wish.limit, key, wish.prompt)

    async def cancel(self, caller: Caller, run_id: int, comment: str = "", request_key: str = "") -> RunCard:
        """Stop such a run, and see it ended; it is not begun anew. Its item goes on as it was.

        A `request_key` that was answered changes nothing.

        Raises `Forbidden`, `NotFound`, `Conflict` for a run of a stage or one that has ended, and
        `Unavailable` when it is another host's, or cannot be stopped now.
        """
        caller.must_write()
        asked = request(caller.name, request_key, "cancel run", {"run": run_id, "comment": comment})
        if earlier := await answered(self._database, asked, RunCard):
            return earlier
        run = await self._crew.run(run_id)
        _must_be_under_way(run)
        outcome = await self._crew.stop(run, f"stopped by {caller.name}: {comment}".rstrip(": "))
        if outcome is None:
            raise Unavailable(
                f"Run {run.id} belongs to the host {run.host}; this is {self._crew.host}.",
                f"Stop it there. {if_gone(run.host)}",
                code="run_elsewhere",
            )
        await self._close(run, outcome, may_begin_anew=False)
        card = run_card(await self._crew.run(run_id))
        async with self._database.command("answer cancelled run") as unit:
            await keep(unit, asked, card)
        return card

    async def see_through(self) -> float:
        """Start, adopt and follow every such run of this host; seconds until it should be looked at again."""
        for run in await self._crew.open_runs(self._crew.host):
            if run.stage == ASSIGNED and run.id is not None and run.id not in self._at_work:
                task = asyncio.create_task(self._follow(run))
                self._at_work[run.id] = task
                task.add_done_callback(partial(self._let_go, run.id))
        return 5.0

    def _let_go(self, run_id: int, _: asyncio.Task[None]) -> None:
        self._at_work.pop(run_id, None)

    async def close(self) -> None:
        """Let go of the runs; they go on."""
        tasks = [*self._at_work.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, run: AgentRun) -> None:
        """One run, to its recorded end. What is down meanwhile is found again at the next look."""
        with suppress(Unavailable):
            await self._close(run, await self._outcome(run), may_begin_anew=True)

    async def _close(self, run: AgentRun, outcome: Outcome, *, may_begin_anew: bool) -> None:
        assert run.id is not None
        async with self._database.command("end run") as unit:
            if await self._crew.close_run(unit, run.id, outcome):
                limit = timedelta(seconds=run.limit_seconds)
                tell_outcome(unit, run.item_key, run.id, run.agent, limit, outcome)
                unit.wake("items")  # the slot may be what an item waits for
                if outcome.was_closed and may_begin_anew:
                    await self._begin_anew(unit, run)

    async def _outcome(self, run: AgentRun) -> Outcome:
        """Start the run, or adopt it, and wait for its end; one whose agent is gone is stopped."""
        assert run.id is not None
        try:
            job = await self._job(run)
        except NotFound:
            return await self._crew.stop(run, GONE) or Outcome(cancelled=True, error=GONE)
        if await self._crew.start(run, job):
            async with self._database.command("start run") as unit:
                if await self._crew.mark_started(unit, run.id):
                    unit.record("agent_started", item=run.item_key, run=run.id, agent=run.agent)
        return await self._crew.wait(run)

    async def _begin_anew(self, unit: Unit, run: AgentRun) -> None:
        """It was nobody's fault. What nobody needs, or the agent takes up no more, stays ended."""
        item = await store.item_for_update(unit.session, run.item_key)
        if item.state in FINAL:
            return
        with suppress(Conflict, NotFound):
            await assign_anew(self._crew, unit, run)

    async def _job(self, run: AgentRun) -> Job:
        agent = await self._crew.agent(run.agent)
        async with self._database.read() as session:
            item = await store.item(session, run.item_key)
        folder = self._crew.folder_of(run)
        tree = folder / "tree"
        await asyncio.to_thread(tree.mkdir, 0o700, parents=True, exist_ok=True)
        assert run.id is not None
        return Job(
            run_id=run.id,
            item_key=item.key,
            title=item.title,
            description=item.description,
            stage=run.stage,
            round=run.round,
            prompt=run.prompt,
            agent=agent.slug,
            model=agent.model,
            system_prompt=agent.system_prompt,
            parameters=agent.parameters,
            folder=folder,
            work_tree=tree,
            branch="",
            limit=timedelta(seconds=run.limit_seconds),
        )


def _not_assigned(agent: str, error: Conflict) -> NotAssigned:
    """Why nothing was begun. Unlike a stage, nobody asks again by himself."""
    if error.code != "busy":
        return NotAssigned("Agent is disabled", error.instruction, code=error.code)
    todo = f"Ask again when one has ended: `GET /api/v1/agents/{agent}` counts them."
    return NotAssigned("Agent is busy", f"{error.detail} {todo}", code=error.code)


def _must_be_under_way(run: AgentRun) -> None:
    if run.stage != ASSIGNED:
        raise Conflict(
            f"Run {run.id} works on the stage {run.stage} of {run.item_key}.",
            f"Cancel its stage run in Prefect, or the item: `quarterdeck item cancel {run.item_key}`"
            f" (`POST /api/v1/items/{run.item_key}/cancel`).",
            code="run_of_a_stage",
        )
    if run.state is RunState.ENDED:
        raise Conflict(f"Run {run.id} has ended already.", "Nothing to do.", code="run_ended")
