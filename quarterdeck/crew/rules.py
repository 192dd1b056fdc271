"""What the crew room decides, from values alone."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from quarterdeck.crew.model import Agent, AgentRun, Person, Role
from quarterdeck.crew.runtime import LOST, Outcome
from quarterdeck.kernel.identity import Caller

HIDDEN = frozenset({"parameters", "system_prompt", "handles", "heartbeat"})
"""Fields of the roster whose values are not repeated: they are long, or may hold secrets."""


def digest(token: str) -> str:
    """What is kept of a token: enough to know it again, useless to whoever reads the table."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def begun_anew(run_id: int | None) -> str:
    """The key of the run that takes the place of one that was stopped when everything was closed."""
    return f"begun anew · {run_id}"


def caller(person: Person, door: str) -> Caller:
    """What a person may do at a door. A viewer looks, whatever else the roster says of them."""
    is_owner = person.role is Role.OWNER
    is_member = person.role is Role.MEMBER
    return Caller(
        name=person.slug,
        door=door,
        is_owner=is_owner,
        may_write=is_owner or is_member,
        may_approve=is_owner or (is_member and person.may_approve),
    )


def free_slots(agent: Agent, open_runs: int) -> int:
    """How many more runs an agent may begin."""
    return max(0, agent.max_concurrent - open_runs) if agent.is_enabled else 0


def lost(run: AgentRun, why: str, now: datetime) -> Outcome:
    """How a run ends of which nothing more will be heard: as one whose keeper was killed."""
    code = None if run.started_at is None else LOST
    return Outcome(exit_code=code, error=why, started_at=run.started_at, ended_at=now)


def drift(
    what: str, file: Mapping[str, Mapping[str, Any]], table: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """How the roster file and the table differ, one sentence for each entry that does."""
    for slug in sorted(file.keys() | table.keys()):
        if slug not in table:
            yield f"{what} {slug} is in the file, but not in the table."
        elif slug not in file:
            yield f"{what} {slug} is in the table, but not in the file."
        elif differences := [
            _difference(field, file[slug][field], table[slug][field])
            for field in file[slug]
            if file[slug][field] != table[slug][field]
        ]:
            yield f"{what} {slug} differs: {', '.join(differences)}."


def _difference(field: str, file: Any, table: Any) -> str:
    return field if field in HIDDEN else f"{field} (file: {file}, table: {table})"
