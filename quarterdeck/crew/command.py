"""The `command` runtime: an agent is a program under a keeper (docs/reference/command-agents.md).

A run's folder is looked at by polling, so that any process can adopt the run at any time.
"""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from quarterdeck.crew import keeper
from quarterdeck.crew.folder import KEEPER_LOG, RunFolder
from quarterdeck.crew.runtime import RESULT, Job, Outcome
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unavailable
from quarterdeck.kernel.outside import STORABLE

JOB = "job.json"

POLL = 0.05
"""Seconds between looks at a run's folder."""

HEARTBEAT = 20
"""Every so many looks it is checked that the keeper still lives."""

PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")
"""All that an agent gets of the desk's environment unasked."""

OWN = ("QUARTERDECK_", "PREFECT_", "ORCH_", "SIDECAR_")
"""Beginnings of names that are the desk's own affair; no agent gets them."""


Word = Annotated[str, STORABLE]


class Parameters(BaseModel):
    """An agent's `parameters` in the roster. `env`: a value, or null to pass on the desk's own."""

    model_config = ConfigDict(extra="forbid")

    program: Annotated[str, Field(min_length=1), STORABLE]
    args: list[Word] = []
    env: dict[str, Word | None] = {}

    @field_validator("env")
    @classmethod
    def _may_be_given(cls, env: dict[str, str | None]) -> dict[str, str | None]:
        for name in env:
            if not (name.isidentifier() and name.isascii()):
                raise ValueError(f"{name!r} cannot be the name of an environment variable")
            if is_own(name):
                raise ValueError(f"{name} belongs to the desk and cannot be given to an agent")
        return env


def is_own(name: str) -> bool:
    """Does a variable belong to the desk (its secrets, its databases)?"""
    return name.upper().startswith(OWN) or "DATABASE_URL" in name.upper()


def environment(job: Job, parameters: Parameters, desk: Mapping[str, str]) -> dict[str, str]:
    """What the program sees: a few of the desk's variables, its own, and where its job is."""
    passed_on = {name: desk[name] for name in PASSED_ON if name in desk}
    asked = {name: desk.get(name) if value is None else value for name, value in parameters.env.items()}
    given = {name: value for name, value in asked.items() if value is not None}
    return (
        passed_on
        | given
        | {
            "QUARTERDECK_JOB": str(job.folder / JOB),
            "QUARTERDECK_RESULT": str(job.folder / RESULT),
            "QUARTERDECK_ITEM": job.item_key,
            "QUARTERDECK_STAGE": job.stage,
            "QUARTERDECK_ROUND": str(job.round),
            "QUARTERDECK_RUN_ID": str(job.run_id),
            "QUARTERDECK_AGENT": job.agent,
            "QUARTERDECK_WORK_TREE": str(job.work_tree),
            "QUARTERDECK_BRANCH": job.branch,
        }
    )


def description(job: Job) -> dict[str, Any]:
    """The contents of `job.json`: text from outside reaches the program only here."""
    return {
        "item": {"key": job.item_key, "title": job.title, "description": job.description},
        "stage": job.stage,
        "round": job.round,
        "note": job.note,
        "prompt": job.prompt,
        "run_id": job.run_id,
        "agent": {"slug": job.agent, "model": job.model, "system_prompt": job.system_prompt},
        "work_tree": str(job.work_tree),
        "branch": job.branch,
        "documents": f"docs/items/{job.item_key}/",
        "needs": list(job.needs),
        "gates": list(job.gates),
        "base": job.base,
        "result": str(job.folder / RESULT),
        "limit_seconds": job.limit.total_seconds(),
    }


@dataclass(frozen=True)
class Program:
    """What a keeper starts, and where."""

    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)


class CommandRuntime:
    """Programs on this machine. `grace` is the time, in seconds, between SIGTERM and SIGKILL."""

    talks = False

    def __init__(
        self,
        *,
        grace: float = 10.0,
        log_bytes: int = 20_000_000,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._grace = grace
        self._log_bytes = log_bytes
        self._environ = os.environ if environ is None else environ
        self._keepers: set[int] = set()

    async def start(self, job: Job) -> bool:
        """See `Runtime.start`; returns when the program runs, or can be seen to be unable to."""
        run = RunFolder(job.folder)
        with _host_must_serve(job.folder):
            pid = 0 if run.is_begun else await self._launch(run, job)
            while not run.is_decided:
                self._reap()
                if pid not in self._keepers and not run.is_kept and not run.is_begun:
                    raise _unavailable(job.folder, run.keeper_trouble())
                await asyncio.sleep(0.005)
            return run.was_launched

    async def wait(self, folder: Path) -> Outcome:
        """See `Runtime.wait`. A run whose keeper was killed is cleaned up and counts as failed."""
        run, looks = RunFolder(folder), 0
        with _host_must_serve(folder):
            while not run.has_outcome:
                if looks % HEARTBEAT == 0 and run.was_started:
                    await asyncio.to_thread(run.settle_if_lost)
                looks += 1
                await asyncio.sleep(POLL)
            self._reap()
            return await asyncio.to_thread(run.outcome)

    async def stop(self, folder: Path, why: str) -> Outcome:
        """See `Runtime.stop`."""
        run = RunFolder(folder)
        with _host_must_serve(folder):
            run.create()
            await asyncio.to_thread(run.ask_to_stop, why)
        return await self.wait(folder)

    async def follow(self, folder: Path, *, live: bool = True) -> AsyncIterator[bytes]:
        """See `Runtime.follow`. The bytes are the program's own, whatever their encoding."""
        run, place = RunFolder(folder), 0
        while True:
            is_over = not live or run.is_over
            while said := await asyncio.to_thread(run.read_log, place):
                place += len(said)
                yield said
            if is_over:
                return
            await asyncio.sleep(POLL)

    async def reach(self, agent: str, model: str, parameters: Mapping[str, Any]) -> str:
        """See `Runtime.reach`: is the program there, and may it be run?"""
        wanted = Parameters.model_validate(parameters)
        found = shutil.which(wanted.program, path=wanted.env.get("PATH") or self._environ.get("PATH"))
        if found is None:
            raise Misconfigured(
                f"There is no program {wanted.program} that this user may run.",
                "Correct `program` in the roster, or make the file executable.",
                code="no_program",
            )
        return found

    async def _launch(self, run: RunFolder, job: Job) -> int:
        """The keeper's process id; 0 if it was settled that there is nothing to start."""
        run.create()
        try:
            run.write(JOB, description(job))
            program = await self.program(job)
        except Unavailable:
            raise
        except QuarterdeckError as error:
            run.record_end(error=str(error))
            return 0
        except ValueError as error:  # Pydantic's are among them
            run.record_end(error=f"the parameters of agent {job.agent} are wrong: {in_short(error)}")
            return 0
        return await asyncio.to_thread(self._keep, run, program, job.limit)

    async def program(self, job: Job) -> Program:
        """What is started for a job. Raises `ValueError` for wrong parameters, `QuarterdeckError`."""
        parameters = Parameters.model_validate(job.parameters)
        argv = [parameters.program, *parameters.args]
        return Program(argv, job.work_tree, environment(job, parameters, self._environ))

    def _keep(self, run: RunFolder, program: Program, limit: timedelta) -> int:
        """Start a keeper; its process id."""
        order = {
            "argv": list(program.argv),
            "cwd": str(program.folder),
            "limit_seconds": limit.total_seconds(),
            "grace_seconds": self._grace,
            "log_bytes": self._log_bytes,
        }
        try:
            run.write(keeper.ORDER, order)
            pid = _spawn(run.path, program.environment)
        except ValueError as error:  # a NUL where the system wants none
            run.record_end(error=f"the agent's program cannot be started: {error}")
            return 0
        self._keepers.add(pid)
        return pid

    def _reap(self) -> None:
        """Let go of the keepers that this process started and that have ended."""
        for pid in tuple(self._keepers):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._keepers.discard(pid)


def _spawn(folder: Path, environ: Mapping[str, str]) -> int:
    """A keeper in a session of its own, deaf to this terminal; its environment will be the program's."""
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", keeper.__file__, str(folder)],
        environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(folder / KEEPER_LOG), appending, 0o600),
        ],
        setsid=True,
        setsigmask=(),
    )


def in_short(error: ValueError) -> str:
    """What is wrong, without the values, which may be secrets."""
    if not isinstance(error, ValidationError):
        return str(error)
    wrong = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in wrong)


@contextlib.contextmanager
def _host_must_serve(folder: Path) -> Iterator[None]:
    """A disk that is full, or a folder that may not be written: nobody's fault but this host's."""
    try:
        yield
    except OSError as error:
        raise _unavailable(folder, error.strerror or str(error)) from error


def _unavailable(folder: Path, reason: str) -> Unavailable:
    return Unavailable(
        f"The run in {folder} cannot be looked after: {reason}.",
        "Make room on the disk and see that the folder can be written; it is tried again by itself.",
        code="run_folder_unusable",
    )
