"""The client of Plane's REST API (community edition and cloud, v1).

Source: spec/contracts.md section 3. Down = `Unavailable`; refused = `Conflict` with Plane's `status`;
something that is not Plane = `Unavailable` with the code `wrong_answer`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from quarterdeck.forge import plane_shapes as shapes
from quarterdeck.forge.markup import paragraphs
from quarterdeck.forge.plane_budget import Budget
from quarterdeck.forge.tracker import SOURCE, Changed, Comment, Group, Issue, TrackerProject, TrackerState
from quarterdeck.kernel import http
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, NotFound, Unavailable

SECONDS = 20.0
MOST_BYTES = 8_000_000
PER_PAGE = 50
BRIEF_PER_PAGE = 1000
"""As many as the community edition gives at once; others refuse more than `FEW_PER_PAGE`."""
FEW_PER_PAGE = 100
MOST_ROWS = 1000
"""Of projects, or of states of a project."""
MEMORY = timedelta(minutes=10)
"""How long states and our own id are believed without asking again."""
REST = 30.0
"""Seconds to leave Plane alone when it says "too many" without saying for how long."""


@dataclass(frozen=True)
class _Access:
    url: str
    workspace: str
    key: str

    @property
    def base(self) -> str:
        return f"{self.url}/api/v1/workspaces/{quote(self.workspace, safe='')}"


class Plane:
    """One Plane workspace: `Tracker` over HTTP. Cheap to make, keeps no connection open."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._database = database
        self._connections = connections
        self._budget = Budget(database, "plane")
        self._transport = transport
        self._brief_per_page = BRIEF_PER_PAGE
        self._known: dict[tuple[str, str, str], tuple[Any, datetime]] = {}

    async def is_connected(self) -> bool:
        """Was Plane switched on by a block or a variable?"""
        value = await self._connections.get("plane")
        return bool(value and value.get("url") and value.get("api_key") and value.get("workspace"))

    # Looking

    async def myself(self) -> str:
        """The id of the user whose key we have. Raises `Unavailable` also when Plane does not say."""
        return str(await self._remembered("myself", "", self._ask_who_we_are))

    async def _ask_who_we_are(self, _: str) -> str:
        access = await self._access()
        found = await self._send("GET", f"{access.url}/api/v1/users/me/")
        return shapes.identity(_object(found)) or _not_plane()

    async def projects(self) -> tuple[TrackerProject, ...]:
        """All projects of the workspace (the first thousand)."""
        return tuple(
            TrackerProject(shapes.identity(row), str(row.get("identifier") or ""), str(row.get("name") or ""))
            for row in await self._every("/projects/")
        )

    async def project(self, name: str) -> TrackerProject:
        """By id or identifier. Raises `NotFound` naming those there are."""
        found = await self.projects()
        for project in found:
            if name.lower() in (project.id.lower(), project.identifier.lower()):
                return project
        raise NotFound.among("Plane project", name, (project.identifier for project in found))

    async def states(self, project: str) -> tuple[TrackerState, ...]:
        """The states of a project, in its order; the one for triage is never among them."""
        found: tuple[TrackerState, ...] = await self._remembered("states", project, self._ask_for_states)
        return found

    async def _ask_for_states(self, project: str) -> tuple[TrackerState, ...]:
        known = {group.value for group in Group}
        return tuple(
            TrackerState(shapes.identity(row), str(row.get("name") or ""), Group(row["group"]))
            for row in await self._every(f"/projects/{quote(project)}/states/")
            if row.get("group") in known
        )

    async def _every(self, path: str) -> list[dict[str, Any]]:
        """The rows of a list, from all its pages."""
        rows, page = list[dict[str, Any]](), ""
        while True:
            asked = {"per_page": str(FEW_PER_PAGE)} | ({"cursor": page} if page else {})
            answer = await self._send("GET", path, params=asked)
            rows += _results(answer)
            page = _next_page(answer)
            if not page or len(rows) >= MOST_ROWS:
                return rows

    async def issue(self, project: str, identity: str) -> Issue:
        """One issue."""
        return _issue(await self._send("GET", _issue_path(project, identity), params=_EXPANDED))

    async def by_key(self, key: str) -> Issue:
        """One issue by what people call it, such as `ORC-1`."""
        return _issue(await self._send("GET", f"/work-items/{quote(key, safe='')}/", params=_EXPANDED))

    async def changed(
        self, project: str, page: str = "", *, spare: int = 0, is_brief: bool = False
    ) -> Changed:
        """Issues by the time of their last change, newest first; brief ones come without descriptions."""
        asked = {**_EXPANDED, "order_by": "-updated_at", "per_page": str(PER_PAGE)}
        asked |= {"cursor": page} if page else {}
        if is_brief:
            return await self._brief(project, asked, spare)
        return await self._page(project, asked, spare)

    async def _brief(self, project: str, asked: dict[str, str], spare: int) -> Changed:
        asked |= {"fields": _BRIEF, "per_page": str(self._brief_per_page)}
        try:
            return await self._page(project, asked, spare)
        except (Conflict, Unavailable) as error:
            if self._brief_per_page == FEW_PER_PAGE or not _is_too_much(error):
                raise
            self._brief_per_page = FEW_PER_PAGE
            if "cursor" in asked:
                raise  # pages of different sizes do not follow each other: the next look begins anew
        return await self._page(project, asked | {"per_page": str(FEW_PER_PAGE)}, spare)

    async def _page(self, project: str, asked: Mapping[str, str], spare: int) -> Changed:
        path = f"/projects/{quote(project)}/work-items/"
        answer = _object(await self._send("GET", path, params=asked, spare=spare))
        return Changed(tuple(_issue(row) for row in _results(answer)), _next_page(answer))

    async def comments(self, project: str, issue: str, *, spare: int = 0) -> tuple[Comment, ...]:
        """The comments of an issue (the newest hundred)."""
        asked = {"per_page": "100", "order_by": "-created_at"}
        answer = await self._send("GET", _issue_path(project, issue) + "comments/", params=asked, spare=spare)
        return tuple(_comment(row, project, issue) for row in _results(answer))

    async def comment_of(self, project: str, issue: str, comment: str) -> Comment:
        """One comment."""
        path = f"{_issue_path(project, issue)}comments/{quote(comment, safe='')}/"
        return _comment(_object(await self._send("GET", path)), project, issue)

    # Writing

    async def create(self, project: str, title: str, description: str, priority: str, our_id: str) -> str:
        """Make an issue; made before under `our_id` = that one. Returns its id."""
        body = {"name": title, "description_html": paragraphs(description) or "<p></p>", "priority": priority}
        return await self._make(f"/projects/{quote(project)}/work-items/", body, our_id)

    async def comment(self, project: str, issue: str, text: str, our_id: str) -> str:
        """Write a comment; written before under `our_id` = that one. Returns its id."""
        return await self._make(
            _issue_path(project, issue) + "comments/", {"comment_html": paragraphs(text)}, our_id
        )

    async def set_state(self, project: str, issue: str, group: Group) -> None:
        """Put the issue into the first state of a group. Raises `Conflict` when the project has none."""
        for state in await self.states(project):
            if state.group is group:
                await self._send("PATCH", _issue_path(project, issue), json={"state": state.id})
                return
        raise Conflict(
            f"The Plane project has no state of the group {group.value!r}.",
            "Add one in the project's settings in Plane.",
            code="no_such_group",
        )

    async def _make(self, path: str, body: Mapping[str, Any], our_id: str) -> str:
        ours = {"external_source": SOURCE, "external_id": our_id}
        answer = _object(await self._send("POST", path, json={**body, **ours}, fine=(409,)))
        return shapes.identity(answer) or _not_plane()

    # The wire

    async def _access(self) -> _Access:
        value = await self._connections.get("plane") or {}
        url, workspace, key = (str(value.get(name) or "") for name in ("url", "workspace", "api_key"))
        if not (url and workspace and key):
            raise Misconfigured(
                "Plane is not connected.",
                "Fill the block `Quarterdeck Plane` in Prefect, or set PLANE_URL, PLANE_WORKSPACE and"
                " PLANE_API_KEY.",
                code="not_connected",
            )
        return _Access(url.rstrip("/"), workspace, key)

    async def _send(
        self, method: str, path: str, *, spare: int = 0, fine: tuple[int, ...] = (), **content: Any
    ) -> Any:
        """One request within the limit; the JSON of its answer. `fine` = refusals that are answers too."""
        access = await self._access()
        await self._budget.take(spare)
        async with http.client(
            "Plane",
            headers={"X-Api-Key": access.key, "Accept": "application/json"},
            seconds=SECONDS,
            attempts=1,  # each attempt counts against the limit; callers come again
            most_bytes=MOST_BYTES,
            transport=self._transport,
        ) as client:
            answer = await client.request(
                method, path if path.startswith("http") else access.base + path, **content
            )
        await self._obey(answer)
        if answer.status_code in fine:
            return _json(answer)
        _must_be_let_in(answer)
        return http.json_of(answer)

    async def _obey(self, answer: httpx.Response) -> None:
        """Plane counts too; other programs may use the same key."""
        if answer.status_code == 429:
            told = http.retry_after(answer)
            await self._budget.close(REST if told is None else float(told))

    async def _remembered(self, what: str, of: str, ask: Callable[[str], Awaitable[Any]]) -> Any:
        access = await self._access()
        name, now = (f"{access.base} {access.key}", what, of), self._database.clock.now()
        kept = self._known.get(name)
        if kept is None or not timedelta(0) <= now - kept[1] < MEMORY:
            kept = (await ask(of), now)
            self._known[name] = kept
        return kept[0]


_EXPANDED = {"expand": "state,assignees,labels"}
_BRIEF = (
    "id,project,sequence_id,name,priority,labels,state,created_by,updated_by,created_at,updated_at,"
    "external_source,external_id,is_draft,archived_at"
)
"""All fields that an `Issue` is made of, without its description."""


def _issue_path(project: str, issue: str) -> str:
    return f"/projects/{quote(project, safe='')}/work-items/{quote(issue, safe='')}/"


def _is_too_much(error: Conflict | Unavailable) -> bool:
    """So many issues at once are refused, or take too long, or too much room."""
    return error.data.get("status") == 400 or error.code == "timed_out" or bool(error.data.get("too_large"))


def _must_be_let_in(answer: httpx.Response) -> None:
    if answer.status_code in (401, 403):
        what = "does not know our API key" if answer.status_code == 403 else "wants an API key"
        raise Conflict(
            f"Plane {what}, or it may not do this ({answer.status_code}).",
            "Make a new key in Plane (profile settings, API tokens) and enter it in the block"
            " `Quarterdeck Plane`.",
            code="refused",
            status=answer.status_code,
        )


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        _not_plane()


def _object(answer: Any) -> dict[str, Any]:
    return answer if isinstance(answer, dict) else _not_plane()


def _results(answer: Any) -> list[dict[str, Any]]:
    """The rows of a list: in an envelope, or (older editions, some lists) without one."""
    rows = answer.get("results") if isinstance(answer, dict) else answer
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        _not_plane()
    return rows


def _next_page(answer: Any) -> str:
    """The cursor of the next page; one stands there even on the last page, which says that there is none."""
    has_more = isinstance(answer, dict) and answer.get("next_page_results") is True
    return str(answer.get("next_cursor") or "")[:200] if has_more else ""


def _issue(row: Any) -> Issue:
    try:
        return shapes.issue_of(_object(row))
    except Invalid:
        _not_plane()


def _comment(row: dict[str, Any], project: str, issue: str) -> Comment:
    try:
        return shapes.comment_of({"project": project, "issue": issue} | row)
    except Invalid:
        _not_plane()


def _not_plane() -> NoReturn:
    raise Unavailable(
        "Plane answered something that Plane does not answer.",
        "Check that its address leads to the right service.",
        code="wrong_answer",
        maybe_arrived=True,
    )
