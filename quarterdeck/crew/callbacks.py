"""An agent elsewhere says that it is done: its run's client takes that for the answer.

Sessions are called `task:<item>`, whatever their gateway puts before that. Slots are derived from open
runs, so a report that never comes costs nothing but the run's limit.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from quarterdeck.crew import store
from quarterdeck.crew.cards import RunCard, run_card
from quarterdeck.crew.errand import CALLBACK
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound, Unavailable
from quarterdeck.kernel.outside import STORABLE

_SESSION = re.compile(r"(?:^|:)task:([a-z][a-z0-9]*-[0-9]+)$", re.IGNORECASE)


class Callback(BaseModel):
    """A report of a run's end. `session_key` as it was given to the agent, or as its gateway calls it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    session_key: Annotated[str, Field(min_length=1, max_length=300, examples=["task:ET-007"]), STORABLE]
    text: Annotated[str, Field(max_length=900_000), STORABLE] = Field(
        default="", description="The answer, in the form of docs/reference/text-agents.md."
    )
    error: Annotated[str, Field(max_length=2000), STORABLE] = Field(
        default="", description="Why it failed; empty = it did not."
    )
    tokens: int | None = Field(default=None, ge=0, le=2_000_000_000)
    run_id: int | None = Field(
        default=None,
        ge=1,
        le=2**63 - 1,
        description="Which run is meant, as its message said; without it the newest of the session.",
    )


def item_of(session_key: str) -> str:
    """The item whose session this is. Raises `NotFound` for sessions that are not ours."""
    if found := _SESSION.search(session_key):
        return found[1].upper()
    raise _unknown(session_key)


class Callbacks:
    """Takes reports in. `folder_of` says where a run of this host lies."""

    def __init__(
        self, database: Database, folder_of: Callable[[AgentRun], Path], host: Callable[[], str]
    ) -> None:
        self._database = database
        self._folder_of = folder_of
        self._host = host

    async def take(self, told: Callback) -> RunCard:
        """The run that is named, or else the newest of that session, is finished with this report, once.

        Raises `NotFound` for an unknown session or run, `Conflict` for a run that ends by itself,
        `Unavailable` when the run is another host's.
        """
        item = item_of(told.session_key)
        async with self._database.read() as session:
            runs = await store.runs_of(session, item)
        if not runs:
            raise _unknown(told.session_key)
        report = told.model_dump(mode="json", exclude_none=True)
        run = _named(told.run_id, runs) if told.run_id else self._newest(runs, report)
        if run.state is not RunState.ENDED:
            self._keep(run, report)
        return run_card(run)

    def _newest(self, runs: Sequence[AgentRun], report: Mapping[str, Any]) -> AgentRun:
        """The run before it, if that was told the same, word for word: then it is only told again."""
        says_something = report["text"] or report["error"]
        if len(runs) > 1 and says_something and self._kept(runs[-2]) == report:
            return runs[-2]
        return runs[-1]

    def _kept(self, run: AgentRun) -> Any:
        try:
            return json.loads((self._folder_of(run) / CALLBACK).read_bytes())
        except FileNotFoundError:
            return None

    def _keep(self, run: AgentRun, report: Mapping[str, Any]) -> None:
        if run.runtime == "command":
            raise Conflict(
                f"Run {run.id} is a program on this machine.",
                "It ends when the program does.",
                code="ends_itself",
            )
        if run.host != self._host():
            raise Unavailable(f"Run {run.id} belongs to the host {run.host}.", "Report it there.")
        folder = self._folder_of(run)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = folder / f".{CALLBACK}.{os.urandom(4).hex()}"
        part.write_text(json.dumps(report), encoding="utf-8")
        with suppress(FileExistsError):  # the first report stays
            (folder / CALLBACK).hardlink_to(part)
        part.unlink()


def _named(run_id: int, runs: Sequence[AgentRun]) -> AgentRun:
    for run in runs:
        if run.id == run_id:
            return run
    raise NotFound(
        f"Run {run_id} is none of {runs[-1].item_key}.",
        f"Its newest is {runs[-1].id}; the number stands in the first line of the message.",
        code="unknown_run",
    )


def _unknown(session_key: str) -> NotFound:
    return NotFound(
        f"There is no run with the session {session_key[:100]!r}.",
        "Send the session key as it was given: task:<item>.",
        code="unknown_session",
    )
