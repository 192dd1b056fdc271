"""Hosts that have agents at work, and what a person does about one that will not come back.

Only a desk of a run's own host can see how it ends. A host that is gone for good keeps its agents' slots and
its items for ever, and no pause is long enough to be sure of that: a person says so. Its runs end as lost
then, as one whose keeper was killed: by the same rules the stage is tried again, or a person is asked. What
such a host tells later counts no more; should it come back, it first stops what still goes on there.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from itertools import groupby
from uuid import UUID

from pydantic import BaseModel, Field

from quarterdeck.board.model import FINAL, State, WorkItem
from quarterdeck.crew.cards import RunCard, run_card
from quarterdeck.crew.model import ASSIGNED, AgentRun
from quarterdeck.crew.runtime import Outcome
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline import store, transitions
from quarterdeck.pipeline.model import Claim
from quarterdeck.pipeline.work import tell_outcome

OVERDUE = timedelta(minutes=5)
"""How long after its limit a run has surely ended, if there is anybody to see it."""

Place = tuple[UUID, str, int]
"""Item, stage and round."""


class HostCard(BaseModel):
    """A host with open runs."""

    host: str = Field(examples=["desk-1-5f0c2a9b"])
    is_here: bool = Field(description="Whether it is the host of this very desk.")
    runs: int = Field(description="Runs that have not ended.")
    silent: int = Field(description="Those of them of which no desk gives a sign of life.")
    agents: list[str] = Field(description="Whose slots they hold.", examples=[["analyst"]])
    items: list[str] = Field(description="What they work on.", examples=[["ET-007"]])
    since: datetime = Field(description="When the oldest of them was opened.")


class GoneHost(BaseModel):
    """A host that was declared gone, and the runs that ended with it."""

    host: str
    runs: list[RunCard]


class Hosts:
    """Knows who has open runs, and ends those of a host that is gone."""

    def __init__(self, database: Database, crew: Crew) -> None:
        self._database = database
        self._crew = crew

    async def all(self) -> list[HostCard]:
        """Every host that has open runs, by name."""
        runs = sorted(await self._crew.open_runs(), key=lambda run: (run.host, run.id))
        now = self._database.clock.now()
        async with self._database.read() as session:
            held = _held(await store.open_claims(session), now)
        return [
            _card(host, self._crew.is_here(host), list(theirs), held, now)
            for host, theirs in groupby(runs, key=lambda run: run.host)
        ]

    async def other(self, host: str) -> HostCard:
        """One that could be declared gone. Raises `Conflict` for this one, `NotFound` without open runs."""
        self._must_be_another(host)
        cards = {card.host: card for card in await self.all()}
        if host not in cards:
            raise _unknown(host, cards)
        return cards[host]

    async def declare_gone(self, caller: Caller, host: str) -> GoneHost:
        """End every open run of a host as lost; what waited for them goes on, on any other host.

        Each run is one transaction, so that whoever was interrupted just says it again. Raises `Forbidden`
        for all but the owner, and as `other` does.
        """
        caller.must_be_owner()
        self._must_be_another(host)
        runs = await self._crew.open_runs(host)
        if not runs:
            raise _unknown(host, [card.host for card in await self.all()])
        ended = [run for run in runs if await self._give_up(run, caller)]
        return GoneHost(host=host, runs=[run_card(await self._crew.run(run.id or 0)) for run in ended])

    async def stop_given_up(self) -> int:
        """This host was declared gone, and is there: stop what still goes on; how many runs there were.

        Raises `Unavailable` when one cannot be stopped now.
        """
        found = await self._crew.given_up_runs()
        for run in found:
            await self._crew.see_ended(run, "its host was declared gone")
        return len(found)

    def _must_be_another(self, host: str) -> None:
        if host == self._crew.host:
            raise Conflict(
                f"{host} is this host: its desk looks after its runs.",
                "To stop what goes on here: `quarterdeck item cancel`, or `quarterdeck item stop`.",
                code="own_host",
            )

    async def _give_up(self, run: AgentRun, caller: Caller) -> bool:
        """False: it has ended by itself meanwhile."""
        assert run.id is not None
        why = f"its host {run.host} is gone"
        await self._crew.stop_in_this_home(run, why)
        async with self._database.command("give run up") as unit:
            item = await store.item_for_update(unit.session, run.item_key)
            claim = await store.claim_for_update(unit.session, item.id, run.stage, run.round)
            outcome = await self._crew.give_up(unit, run.id, why)
            if outcome is None:
                return False
            unit.record(
                "run_given_up", item=item.key, run=run.id, agent=run.agent, host=run.host, by=caller.name
            )
            _tell(unit, item, run, outcome)
            _set_free(unit, item, claim)
        return True


def _held(claims: Iterable[Claim], now: datetime) -> set[Place]:
    return {(claim.item_id, claim.stage, claim.round) for claim in claims if claim.leased_until > now}


def _card(host: str, is_here: bool, runs: list[AgentRun], held: Collection[Place], now: datetime) -> HostCard:
    return HostCard(
        host=host,
        is_here=is_here,
        runs=len(runs),
        silent=sum(is_silent(run, held, now) for run in runs),
        agents=sorted({run.agent for run in runs}),
        items=sorted({run.item_key for run in runs}),
        since=min(run.created_at for run in runs),
    )


def is_silent(run: AgentRun, held: Collection[Place], now: datetime) -> bool:
    """Does nobody look after this open run: is its round not `held`, or did it not end at its limit?

    Nobody holds what was given by hand, so of that only the limit can tell.
    """
    limit = timedelta(seconds=run.limit_seconds) + OVERDUE
    is_held = run.stage == ASSIGNED or (run.item_id, run.stage, run.round) in held
    return not is_held or (run.started_at or run.created_at) + limit < now


def _tell(unit: Unit, item: WorkItem, run: AgentRun, outcome: Outcome) -> None:
    """A failure, if anybody still wanted the run."""
    assert run.id is not None
    is_wanted = item.state not in FINAL if run.stage == ASSIGNED else _stands_in(item, run)
    if is_wanted:
        limit = timedelta(seconds=run.limit_seconds)
        tell_outcome(unit, item.key, run.id, run.agent, limit, outcome)
    else:
        unit.record("run_cancelled", item=item.key, run=run.id, agent=run.agent)


def _stands_in(item: WorkItem, run: AgentRun) -> bool:
    return item.state is State.RUNNING and (item.stage, item.round) == (run.stage, run.round)


def _set_free(unit: Unit, item: WorkItem, claim: Claim | None) -> None:
    """Let any desk go on at once. With a new number: nobody holds this claim who held it before."""
    if claim is not None and claim.ended_at is None:
        claim.fence += 1
        claim.holder, claim.leased_until = "", unit.now
        unit.session.add(claim)
        item.wake_at = None
        transitions.touch(unit, item)
    unit.wake("items")  # the slot may be what another item waits for


def _unknown(host: str, known: Iterable[str]) -> NotFound:
    names = ", ".join(known)
    todo = f"Hosts with open runs: {names}." if names else "No host has any: nothing waits for one."
    return NotFound(f"A host {host!r} has no open run.", todo, code="unknown_host")
