"""What the crew room can do: know agents and people, give out slots, execute runs.

A run is opened in the transaction that decides on it, then started, waited for, and closed in the
transaction that records its end:

    run = await crew.open_run(unit, ...)           # the agent's slot is taken by this row alone
    await crew.start(run, job)                     # repeatable: a run never starts twice
    outcome = await crew.wait(run)                 # so is this
    await crew.close_run(unit, run.id, outcome)    # True once
"""

import codecs
import hmac
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.crew import enrolment, rules, store
from quarterdeck.crew.callbacks import Callbacks
from quarterdeck.crew.cards import AgentCard, RunCard, agent_card, run_card
from quarterdeck.crew.model import Agent, AgentRun, Person, RunState
from quarterdeck.crew.roster import OWNER, AgentEntry, Complaints, Roster, check_entry, no_complaints, tokens
from quarterdeck.crew.runtime import Job, Outcome, Runtime
from quarterdeck.crew.waking import Wake, Wakes, Woken
from quarterdeck.kernel import crash
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Misconfigured, NotFound, Unauthorized, Unavailable
from quarterdeck.kernel.idempotency import answered, keep, request
from quarterdeck.kernel.identity import Caller


class Crew:
    """Agents, people and runs. `runtimes` are the ways of executing an agent that this process has."""

    def __init__(self, database: Database, runtimes: Mapping[str, Runtime], runs_folder: Path) -> None:
        self.database = database
        self._runtimes = runtimes
        self._runs_folder = runs_folder
        self.heartbeats: Complaints = no_complaints
        self.callbacks = Callbacks(database, self.folder_of, lambda: self.host)

    # Agents

    async def agents(self) -> list[AgentCard]:
        """Every agent with how busy it is, by slug."""
        async with self.database.read() as session:
            open_counts = await store.open_counts(session)
            return [
                agent_card(agent, open_counts.get(agent.slug, 0)) for agent in await store.agents(session)
            ]

    async def agent(self, slug: str) -> Agent:
        """One agent. Raises `NotFound` naming those there are."""
        async with self.database.read() as session:
            return await _agent(session, await store.agent(session, slug), slug)

    async def agent_named(self, name: str) -> Agent:
        """One agent, by slug or id. Raises `NotFound`."""
        async with self.database.read() as session:
            return await _agent(session, await store.agent_named(session, name), name)

    async def agent_card(self, name: str) -> AgentCard:
        """How an agent stands, by slug or id. Raises `NotFound`."""
        async with self.database.read() as session:
            agent = await _agent(session, await store.agent_named(session, name), name)
            return agent_card(agent, await store.open_count(session, agent.slug))

    async def names(self) -> set[str]:
        """Everyone an item can be given to: agents and people."""
        async with self.database.read() as session:
            agents, people = await store.agents(session), await store.people(session)
            return {agent.slug for agent in agents} | {person.slug for person in people}

    async def heartbeat_entries(self) -> dict[str, Any]:
        """What the roster says of heartbeats, by the agents that it says it of; the disabled are left out."""
        async with self.database.read() as session:
            agents = await store.agents(session)
        return {agent.slug: agent.heartbeat for agent in agents if agent.is_enabled and agent.heartbeat}

    async def free_slots(self, session: AsyncSession) -> dict[str, int]:
        """How many more runs each agent may begin now; 0 for the disabled."""
        open_counts = await store.open_counts(session)
        return {
            agent.slug: rules.free_slots(agent, open_counts.get(agent.slug, 0))
            for agent in await store.agents(session)
        }

    async def create_agent(self, caller: Caller, entry: AgentEntry) -> AgentCard:
        """A new agent. Raises `Forbidden` for all but the owner, `Conflict` for a name that is taken."""
        caller.must_be_owner()
        check_entry(entry, self.heartbeats)
        async with self.database.command("create agent") as unit:
            return agent_card(await enrolment.create(unit, entry), 0)

    async def change_agent(self, caller: Caller, name: str, entry: AgentEntry) -> AgentCard:
        """Make an agent as this entry says. Raises `Forbidden`, `NotFound`, `Conflict`, `Invalid`."""
        caller.must_be_owner()
        check_entry(entry, self.heartbeats)
        agent = await self.agent_named(name)
        async with self.database.command("change agent") as unit:
            row = await enrolment.change(unit, agent.slug, entry)
            unit.wake("items")
            return agent_card(row, await store.open_count(unit.session, row.slug))

    async def wake(self, caller: Caller, name: str, wanted: Wake, request_key: str = "") -> Woken:
        """Wake an agent, by slug or id, and journal it. It takes no slot, and nobody sees it through.

        Raises `Forbidden`, `NotFound`, `Unavailable` (down, or wrong), and `Conflict`: it is disabled, its
        runtime wakes nobody, it is not connected, or its gateway refused. A `request_key` that was answered
        wakes nobody.
        """
        caller.must_write()
        agent = await self.agent_named(name)
        asked = request(caller.name, request_key, "wake", {"agent": agent.slug, **wanted.model_dump()})
        if earlier := await answered(self.database, asked, Woken):
            return earlier
        _must_be_enabled(agent)
        runtime = self.runtime(agent.runtime)
        if not isinstance(runtime, Wakes):
            raise Conflict(
                f"Agent {agent.slug} has the runtime {agent.runtime}; only those of openclaw can be woken.",
                f"Give it something to do instead: `POST /api/v1/agents/{agent.slug}/assign`.",
                code="not_wakeable",
            )
        try:
            outcome = await runtime.wake(agent.parameters, wanted)
        except Misconfigured as error:
            raise Conflict(error.detail, error.instruction, code=error.code) from None
        woken = Woken(agent=agent.slug, mode=wanted.mode, outcome=outcome)
        async with self.database.command("wake agent") as unit:
            unit.record("agent_woken", agent=agent.slug, by=caller.name)
            await keep(unit, asked, woken)
        return woken

    # People

    async def who(self, token: str) -> Caller:
        """The person with this API token. Raises `Unauthorized` when nobody has it."""
        wanted = rules.digest(token)
        async with self.database.read() as session:
            people = await store.people_with_token(session)
        for person in people:
            if hmac.compare_digest(person.token_hash or "", wanted):
                return rules.caller(person, "api")
        raise Unauthorized(
            "Nobody here has this token.",
            "Check it, or have the owner set a new one in the roster.",
            code="token_unknown",
        )

    async def by_handle(self, door: str, handle: str) -> Caller | None:
        """The person whom a door (`telegram`, `plane`, `gitea`, `matrix`) knows by this name."""
        async with self.database.read() as session:
            person = await store.person_by_handle(session, door, handle)
        return rules.caller(person, door) if person else None

    async def person_by_handle(self, door: str, handle: str) -> Person | None:
        """The same person as the roster has them."""
        async with self.database.read() as session:
            return await store.person_by_handle(session, door, handle)

    async def roster(self) -> list[Agent]:
        """Every agent as the roster has it, the oldest first."""
        async with self.database.read() as session:
            return sorted(await store.agents(session), key=lambda agent: (agent.created_at, agent.slug))

    async def person(self, session: AsyncSession, slug: str) -> Person:
        """One person. Raises `NotFound` naming those there are."""
        people = {person.slug: person for person in await store.people(session)}
        if slug not in people:
            raise NotFound.among("person", slug, people)
        return people[slug]

    async def people(self) -> list[Person]:
        async with self.database.read() as session:
            return await store.people(session)

    async def has_owner_token(self) -> bool:
        async with self.database.read() as session:
            person = await store.person(session, OWNER)
        return person is not None and person.token_hash is not None

    async def set_owner_token(self, token: str) -> None:
        """Make this the owner's token; the former one ends. Raises `Misconfigured` if it is somebody's."""
        async with self.database.command("set owner token") as unit:
            await enrolment.take_token(unit, await enrolment.the_owner(unit), token)

    # The roster

    async def is_empty(self) -> bool:
        """Has no roster been imported yet?"""
        async with self.database.read() as session:
            agents, people = await store.agents(session), await store.people(session)
        return not agents and all(person.slug == OWNER for person in people)

    async def drift(self, roster: Roster) -> list[str]:
        """How the file and the tables differ, in sentences; tokens are not compared."""
        async with self.database.read() as session:
            return await enrolment.differences(session, roster)

    async def import_roster(self, roster: Roster, environ: Mapping[str, str]) -> list[str]:
        """Make the tables equal to the file; returns what was different, and which tokens are not set.

        Who is no longer in the file is taken out, the owner excepted. A token whose variable is not set
        now stays as it was; one that the file no longer names ends.
        """
        given = tokens(roster, environ)
        async with self.database.command("import roster") as unit:
            told = await enrolment.enrol(unit, roster, given)
            unit.wake("items")
        return told

    # Runs

    @cached_property
    def host(self) -> str:
        """Who can reach the runs' folders: a name that is kept in their folder itself."""
        path, name = self._host_file, f"{socket.gethostname()}-{secrets.token_hex(4)}"
        try:
            self._runs_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                part = path.with_name(f"host.{name}")
                part.write_text(name, encoding="utf-8")
                with suppress(FileExistsError):  # the first name stays
                    path.hardlink_to(part)
                part.unlink()
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise Unavailable(
                f"{self._runs_folder} cannot be written: {error.strerror}.",
                "Make room on the disk, or give this user the right to write there.",
                code="runs_folder_unusable",
            ) from error

    @property
    def _host_file(self) -> Path:
        return self._runs_folder / "host"

    def is_here(self, host: str) -> bool:
        """Is this the name of this host? One that has none yet is not given any by the question."""
        try:
            return self._host_file.read_text(encoding="utf-8") == host
        except FileNotFoundError:
            return False

    def runtime(self, name: str) -> Runtime:
        """A way of executing agents. Raises `NotFound` naming those there are."""
        if name not in self._runtimes:
            raise NotFound.among("runtime", name, self._runtimes)
        return self._runtimes[name]

    def trial_folder(self, number: int) -> Path:
        """Where an agent that is only tried works; beside the runs, whose chats it waits for."""
        return self._runs_folder / f"trial-{number}"

    def folder_of(self, run: AgentRun) -> Path:
        """Where a run of this host keeps its job, its log and its result."""
        return self._runs_folder / run.folder

    async def open_run(
        self,
        unit: Unit,
        *,
        item_id: UUID,
        item_key: str,
        stage: str,
        round: int,
        agent: str,
        limit_seconds: float,
        idempotency_key: str,
        prompt: str = "",
    ) -> AgentRun:
        """Take a slot of the agent for a run of this host; the same key gives the same run again.

        Raises `NotFound`, or `Conflict`: `agent_disabled`, or `busy` when it has no free slot.
        """
        found = await store.locked_agent(unit.session, agent)
        if earlier := await store.run_by_key(unit.session, idempotency_key):
            return earlier
        worker = await _agent(unit.session, found, agent)
        _must_be_free(worker, await store.open_count(unit.session, agent))
        run = AgentRun(
            item_id=item_id,
            item_key=item_key,
            stage=stage,
            round=round,
            agent=agent,
            runtime=worker.runtime,
            idempotency_key=idempotency_key,
            limit_seconds=limit_seconds,
            host=self.host,
            prompt=prompt,
            folder=f"{item_key}-{stage}-{round}-{secrets.token_hex(4)}",
            created_at=unit.now,
        )
        unit.session.add(run)
        await unit.session.flush()
        unit.wake("runs", run.id)
        return run

    async def open_anew(self, unit: Unit, run: AgentRun) -> AgentRun:
        """The same once more, in a run of its own: one for each, however often it is asked for.

        Raises as `open_run` does.
        """
        return await self.open_run(
            unit,
            item_id=run.item_id,
            item_key=run.item_key,
            stage=run.stage,
            round=run.round,
            agent=run.agent,
            limit_seconds=run.limit_seconds,
            idempotency_key=rules.begun_anew(run.id),
            prompt=run.prompt,
        )

    async def mark_started(self, unit: Unit, run_id: int) -> bool:
        """The program runs. True the first time."""
        unit.wake("runs", run_id)
        return await store.change_run(
            unit.session,
            run_id,
            unless={RunState.RUNNING, RunState.ENDED},
            state=RunState.RUNNING,
            started_at=unit.now,
        )

    async def close_run(self, unit: Unit, run_id: int, outcome: Outcome) -> bool:
        """Record how a run ended and give its slot back. True the first time; later ones change nothing."""
        unit.wake("runs", run_id)
        return await store.change_run(
            unit.session,
            run_id,
            unless={RunState.ENDED},
            state=RunState.ENDED,
            started_at=outcome.started_at,
            ended_at=outcome.ended_at or unit.now,
            exit_code=outcome.exit_code,
            timed_out=outcome.timed_out,
            cancelled=outcome.cancelled,
            error=outcome.error,
            result=outcome.result,
            tokens=outcome.tokens,
            cost_micro_usd=outcome.cost_micro_usd,
        )

    async def start(self, run: AgentRun, job: Job) -> bool:
        """Start the run, or adopt it. False: it cannot be launched; `wait` says why.

        Raises `Unavailable` when this host cannot start anything now, or when the run is another host's.
        """
        self._must_be_here(run)
        crash.point("before agent start")
        is_launched = await self.runtime(run.runtime).start(job)
        crash.point("after agent start")
        return is_launched

    async def wait(self, run: AgentRun) -> Outcome:
        """How a run that was started ended. Giving up the wait does the run no harm."""
        self._must_be_here(run)
        return await self.runtime(run.runtime).wait(self.folder_of(run))

    async def stop(self, run: AgentRun, why: str) -> Outcome | None:
        """End a run and see it ended; one that was not started never will. None: it is another host's."""
        if run.host != self.host:
            return None
        return await self.runtime(run.runtime).stop(self.folder_of(run), why)

    def _must_be_here(self, run: AgentRun) -> None:
        if run.host != self.host:
            raise Unavailable(
                f"Run {run.id} belongs to the host {run.host}; this is {self.host}.",
                f"It goes on when a desk of that host is up. {if_gone(run.host)}",
                code="run_elsewhere",
            )

    async def give_up(self, unit: Unit, run_id: int, why: str) -> Outcome | None:
        """Close a run of whose end nothing will be heard, as lost. None: it has ended already.

        Its host, should it come back, finds it among its `given_up_runs`.
        """
        run = await store.locked_run(unit.session, run_id)
        outcome = rules.lost(run, why, unit.now)
        if not await self.close_run(unit, run_id, outcome):
            return None
        await store.change_run(unit.session, run_id, unless=set(), given_up=True)
        return outcome

    async def given_up_runs(self) -> list[AgentRun]:
        """Runs of this host that a person gave up with it: their programs may go on here all the same."""
        async with self.database.read() as session:
            return await store.given_up_runs(session, self.host)

    async def see_ended(self, run: AgentRun, why: str) -> None:
        """End what still goes on here of a run that was given up; the next round may begin then."""
        assert run.id is not None
        await self.stop(run, why)
        async with self.database.command("see given up run ended") as unit:
            await store.change_run(unit.session, run.id, unless=set(), given_up=False)
            unit.wake("items")

    async def stop_in_this_home(self, run: AgentRun, why: str) -> None:
        """Stop a run whose folder lies here, whatever its host is called: this one's name may be lost."""
        folder = self.folder_of(run)
        if run.folder and folder.exists():
            await self.runtime(run.runtime).stop(folder, why)

    async def open_runs(self, host: str | None = None) -> list[AgentRun]:
        """Runs that have not ended, oldest first; of one host, or of all."""
        async with self.database.read() as session:
            return await store.open_runs(session, host)

    async def runs_of(self, item_key: str) -> list[RunCard]:
        """All runs of an item, in their order."""
        async with self.database.read() as session:
            return [run_card(run) for run in await store.runs_of(session, item_key)]

    async def run(self, run_id: int) -> AgentRun:
        """One run. Raises `NotFound` naming the newest ones."""
        async with self.database.read() as session:
            if run := await store.run(session, run_id):
                return run
            newest = [str(run.id) for run in await store.newest_runs(session, 10)]
        raise NotFound.among("run", str(run_id), newest)

    async def result_of(self, run_id: int) -> dict[str, Any]:
        """What the agent reported; empty if it reported nothing."""
        return (await self.run(run_id)).result or {}

    async def log(self, run_id: int, *, live: bool = False) -> AsyncIterator[str]:
        """What a run said, as text; `live`: until it ends. Raises `NotFound`."""
        run = await self.run(run_id)
        if run.host != self.host:
            raise NotFound(
                f"The log of run {run_id} is on the host {run.host}.", "Ask there.", code="log_elsewhere"
            )
        is_live = live and run.state is not RunState.ENDED
        if run.exit_code is not None and not self.folder_of(run).exists():
            raise NotFound(
                f"The log of run {run_id} is gone: it is kept for a while after its item was finished.",
                "`quarterdeck item events` still tells what happened.",
                code="log_forgotten",
            )
        return _text(self.runtime(run.runtime).follow(self.folder_of(run), live=is_live))


async def _agent(session: AsyncSession, agent: Agent | None, slug: str) -> Agent:
    if agent is None:
        raise NotFound.among("agent", slug, [agent.slug for agent in await store.agents(session)])
    return agent


def _must_be_enabled(agent: Agent) -> None:
    if not agent.is_enabled:
        raise Conflict(
            f"Agent {agent.slug} is disabled.",
            "Enable it in the roster, then `quarterdeck setup --apply`.",
            code="agent_disabled",
        )


def _must_be_free(agent: Agent, open_runs: int) -> None:
    _must_be_enabled(agent)
    if not rules.free_slots(agent, open_runs):
        raise Conflict(
            f"Agent {agent.slug} is busy with {open_runs} of {agent.max_concurrent} runs.",
            "It is tried again when one of them ends.",
            code="busy",
        )


def if_gone(host: str) -> str:
    """What to do about a host that will not come back."""
    return f"If that host is gone for good: `quarterdeck host gone {host}`."


async def _text(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)
