"""Requests made from the OpenAPI document itself, good ones and wrong ones, at every door of the desk.

    knocking = Knocking(create_app(house), token)
    await knocking.knock(data.draw(knocking.cases()))

Half of them name things that there are. Deliveries of webhooks are signed as their source would.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import httpx
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.crew.runtime import Outcome
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.identity import owner
from quarterdeck.pipeline.assignments import Wish
from tests.fakes import senders

OUTSIDE = "/api/v1/notify/test"
"""A door that leads to other programs."""

DOOR = "/webhooks/{source}"
PROBLEM = "application/problem+json"
PROMISES = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
THERE: Mapping[str, Mapping[str, Any]] = {
    "/api/v1/projects/": {"key": "ET"},
    "/api/v1/items/": {"key": "ET-001"},
    "/api/v1/agents/": {"slug": "analyst", "agent_id": "analyst"},
    "/api/v1/runs/": {"run_id": 1},
    "/api/v1/webhooks/": {"id": 1},
    "/api/v1/deployments/": {"name": "deliver"},
    "/webhooks/": {"source": "gitea"},
}
"""What there is, by the beginning of its address."""


async def furnish(house: House) -> None:
    """A project, two items, a run, a delivery, and every source of webhooks connected."""
    anna = owner("test")
    await house.board.create_project(anna, ProjectDraft(key="ET", name="Enduro"))
    for title in ("One", "Two"):
        await house.board.file(anna, Draft(project="ET", title=title))
    run = await house.assignments.assign(anna, Wish("analyst", "ET-001", "Look.", timedelta(minutes=5)))
    await house.inbox.accept("plane", "1", "issue", {}, b"{}")
    async with house.database.command("end run") as unit:
        await house.crew.close_run(unit, run.id or 0, Outcome(exit_code=0))
    async with house.database.command("connect") as unit:
        for kind, value in senders.CONNECTIONS.values():
            await house.connections.put(unit, kind, "default", value, Source.API)


class Knocking:
    """One caller at every door; an empty token is nobody."""

    def __init__(self, app: FastAPI, token: str = "") -> None:
        document = app.openapi()
        self._schema = schemathesis.openapi.from_dict(document).exclude(path=OUTSIDE)
        self._operations: dict[str, st.SearchStrategy[Case]] = {}
        self._transport = httpx.ASGITransport(app)
        self.token = token

    def cases(self) -> st.SearchStrategy[Case]:
        """Of every operation, as the document wants it and as it does not."""
        return st.one_of(*self.operations().values())

    def operations(self) -> dict[str, st.SearchStrategy[Case]]:
        """The cases of each operation."""
        if not self._operations:
            found = (result.ok() for result in self._schema.get_all_operations())
            self._operations = {operation.label: st.one_of(*_cases(operation)) for operation in found}
        return self._operations

    async def knock(self, case: Case) -> httpx.Response:
        """Send it. Raises `AssertionError` for an answer that the document does not promise."""
        sent = requests.Request(**self._arguments(case)).prepare()
        headers, body = dict(sent.headers), _bytes(sent.body)
        if self.token and case.operation.path == DOOR:
            headers |= _signed(body)
        async with httpx.AsyncClient(transport=self._transport) as client:
            answer = await client.request(str(sent.method), str(sent.url), headers=headers, content=body)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=PROMISES)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == PROBLEM
            assert answer.json()["instruction"]
        return answer

    def _arguments(self, case: Case) -> dict[str, Any]:
        arguments = case.as_transport_kwargs(base_url="http://desk")
        (arguments.get("params") or {}).pop("follow", None)  # the log of a run that nobody starts has no end
        headers = {n: v for n, v in (arguments.pop("headers") or {}).items() if n.lower() != "authorization"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return {**arguments, "headers": headers}


def _cases(operation: Any) -> Iterator[st.SearchStrategy[Case]]:
    known = next((there for begin, there in THERE.items() if operation.path.startswith(begin)), {})
    names = {parameter.name for parameter in operation.path_parameters}
    there = {name: value for name, value in known.items() if name in names}
    for mode in GenerationMode:
        yield operation.as_strategy(mode)
        if there:
            yield operation.as_strategy(mode, path_parameters=there)


def _bytes(body: Any) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body or b""


def _signed(body: bytes) -> dict[str, str]:
    """As Gitea and Plane prove themselves; each looks for its own."""
    return {
        "X-Gitea-Signature": senders.hex_hmac(senders.SECRETS["gitea"], body),
        "X-Plane-Signature": senders.hex_hmac(senders.SECRETS["plane"], body),
    }
