"""The CI of the local forge: the repository's own test command, on exactly one commit, in a clean folder.

This room decides what is to be run and keeps what came of it; whoever takes an order runs it:

    order = await ci.take("desk-1")                 # leased; another taker gets it when the lease is over
    job = await ci.prepare(order)                   # job.argv, started in job.folder with job.env
    ...                                             # at most job.limit_seconds; `renew` while it runs
    async with database.command("finish CI") as unit:
        await ci.finish(unit, order, exit_code=0, log_path=...)
    await ci.clear(order)
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from quarterdeck.forge import rules, store
from quarterdeck.forge.bare import Bare, Repositories
from quarterdeck.forge.folders import remove_tree
from quarterdeck.forge.model import CIRun
from quarterdeck.forge.protocol import CIState
from quarterdeck.forge.worktree import WorkTree
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Invalid, Stale
from quarterdeck.kernel.ids import new_id

WAITING = "ci_waiting"
"""Bus topic: there is an order to take; the identity is the CI run's id."""

FINISHED = "ci"
"""Bus topic: CI has a result; the identity is the commit."""

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR")
_TAIL = 4096  # bytes of the log in which its last line is looked for


@dataclass(frozen=True)
class CIOrder:
    """A CI run that its holder may execute until `leased_until`; `lease` fences later holders off."""

    id: UUID
    lease: str
    repository: str
    commit: str
    context: str
    command: str
    leased_until: datetime


@dataclass(frozen=True)
class CIJob:
    """How to execute an order."""

    folder: Path
    argv: tuple[str, ...]
    env: dict[str, str]
    limit_seconds: float


class CI:
    """Queue and results. `folder` holds the clean folders while tests run."""

    def __init__(
        self,
        database: Database,
        repositories: Repositories,
        folder: Path,
        *,
        limit_seconds: float = 1800.0,
        lease_seconds: float = 60.0,
        context: str = "tests",
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._folder = folder
        self._limit_seconds = limit_seconds
        self._lease = timedelta(seconds=lease_seconds)
        self._context = context

    async def plan(self, bare: Bare, commit: str) -> CIRun | None:
        """The run that this commit asks for; None if its repository names no test command."""
        run = CIRun(repository=bare.name, commit=commit, context=self._context, created_at=self._now())
        try:
            sources = await bare.sources(commit, rules.COMMAND_FILES)
            command = rules.test_command(sources)
        except (Invalid, Conflict) as error:
            run.state, run.summary, run.ended_at = CIState.ERROR, error.detail, run.created_at
            return run
        run.command = command or ""
        return run if command else None

    async def queue(self, unit: Unit, run: CIRun | None) -> None:
        """Add a planned run, once per repository, commit and context."""
        if run is None or not await store.add_ci_run(unit.session, run):
            return
        if run.state is CIState.PENDING:
            unit.wake(WAITING, run.id)
        else:
            _tell(unit, run, None)

    async def again(self, unit: Unit, planned: CIRun, by: str, item: str | None = None) -> None:
        """Forget the result of this run and let it wait anew; one that has none yet stays as it is."""
        await self.queue(unit, planned)
        run = await store.ci_run(unit.session, planned)
        if run is None or run.state is CIState.PENDING:
            return
        run.state, run.command, run.summary, run.log_path = CIState.PENDING, planned.command, "", ""
        run.started_at = run.ended_at = run.leased_until = None
        run.leased_by = ""
        unit.record("ci_again", item=item, repository=run.repository, commit=run.commit, by=by)
        unit.wake(WAITING, run.id)

    async def take(self, holder: str) -> CIOrder | None:
        """Lease the oldest run that waits or whose lease is over; None if there is none."""
        async with self._database.command("take CI run") as unit:
            run = await store.waiting_ci_run(unit.session, unit.now)
            if run is None:
                return None
            run.leased_by = f"{holder} {new_id().hex}"
            run.leased_until = unit.now + self._lease
            run.started_at = unit.now
            return _order(run, run.leased_until)

    async def renew(self, order: CIOrder) -> CIOrder:
        """Hold it for another lease time. Raises `Stale` if somebody else has it."""
        async with self._database.command("renew CI run") as unit:
            run = await _held(unit, order)
            run.leased_until = unit.now + self._lease
            return _order(run, run.leased_until)

    async def free(self, of: Callable[[str], bool]) -> int:
        """End the leases of some holders, so that nobody waits until they run out; how many."""
        async with self._database.read() as session:
            found = [
                run.leased_by for run in await store.leased_ci_runs(session) if of(_holder(run.leased_by))
            ]
        if not found:
            return 0
        async with self._database.command("free CI runs") as unit:
            await store.end_ci_leases(unit.session, found, unit.now)
            unit.wake(WAITING)
        return len(found)

    async def prepare(self, order: CIOrder) -> CIJob:
        """A clean folder with exactly the order's commit; folders of earlier holders are removed."""
        await self.clear(order)
        folder = self._folder / f"{order.id.hex}.{order.lease.rpartition(' ')[2][:8]}"
        await WorkTree(self._repositories.find(order.repository), folder).make(order.commit)
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        env["CI"] = "true"
        return CIJob(folder, ("sh", "-e", "-c", order.command), env, self._limit_seconds)

    async def finish(
        self,
        unit: Unit,
        order: CIOrder,
        *,
        exit_code: int | None = None,
        timed_out: bool = False,
        error: str = "",
        log_path: str = "",
        item: str | None = None,
    ) -> CIState:
        """Keep the result and tell it; `error` = it could not be started. `Stale` = the lease is lost."""
        run = await _held(unit, order)
        last_line = await asyncio.to_thread(_last_line, log_path)
        run.state, run.summary = rules.outcome(run.command, exit_code, timed_out, error, last_line)
        run.ended_at, run.log_path, run.leased_until = unit.now, log_path, None
        _tell(unit, run, item)
        return run.state

    async def clear(self, order: CIOrder) -> None:
        """Remove the order's folders. Repeatable."""
        for folder in [*self._folder.glob(f"{order.id.hex}.*"), *self._folder.glob(f".{order.id.hex}.*")]:
            await asyncio.to_thread(remove_tree, folder)

    def _now(self) -> datetime:
        return self._database.clock.now()


def _tell(unit: Unit, run: CIRun, item: str | None) -> None:
    unit.record("ci_finished", item=item, repository=run.repository, commit=run.commit, state=run.state.value)
    unit.wake(FINISHED, run.commit)


async def _held(unit: Unit, order: CIOrder) -> CIRun:
    if run := await store.held_ci_run(unit.session, order.id, order.lease):
        return run
    raise Stale(
        f"The CI run of {order.commit[:10]} is no longer held by {_holder(order.lease)}.",
        "Drop this result; somebody else finished it or is at it.",
        code="lease_lost",
    )


def _holder(lease: str) -> str:
    return lease.rpartition(" ")[0]


def _order(run: CIRun, until: datetime) -> CIOrder:
    return CIOrder(run.id, run.leased_by, run.repository, run.commit, run.context, run.command, until)


def _last_line(log_path: str) -> str:
    try:
        with Path(log_path).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return rules.one_line(lines[-1], 200) if lines else ""
