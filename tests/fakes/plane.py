"""A small Plane that really answers: the REST API, its limit, and its webhooks (contracts.md, section 3).

    with FakePlane() as plane:
        project = plane.books.project("ORC")
        issue = plane.books.file(project, plane.books.person("anna"), "Fix login")
        plane.hooks                    # what it would tell; `plane.tell(address)` really sends it

It has the surprises of the real one: a bad key is 403, a list has a next cursor even at its end, the state
for triage is in no list, a second issue or comment with the same external id is 409 with the id of the
first, its own changes are told like those of anybody, deletions through the API are told to nobody.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.fakes.plane_books import Books
from tests.fakes.plane_hooks import SECRET, Hook, Sender

SLUG = "orch"
KEY = "plane_api_of-the-fake"
LIMIT = 60


class Refusal(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


@dataclass(frozen=True)
class Call:
    """One request, as it came."""

    method: str
    path: str
    body: dict[str, Any]
    status: int


@dataclass
class _Fault:
    method: str
    path: str
    times: int
    status: int
    raw: bytes
    worked: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class FakePlane:
    """The server, in threads of its own; `books` is the workspace, `bot` the user of `KEY`."""

    def __init__(self, *, version: int = 1, limit: int = LIMIT, pause: float = 0.02) -> None:
        self.hooks: list[Hook] = []
        self.calls: list[Call] = []
        self.limit = limit
        self.most_per_page = 1000
        self.books = Books(self._told, version=version)
        self.bot = self.books.person("orchbot")
        self.keys = {KEY: self.bot}
        self._pause = pause
        self._arrivals: list[float] = []
        self._faults: list[_Fault] = []
        self._lock = threading.RLock()
        self._sender: Sender | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def connection(self) -> dict[str, str]:
        """What the connection `plane` holds."""
        return {"url": self.url, "workspace": SLUG, "api_key": KEY, "webhook_secret": SECRET}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sender:
            self._sender.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    # What tests do with it

    def tell(self, address: str) -> Sender:
        """From now on send every delivery there."""
        self._sender = Sender(address, self._pause)
        return self._sender

    def fail(
        self, method: str, path: str, status: int, *, times: int = 1, worked: bool = False,
        raw: bytes = b'{"error": "Something went wrong please try again later"}', **headers: str,
    ) -> None:  # fmt: skip
        """Answer the next requests whose path contains `path` with this; `worked`: after doing the work."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(_Fault(method, path, times, status, raw, worked, named))

    def rest(self) -> None:
        """A minute goes by."""
        with self._lock:
            self._arrivals.clear()

    def comments(self, issue: str) -> list[str]:
        """What the comments of an issue say, oldest first."""
        return [c["comment_html"] for c in self.books.comments.values() if c["issue"] == issue]

    def state(self, issue: str) -> str:
        """The name of the state in which an issue is."""
        return str(self.books.states[self.books.issues[issue]["state"]]["name"])

    def count(self, method: str, path: str = "") -> int:
        """How many requests there were whose path contains this."""
        return sum(call.method == method and path in call.path for call in self.calls)

    # The server

    def _told(self, hook: Hook) -> None:
        self.hooks.append(hook)
        if self._sender:
            self._sender.send(hook)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

            def _do(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body, headers = fake.answer(self.command, self.path, dict(self.headers), raw)
                self.send_response(status)
                told = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
                for name, value in told.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = _do  # noqa: N815

        return Handler

    def answer(
        self, method: str, target: str, headers: dict[str, str], raw: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request, alone: status, body, headers."""
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        body = json.loads(raw) if raw else {}
        with self._lock:
            fault = self._fault(method, url.path)
            try:
                if fault and not fault.worked:
                    status, told, more = fault.status, fault.raw, fault.headers
                else:
                    actor = self._let_in({name.lower(): value for name, value in headers.items()})
                    status, answer = self._route(method, url.path, query, body, actor)
                    told, more = json.dumps(answer).encode(), self._limits()
                    if fault:
                        status, told = fault.status, fault.raw
            except Refusal as refusal:
                status, told = refusal.status, json.dumps(refusal.body).encode()
                more = self._limits() | refusal.headers
            self.calls.append(Call(method, url.path, body, status))
        return status, told if status != 204 else b"", more

    def _fault(self, method: str, path: str) -> _Fault | None:
        for fault in self._faults:
            if fault.times > 0 and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None

    def _let_in(self, headers: dict[str, str]) -> str:
        key = headers.get("x-api-key")
        if key is None:
            raise Refusal(401, {"detail": "Authentication credentials were not provided."})
        if key not in self.keys:
            raise Refusal(403, {"detail": "Given API token is not valid"})
        now = time.monotonic()
        self._arrivals = [moment for moment in self._arrivals if moment > now - 60]
        if len(self._arrivals) >= self.limit:
            wait = str(int(self._arrivals[0] + 60 - now) + 1)
            body = {"error_code": 5900, "error_message": "RATE_LIMIT_EXCEEDED"}
            raise Refusal(429, body, {"Retry-After": wait})
        self._arrivals.append(now)
        return self.keys[key]

    def _limits(self) -> dict[str, str]:
        left = max(0, self.limit - len(self._arrivals))
        return {"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": str(int(time.time()) + 60)}

    # The routes

    def _route(
        self, method: str, path: str, query: dict[str, str], body: dict[str, Any], actor: str
    ) -> tuple[int, Any]:
        if path == "/api/v1/users/me/":
            return 200, self.books.people[actor]
        inner = path.removeprefix(f"/api/v1/workspaces/{SLUG}")
        if inner == path:
            raise Refusal(403, {"detail": "You do not have permission to perform this action."})
        inner = inner.replace("/issues/", "/work-items/")
        for pattern, work in self._routes().items():
            verb, _, shape = pattern.partition(" ")
            found = re.fullmatch(shape, inner)
            if found and verb == method:
                return work(found.groups(), query, body, actor)
        raise Refusal(404, {"error": "Page not found."})

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        one, items = "([^/]+)", "/projects/([^/]+)/work-items/"
        return {
            "GET /projects/": self._projects,
            f"GET /projects/{one}/states/": self._states,
            f"GET {items}": self._issues,
            f"POST {items}": self._file,
            f"GET {items}{one}/": self._issue,
            f"PATCH {items}{one}/": self._change,
            f"DELETE {items}{one}/": self._remove,
            f"GET {items}{one}/comments/": self._comments,
            f"POST {items}{one}/comments/": self._say,
            f"GET {items}{one}/comments/{one}/": self._comment,
            f"PATCH {items}{one}/comments/{one}/": self._edit,
            f"GET /work-items/{one}-(\\d+)/": self._by_key,
        }

    def _projects(self, _: Any, query: dict[str, str], *__: Any) -> tuple[int, Any]:
        return 200, self._page(list(self.books.projects.values()), query)

    def _states(self, names: tuple[str, ...], query: dict[str, str], *_: Any) -> tuple[int, Any]:
        self._must_have(self.books.projects, names[0])
        rows = [s for s in self.books.states.values() if s["project"] == names[0] and s["group"] != "triage"]
        return 200, self._page(rows, query)

    def _issues(self, names: tuple[str, ...], query: dict[str, str], *_: Any) -> tuple[int, Any]:
        rows = [issue for issue in self.books.issues.values() if issue["project"] == names[0]]
        if query.get("external_id"):
            wanted = (query["external_id"], query.get("external_source"))
            for row in rows:
                if (row["external_id"], row["external_source"]) == wanted:
                    return 200, row
            raise Refusal(404, {"error": "The requested resource does not exist."})
        order = query.get("order_by", "-created_at")
        rows.sort(key=lambda row: row[order.lstrip("-")], reverse=order.startswith("-"))
        return 200, self._page([self._shown(row, query) for row in rows], query)

    def _file(
        self, names: tuple[str, ...], _: dict[str, str], body: dict[str, Any], actor: str
    ) -> tuple[int, Any]:
        self._must_have(self.books.projects, names[0])
        if not body.get("name"):
            raise Refusal(400, {"name": ["This field is required."]})
        self._must_be_new(body, [i for i in self.books.issues.values() if i["project"] == names[0]], "Issue")
        return 201, self.books.issues[self.books.file(names[0], actor, **body)]

    def _issue(self, names: tuple[str, ...], query: dict[str, str], *_: Any) -> tuple[int, Any]:
        self._must_have(self.books.issues, names[1])
        return 200, self._shown(self.books.issues[names[1]], query)

    def _by_key(self, names: tuple[str, ...], query: dict[str, str], *_: Any) -> tuple[int, Any]:
        for row in self.books.issues.values():
            project = self.books.projects[row["project"]]
            if (project["identifier"], str(row["sequence_id"])) == names:
                return 200, self._shown(row, query)
        raise Refusal(404, {"error": "The requested resource does not exist."})

    def _change(
        self, names: tuple[str, ...], _: dict[str, str], body: dict[str, Any], actor: str
    ) -> tuple[int, Any]:
        self._must_have(self.books.issues, names[1])
        if "state" in body and body["state"] not in self.books.states:
            raise Refusal(400, {"state": [f'Invalid pk "{body["state"]}" - object does not exist.']})
        self.books.change(names[1], actor, **body)
        return 200, self.books.issues[names[1]]

    def _remove(self, names: tuple[str, ...], *_: Any) -> tuple[int, Any]:
        self._must_have(self.books.issues, names[1])
        self.books.remove(names[1])
        return 204, None

    def _comments(self, names: tuple[str, ...], query: dict[str, str], *_: Any) -> tuple[int, Any]:
        self._must_have(self.books.issues, names[1])
        rows = [row for row in self.books.comments.values() if row["issue"] == names[1]]
        return 200, self._page(rows[::-1], query)

    def _comment(self, names: tuple[str, ...], *_: Any) -> tuple[int, Any]:
        self._must_have(self.books.comments, names[2])
        return 200, self.books.comments[names[2]]

    def _say(
        self, names: tuple[str, ...], _: dict[str, str], body: dict[str, Any], actor: str
    ) -> tuple[int, Any]:
        self._must_have(self.books.issues, names[1])
        self._must_be_new(body, list(self.books.comments.values()), "Work item comment")
        fields = {key: value for key, value in body.items() if key != "comment_html"}
        return 201, self.books.comments[self.books.say(names[1], actor, body["comment_html"], **fields)]

    def _edit(
        self, names: tuple[str, ...], _: dict[str, str], body: dict[str, Any], actor: str
    ) -> tuple[int, Any]:
        self._must_have(self.books.comments, names[2])
        text = re.sub(r"^<p>|</p>$", "", body["comment_html"])
        self.books.edit(names[2], actor, text)
        return 200, self.books.comments[names[2]]

    def _page(self, rows: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        if int(query.get("per_page", 0)) > self.most_per_page:
            told = f"Invalid per_page value. Cannot exceed {self.most_per_page}."
            raise Refusal(400, {"detail": told})
        return page(rows, query)

    def _shown(self, row: dict[str, Any], query: dict[str, str]) -> Any:
        shown = self.books.expanded(row, tuple(query.get("expand", "").split(",")))
        wanted = query.get("fields", "")
        return {name: shown[name] for name in wanted.split(",") if name in shown} if wanted else shown

    @staticmethod
    def _must_have(rows: dict[str, Any], identity: str) -> None:
        if identity not in rows:
            raise Refusal(404, {"error": "The requested resource does not exist."})

    @staticmethod
    def _must_be_new(body: dict[str, Any], rows: list[dict[str, Any]], what: str) -> None:
        ours = (body.get("external_source"), body.get("external_id"))
        for row in rows:
            if all(ours) and (row["external_source"], row["external_id"]) == ours:
                told = f"{what} with the same external id and external source already exists"
                raise Refusal(409, {"error": told, "id": row["id"]})


def page(rows: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """A list in Plane's envelope; a cursor is `per page:number:is previous`."""
    per_page = int(query.get("per_page", 1000))
    number = int(query.get("cursor", f"{per_page}:0:0").split(":")[1])
    shown = rows[number * per_page : (number + 1) * per_page]
    return {
        "grouped_by": None,
        "sub_grouped_by": None,
        "total_count": len(rows),
        "next_cursor": f"{per_page}:{number + 1}:0",
        "prev_cursor": f"{per_page}:{number - 1}:1",
        "next_page_results": (number + 1) * per_page < len(rows),
        "prev_page_results": number > 0,
        "count": len(shown),
        "total_pages": -(-len(rows) // per_page),
        "total_results": len(rows),
        "extra_stats": None,
        "results": shown,
    }
