"""The roster file, `crew.yaml`: who works here. Its format is described in docs/reference/roster.md."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quarterdeck.crew import agent_api_runtime, command, model_runtime, openclaw_runtime
from quarterdeck.crew.model import Role
from quarterdeck.kernel.documents import Document, Place, load_yaml
from quarterdeck.kernel.errors import Invalid, Misconfigured
from quarterdeck.kernel.outside import NAME, STORABLE

OWNER = "owner"
"""The person whose token `setup` makes; there without being in the file, and never taken out by it."""

ENGINE = "engine"
"""Who works on stages that need no agent; nobody else may have this name."""

PARAMETERS: Mapping[str, type[BaseModel]] = {
    "agent_api": agent_api_runtime.Parameters,
    "command": command.Parameters,
    "model": model_runtime.Parameters,
    "openclaw": openclaw_runtime.Parameters,
}
"""The runtimes that an agent can have, with what each must be told."""

Slug = Annotated[str, NAME]
Short = Annotated[str, Field(max_length=100), STORABLE]
Door = Literal["telegram", "plane", "gitea", "matrix"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    slug: Slug
    name: Short = ""

    @property
    def shown_name(self) -> str:
        return self.name or re.sub(r"[_-]", " ", self.slug).capitalize()


class AgentEntry(_Entry):
    """One agent of the file."""

    model: Short = ""
    system_prompt: Annotated[str, STORABLE] = ""
    runtime: str = "command"
    parameters: dict[str, Any] = {}
    max_concurrent: int = Field(default=1, ge=1, le=100)
    enabled: bool = True
    heartbeat: dict[str, Any] | None = None

    def columns(self) -> dict[str, Any]:
        """The entry as the table has it."""
        return self.model_dump(
            include={"model", "system_prompt", "runtime", "parameters", "max_concurrent", "heartbeat"}
        ) | {
            "name": self.shown_name,
            "is_enabled": self.enabled,
        }


class PersonEntry(_Entry):
    """One person of the file. `token_env` names the variable that holds the person's API token.

    `agent` is who answers this person in messengers.
    """

    role: Role = Role.MEMBER
    may_approve: bool = False
    handles: dict[Door, Short] = {}
    agent: str = ""
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    def columns(self) -> dict[str, Any]:
        """The entry as the table has it."""
        return self.model_dump(include={"role", "may_approve", "handles", "agent"}) | {
            "name": self.shown_name
        }


class Roster(BaseModel):
    """The whole file. `notifications` is for the notify room, which knows what it means."""

    model_config = ConfigDict(extra="forbid")

    agents: list[AgentEntry] = []
    people: list[PersonEntry] = []
    notifications: list[Any] = []


Complaints = Callable[[Sequence[tuple[str, Any]]], Iterable[tuple[int, Place, str]]]
"""Another room's check of all agents' `heartbeat:` (slug and entry): position, place in the entry, what."""


def no_complaints(_: Sequence[tuple[str, Any]]) -> Iterable[tuple[int, Place, str]]:
    """Takes every heartbeat as it is."""
    return ()


def read_roster(path: Path, heartbeats: Complaints = no_complaints) -> Roster:
    """The file, checked. Raises `Misconfigured` naming file and line."""
    document = load_yaml(path)
    roster = document.validate(Roster)
    for place, complaint in _complaints(roster):
        raise document.wrong(place, complaint)
    for position, agent in enumerate(roster.agents):
        _check_parameters(document, position, agent)
        _find_program(path.parent, agent)
        _find_workspace(document, position, path.parent, agent)
    for position, place, complaint in heartbeats([(agent.slug, agent.heartbeat) for agent in roster.agents]):
        raise document.wrong(("agents", position, "heartbeat", *place), complaint)
    return roster


def _complaints(roster: Roster) -> Iterator[tuple[Place, str]]:
    """What is wrong with entries that are right one by one."""
    names, handles = {ENGINE}, set()
    agents = {agent.slug for agent in roster.agents}
    for position, agent in enumerate(roster.agents):
        if agent.slug in names | {OWNER}:
            yield ("agents", position, "slug"), f"the name {agent.slug} is taken"
        if agent.runtime not in PARAMETERS:
            known = ", ".join(sorted(PARAMETERS))
            yield ("agents", position, "runtime"), f"there is no runtime {agent.runtime!r}; there is: {known}"
        if agent.runtime == "model" and not (agent.model or agent.parameters.get("model")):
            yield ("agents", position), f"the agent {agent.slug} names no model"
        names.add(agent.slug)
    for position, person in enumerate(roster.people):
        if person.slug in names:
            yield ("people", position, "slug"), f"the name {person.slug} is taken"
        if person.slug == OWNER and person.role is not Role.OWNER:
            yield ("people", position, "role"), "the owner's role is owner"
        names.add(person.slug)
        if person.agent and person.agent not in agents:
            yield ("people", position, "agent"), f"there is no agent {person.agent!r}"
        for handle in person.handles.items():
            if handle in handles:
                yield ("people", position, "handles", handle[0]), "somebody else has this handle"
            handles.add(handle)


def _find_program(folder: Path, agent: AgentEntry) -> None:
    """A program with a relative path lies beside the roster; a bare name is looked for in PATH."""
    program = agent.parameters.get("program")
    if isinstance(program, str) and "/" in program:
        agent.parameters["program"] = str(folder.absolute() / program)


def _find_workspace(document: Document, position: int, folder: Path, agent: AgentEntry) -> None:
    """The folder of to-do documents is read by several processes, each started somewhere else."""
    if workspace := _workspace(agent):
        try:
            found = Path(workspace).expanduser()
        except RuntimeError:  # `~somebody` who is nobody
            place = ("agents", position, "heartbeat", "workspace")
            raise document.wrong(place, f"whose home is meant by {workspace!r} is not known") from None
        agent.heartbeat = {**(agent.heartbeat or {}), "workspace": str(folder.absolute() / found)}


def _workspace(agent: AgentEntry) -> str:
    said = (agent.heartbeat or {}).get("workspace")
    return said if isinstance(said, str) else ""  # the heartbeat's own check refuses everything else


def _check_parameters(document: Document, position: int, agent: AgentEntry) -> None:
    try:
        PARAMETERS[agent.runtime].model_validate(agent.parameters)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise document.wrong(("agents", position, "parameters", *first["loc"]), first["msg"]) from None


def check_entry(entry: AgentEntry, heartbeats: Complaints = no_complaints) -> None:
    """An entry that came without a file. Raises `Invalid` naming the field."""
    if (workspace := _workspace(entry)) and not Path(workspace).is_absolute():
        raise Invalid(
            "heartbeat.workspace: must be an absolute path.",
            "Only the roster file can mean a folder as seen from itself.",
            field="heartbeat.workspace",
        )
    for _, place, complaint in heartbeats([(entry.slug, entry.heartbeat)]):
        field = ".".join(map(str, ("heartbeat", *place)))
        raise Invalid(f"{field}: {complaint}.", "docs/reference/roster.md says more.", field=field)
    if entry.runtime not in PARAMETERS:
        known = ", ".join(sorted(PARAMETERS))
        raise Invalid(f"There is no runtime {entry.runtime!r}.", f"There is: {known}.", field="runtime")
    try:
        PARAMETERS[entry.runtime].model_validate(entry.parameters)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, ("parameters", *first["loc"])))
        raise Invalid(
            f"{field}: {first['msg'].removeprefix('Value error, ')}.",
            "docs/reference/roster.md says more.",
            field=field,
        ) from None
    if entry.runtime == "model" and not (entry.model or entry.parameters.get("model")):
        raise Invalid(f"The agent {entry.slug} names no model.", "Give it one.", field="model")


def tokens(roster: Roster, environ: Mapping[str, str]) -> dict[str, str]:
    """The tokens that the environment holds, by person. Raises `Misconfigured` when two are the same."""
    found = {p.slug: environ[p.token_env] for p in roster.people if p.token_env and environ.get(p.token_env)}
    if len(set(found.values())) < len(found):
        twice = [slug for slug, token in found.items() if list(found.values()).count(token) > 1]
        raise Misconfigured(
            f"{' and '.join(sorted(twice))} have the same token.", "Give every person a token of their own."
        )
    return found
