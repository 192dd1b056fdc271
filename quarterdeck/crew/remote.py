"""Agents elsewhere: a run is our own client program under a keeper, so that it is limited, stopped, adopted
and followed like every other (see `command`).

A client that was killed, or whose keeper was, is started again in the same folder and goes on where its
notes say that it was (see `errand`). Secrets reach it in a file that it removes when it has read it.
"""

import asyncio
import os
import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from quarterdeck.crew.command import PASSED_ON, CommandRuntime, Program
from quarterdeck.crew.errand import ERRAND, JOB, SECRETS
from quarterdeck.crew.folder import RunFolder
from quarterdeck.crew.runtime import Job, Outcome
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable

KILLED = 128 + 9
"""How a client ends that somebody killed: the limit and a stop end it otherwise."""

MOST_CLIENTS = 5
"""Clients of one run; more than so many do not just die by accident."""

NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")

PARAMETERS = "parameters.json"

CRASH = ("QUARTERDECK_CRASH_AT", "QUARTERDECK_CRASH_LOG")
"""With these a test kills the first client (`kernel.crash`)."""


class Connected(Protocol):
    """Where connections are read (`kernel.connections`)."""

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Order:
    """What a client is told besides its job."""

    facts: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class RemoteRuntime(CommandRuntime):
    """What the runtimes `model`, `openclaw` and `agent_api` have in common; `client` is their program."""

    client: str
    talks = True

    @abstractmethod
    async def order(self, agent: str, model: str, parameters: Mapping[str, Any]) -> Order:
        """What the client is told; `model` is the roster's.

        Raises `ValueError` for wrong parameters, and `QuarterdeckError`.
        """

    @abstractmethod
    async def look(self, agent: str, order: Order) -> str:
        """Is whom the client would ask there, and does it take us? See `Runtime.reach`."""

    async def reach(self, agent: str, model: str, parameters: Mapping[str, Any]) -> str:
        """See `Runtime.reach`."""
        return await self.look(agent, await self.order(agent, model, parameters))

    async def program(self, job: Job) -> Program:
        run = RunFolder(job.folder)
        order = await self.order(job.agent, job.model, job.parameters)
        run.write(PARAMETERS, job.parameters)
        run.write(ERRAND, dict(order.facts))
        run.write(SECRETS, dict(order.secrets))
        dying = {name: os.environ[name] for name in CRASH if name in os.environ}
        return self._client_in(job.folder, dying)

    def _client_in(self, folder: Path, more: dict[str, str]) -> Program:
        passed_on = {name: os.environ[name] for name in (*PASSED_ON, *NETWORK, *TRUST) if name in os.environ}
        argv = [sys.executable, "-I", "-m", self.client, str(folder)]
        return Program(argv, folder, passed_on | more)

    async def _go_on(self, run: RunFolder) -> None:
        """Another client in the place of one that was killed, for what is left of the run's time."""
        job = run.facts(JOB)
        agent = job["agent"]
        try:
            order = await self.order(agent["slug"], agent["model"], run.facts(PARAMETERS))
        except Unavailable:
            raise
        except QuarterdeckError as error:
            run.record_end(error=str(error))
            return
        run.write(SECRETS, dict(order.secrets))
        gone = datetime.now(UTC) - run.first_started_at()
        left = max(timedelta(seconds=job["limit_seconds"]) - gone, timedelta(seconds=1))
        await asyncio.to_thread(self._keep, run, self._client_in(run.path, {}), left)

    async def wait(self, folder: Path) -> Outcome:
        """See `Runtime.wait`. A client that was killed is replaced first."""
        run = RunFolder(folder)
        while True:
            outcome = await super().wait(folder)
            was_killed = outcome.exit_code == KILLED and not (outcome.cancelled or outcome.timed_out)
            if not was_killed or (is_ours := run.reopen(MOST_CLIENTS - 1)) is False:
                break
            if is_ours:
                await self._go_on(run)
        (folder / SECRETS).unlink(missing_ok=True)  # of a client that died before it had read it
        return outcome if outcome.exit_code is None else replace(outcome, started_at=run.first_started_at())
