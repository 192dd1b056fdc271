"""The program `openclaw`: where it is, what it is told, and how it complains.

Each call costs seconds (spec contracts.md, section 1), so calls keep apart. What is called is a list of
arguments from a template: a placeholder such as `{id}` is a part of one argument, and never more than that.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from quarterdeck.heartbeat.sources import programs
from quarterdeck.heartbeat.sources.polling import Turns
from quarterdeck.heartbeat.sources.reading import mapping, tame
from quarterdeck.heartbeat.sources.trouble import not_configured, unavailable
from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, NotFound

KIND = "openclaw_cli"
SECONDS = 60.0
DISABLED = "openclaw plugins enable workboard"

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "list": ("workboard", "list", "--json"),
    "read": ("workboard", "show", "{id}", "--json"),
    "move": ("workboard", "move", "{id}", "--status", "{status}", "--json"),
    "create": ("workboard", "create", "--json", "--agent", "{agent}", "--notes", "{text}", "--", "{title}"),
    "comment": (),
    "release": (),
    "rounds": (),
    "cron_list": ("cron", "list", "--all", "--json"),
    "cron_remove": ("cron", "rm", "{id}", "--json"),
}
"""What is called for what; empty = OpenClaw's command line cannot do it, and our own record holds it."""

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")


class Settings(BaseModel):
    """The connection `openclaw_cli`."""

    model_config = ConfigDict(extra="ignore")

    program: str
    arguments: list[str] = []
    path: str = ""
    environment: dict[str, str] = {}
    templates: dict[str, list[str]] = {}
    seconds: float = SECONDS


@dataclass(frozen=True)
class _Door:
    settings: Settings
    environment: Mapping[str, str] = field(repr=False)


class OpenClawProgram:
    """Calls `openclaw`. Raises `Unavailable`, `Conflict` where it says no, `Misconfigured` unconnected."""

    def __init__(self, connections: Connections, turns: Turns) -> None:
        self._connections = connections
        self._turns = turns

    async def is_connected(self) -> bool:
        """Was it switched on by a block or a variable?"""
        return bool((await self._connections.get(KIND) or {}).get("program"))

    async def path(self) -> str | None:
        """Where the program is; `None` = nowhere. Raises `Misconfigured` when none is connected."""
        door = await self._door()
        return programs.found(door.settings.program, door.environment)

    async def can(self, what: str) -> bool:
        """Is there a template for it?"""
        return bool(self._template(await self._door(), what))

    async def call(self, what: str, **values: str) -> Any:
        """The JSON of a command made from its template."""
        door = await self._door()
        return await self._run(door, filled(self._template(door, what), values))

    async def call_with(self, *arguments: str) -> Any:
        """The JSON of a command."""
        return await self._run(await self._door(), arguments)

    @staticmethod
    def _template(door: _Door, what: str) -> tuple[str, ...]:
        return tuple(door.settings.templates.get(what, TEMPLATES[what]))

    async def _run(self, door: _Door, arguments: tuple[str, ...]) -> Any:
        await self._turns.take()
        argv = (door.settings.program, *door.settings.arguments, *arguments)
        ran = await programs.run(argv, environment=door.environment, seconds=door.settings.seconds)
        if ran.code:
            raise _failure(ran)
        return await programs.json_of(ran)

    async def _door(self) -> _Door:
        value = await self._connections.get(KIND)
        if not value or not value.get("program"):
            raise not_configured(
                "The program openclaw is not connected.",
                "Fill the block `Quarterdeck OpenClaw program` in Prefect, or set OPENCLAW_CLI.",
            )
        try:
            settings = Settings.model_validate(value)
        except ValidationError as error:
            wrong = ", ".join(str(e["loc"][0]) for e in error.errors(include_input=False) if e["loc"])
            raise Misconfigured(
                f"The connection openclaw_cli is wrong: {wrong}.", "Correct its block in Prefect."
            ) from None
        gateway = await self._connections.get("openclaw") or {}
        told = {"OPENCLAW_GATEWAY_TOKEN": str(gateway["token"])} if gateway.get("token") else {}
        return _Door(settings, programs.environment({**told, **settings.environment}, path=settings.path))


def filled(template: tuple[str, ...], values: Mapping[str, str]) -> tuple[str, ...]:
    """The arguments with their placeholders filled, each once: what is filled in is never looked at again.

    `{json}` is all values as one JSON object. Raises `Invalid` for an id that could be taken for an option.
    """
    if "id" in values and not _ID.fullmatch(values["id"]):
        raise Invalid(f"{tame(values['id'], 60)!r} is no id of OpenClaw.", "Ask for another.", field="id")
    known = {**values, "json": json.dumps(values)}
    return tuple(_PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), part) for part in template)


def _failure(ran: programs.Ran) -> Exception:
    """What a non-zero exit means; the JSON on its output says more than its error output."""
    said = _error_in(ran.output) or ran.complaint or "it gives no reason"
    if "not found" in said.casefold() and "card" in said.casefold():
        return NotFound(said, "It may have been deleted there.", code="unknown_card")
    if DISABLED in said:
        return not_configured(
            "The plug-in workboard of OpenClaw is switched off.", f"Run `{DISABLED}`, restart the gateway."
        )
    if "agent is unavailable" in said:
        return Conflict(
            f"OpenClaw refused: {said}",
            "Give it an agent of that name with `openclaw agents add NAME`, then repeat this.",
            code="unknown_agent",
        )
    if ran.code in (126, 127):
        return unavailable(Trouble.MISSING, f"openclaw cannot be run: {said}")
    if "must be" in said or "does not recognize" in said:
        return Conflict(f"OpenClaw refused: {said}", "Check its version.", code="refused")
    return unavailable(Trouble.FAILED, f"openclaw ended with exit code {ran.code}: {said}")


def _error_in(output: bytes) -> str:
    try:
        told = mapping(json.loads(output[:100_000]))
    except (ValueError, RecursionError):
        return ""
    return tame(mapping(told.get("error")).get("message"), 300)
