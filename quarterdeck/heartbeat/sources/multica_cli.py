"""The program `multica`. Every call carries `--workspace-id` (spec heartbeat.md, section 12)."""

from collections.abc import Mapping
from typing import Any

from quarterdeck.heartbeat.sources import programs
from quarterdeck.heartbeat.sources.multica import CLOSED, MOST_ISSUES, OPEN, STATUSES, connection, status_of
from quarterdeck.heartbeat.sources.polling import Turns
from quarterdeck.heartbeat.sources.reading import mapping, rows, word
from quarterdeck.heartbeat.sources.trouble import refused, unavailable
from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound

PAGE = 100
LEARNED = 500
"""Issues that a look reads whatever their status: as many calls as there are keys of Multica's own."""
NETWORK, AUTH, NOT_FOUND, VALIDATION = 2, 3, 4, 5
_TOLD = {"MULTICA_SERVER_URL": "url", "MULTICA_TOKEN": "token"}


class MulticaProgram:
    """`multica.Door` by the command line."""

    def __init__(self, connections: Connections, turns: Turns, *, seconds: float = programs.SECONDS) -> None:
        self._connections = connections
        self._turns = turns
        self._seconds = seconds
        self._learned = 0
        self._own: set[str] = set()

    async def path(self) -> str | None:
        """Where the program is; `None` = nowhere."""
        value = await connection(self._connections)
        return programs.found(_program(value), _environment(value))

    async def open_issues(self) -> list[Any]:
        """All that are not closed, and some that are.

        The program filters by key alone, and knows no list of a workspace's own keys. Whatever is read
        without a filter teaches those: all at once where it is not much, else a stretch at each look.
        """
        found, end = await self._pages(self._learned, LEARNED)
        is_all, self._learned = end is None and not self._learned, end or 0
        if is_all:
            return found
        self._own |= {key for issue in found if (key := _own_key(mapping(issue)))}
        for status in (*OPEN, *sorted(self._own)):
            found += await self._in_status(status)
        return found

    async def _in_status(self, status: str) -> list[Any]:
        try:
            found, end = await self._pages(0, MOST_ISSUES, "--status", status)
        except Conflict:
            if status in OPEN:
                raise
            self._own.discard(status)  # the workspace has it no more
            return []
        if end is not None:
            raise unavailable(Trouble.TOO_LARGE, f"Multica has more than {MOST_ISSUES} open issues.")
        return found

    async def _pages(self, start: int, most: int, *filters: str) -> tuple[list[Any], int | None]:
        """At most so many issues from there on, and where the next ones begin; `None` = there are none."""
        found: list[Any] = []
        while len(found) < most:
            asked = (*filters, "--limit", str(PAGE), "--offset", str(start + len(found)))
            told = await self._json("issue", "list", *asked, "--output", "json")
            page = told if isinstance(told, list) else rows(mapping(told).get("issues"))
            if not isinstance(told, list) and not isinstance(mapping(told).get("issues"), list):
                raise unavailable(Trouble.UNREADABLE, "multica told something that is no list of issues.")
            found += page
            if not page or not mapping(told).get("has_more"):
                return found, None
        return found, start + len(found)

    async def issue(self, identity: str) -> Mapping[str, Any] | None:
        try:
            return mapping(await self._json("issue", "get", _safe(identity), "--output", "json"))
        except NotFound:
            return None

    async def comments(self, identity: str) -> list[Any]:
        told = await self._json("issue", "comment", "list", _safe(identity), "--output", "json")
        return rows(told) or rows(mapping(told).get("comments"))

    async def comment(self, identity: str, text: str) -> None:
        """By its input: `--content` would turn backslashes into something else."""
        await self._run("issue", "comment", "add", _safe(identity), "--content-stdin", said=text)

    async def delete_comment(self, comment: str) -> None:
        await self._run("issue", "comment", "delete", _safe(comment))

    async def set_status(self, identity: str, status: str) -> None:
        await self._run("issue", "status", _safe(identity), status, "--no-start")

    async def assign(self, identity: str, agent: str) -> None:
        await self._run("issue", "assign", _safe(identity), "--to-id", _safe(agent), "--no-start")

    async def _json(self, *arguments: str) -> Any:
        return await programs.json_of(await self._run(*arguments))

    async def _run(self, *arguments: str, said: str | None = None) -> programs.Ran:
        value = await connection(self._connections)
        await self._turns.take()
        argv = (_program(value), *arguments, "--workspace-id", str(value["workspace_id"]))
        ran = await programs.run(argv, environment=_environment(value), seconds=self._seconds, said=said)
        if ran.code:
            raise _failure(ran)
        return ran


def _program(value: Mapping[str, Any]) -> str:
    return str(value.get("program") or "multica")


def _environment(value: Mapping[str, Any]) -> dict[str, str]:
    told = {name: str(value[key]) for name, key in _TOLD.items() if value.get(key)}
    return programs.environment(told, path=str(value.get("path") or ""))


def _own_key(issue: Mapping[str, Any]) -> str:
    """The issue's status if the workspace made it and it is not closed; else empty."""
    key = word(issue.get("status"))
    return (
        key if status_of(issue) not in CLOSED and key not in STATUSES and key not in ("", "backlog") else ""
    )


def _safe(identity: str) -> str:
    """Raises `Invalid` for an id that could be taken for an option."""
    if not identity or identity.startswith("-"):
        raise Invalid("This is no id of Multica.", "Ask for another.", field="id")
    return identity


def _failure(ran: programs.Ran) -> Exception:
    """What its exit codes mean (spec contracts.md, section 2)."""
    said = ran.complaint or "it gives no reason"
    if ran.code == NETWORK:
        return unavailable(Trouble.FAILED, f"multica cannot reach its server: {said}")
    if ran.code == AUTH:
        return refused(f"multica is not let in: {said}", "Run `multica login`, or enter a new token.")
    if ran.code == NOT_FOUND:
        return NotFound(f"Multica knows no such thing: {said}", "It may have been deleted there.")
    if ran.code == VALIDATION:
        return Conflict(f"Multica refused: {said}", "Look at the issue there.", code="refused")
    return unavailable(Trouble.FAILED, f"multica ended with exit code {ran.code}: {said}")
