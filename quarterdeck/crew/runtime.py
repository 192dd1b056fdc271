"""What every runtime can do: start a job once, wait for its end, stop it, follow what it says.

The folder of a run is all that a runtime needs to find it again, in whatever process it is asked.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

RESULT = "result.json"
"""What an agent reports, in the folder of its run."""

CLOSED = "everything was closed"
"""Why a run was stopped when the whole desk was closed in order: nobody's fault, to be begun anew."""

LOST = 128 + 9
"""The exit code of a run of whose end nothing can be known: its keeper was killed, or its host is gone."""


@dataclass(frozen=True)
class Job:
    """What an agent is asked to do, and where. `note` says why the item was sent back to its stage.

    `prompt` is what somebody asks for besides the item itself. `needs` are the documents that the stage
    must bring forth, `gates` what is asked afterwards, `base` is the branch that the work will be merged
    into.
    """

    run_id: int
    item_key: str
    title: str
    description: str
    stage: str
    round: int
    agent: str
    folder: Path
    work_tree: Path
    branch: str
    limit: timedelta
    note: str = ""
    prompt: str = ""
    model: str = ""
    system_prompt: str = ""
    needs: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    base: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Without `started_at` it was never launched, and `error` says why.

    `exit_code`: 0 = finished, -9 = killed at the limit (`timed_out`), 128 + n = ended by signal n, other =
    failed. `result` is what the agent reported. A run that exits with 0 and has an `error` failed as well.
    """

    exit_code: int | None = None
    timed_out: bool = False
    cancelled: bool = False
    error: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    result: dict[str, Any] | None = None
    tokens: int | None = None
    cost_micro_usd: int | None = None

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0 and not (self.timed_out or self.cancelled or self.error)

    @property
    def was_closed(self) -> bool:
        return self.cancelled and self.error == CLOSED


class Runtime(Protocol):
    """One way of executing an agent. Every method may be called by any process of the run's host.

    `talks`: its agents answer in words, and may be asked something for a test.
    """

    talks: bool

    async def start(self, job: Job) -> bool:
        """Start the job, or adopt it if it was started before: it never starts twice.

        False: it cannot be launched, and its outcome says why. `Unavailable` means that this host cannot
        start anything now (its disk is full), and the same call may work later.
        """
        ...

    async def wait(self, folder: Path) -> Outcome:
        """The outcome, as soon as there is one. Cancelling the wait leaves the run alone."""
        ...

    async def stop(self, folder: Path, why: str) -> Outcome:
        """End the run with all its processes, and see it ended. A run that has not started never will."""
        ...

    async def reach(self, agent: str, model: str, parameters: Mapping[str, Any]) -> str:
        """See whether an agent could be started now, without starting it; what was found, in words.

        Raises `Unavailable` (down; code `wrong_answer`: somebody else is there), `Conflict` (refused),
        another `QuarterdeckError` or `ValueError` for what cannot work.
        """
        ...

    def follow(self, folder: Path, *, live: bool = True) -> AsyncIterator[bytes]:
        """What the run has said so far; `live`: and all that it will say, until it has ended."""
        ...
