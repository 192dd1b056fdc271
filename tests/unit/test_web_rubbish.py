"""Whatever is sent to any door of the desk, the answer is one that the OpenAPI document promises."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deployments.web import create_app
from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.kernel.identity import owner
from tests.fakes.company import OWNER, company

SLOW = {"/api/v1/notify/test"}
"""Doors that lead outside."""

texts = st.text(max_size=20) | st.sampled_from(["ET", "ET-001", "ET-002", "1", "0", "-1", "default", "\x00"])
numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2**31, 2**63, 2**64, -1])
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
async def app(tmp_path: Path, database_url: str) -> AsyncIterator[FastAPI]:
    """The doors of a company with a project and two items."""
    async with company(tmp_path, database_url) as house:
        await house.board.create_project(owner("test"), ProjectDraft(key="ET", name="Enduro"))
        for title in ("One", "Two"):
            await house.board.file(owner("test"), Draft(project="ET", title=title))
        yield create_app(house)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, found in document["paths"].items()
        for method, operation in found.items()
        if path not in SLOW
    ]


def fields_of(document: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    """The names that the body of an operation may have."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for choice in [schema, *schema.get("anyOf", [])]:
        if name := choice.get("$ref", "").rpartition("/")[2]:
            return list(document["components"]["schemas"][name]["properties"])
    return []


@st.composite
def requests(draw: st.DrawFn, document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request to some operation, and that operation."""
    method, path, operation = draw(st.sampled_from(operations(document)))
    path = re.sub(r"\{[^}]+\}", lambda _: quote(draw(texts), safe=""), path)
    names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
    query = {name: draw(texts) for name in names if draw(st.booleans())}
    request: dict[str, Any] = {"method": method, "url": path, "params": query}
    fields = fields_of(document, operation)
    if fields:
        body = draw(st.dictionaries(st.sampled_from(fields), junk, max_size=len(fields)) | junk)
        request["content"] = _json(body)
        request["headers"] = {"Content-Type": "application/json"}
    return request, operation


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=True).encode("utf-8", "surrogatepass")


async def send(app: FastAPI, wanted: tuple[dict[str, Any], dict[str, Any]]) -> None:
    request, operation = wanted
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {OWNER}"} | request.pop("headers", {})
    async with httpx.AsyncClient(transport=transport, base_url="http://desk", headers=headers) as client:
        answer = await client.request(**request)
    status = str(answer.status_code)
    assert status in operation["responses"] or status in ("404", "405"), f"{status} is not promised"
    assert answer.status_code < 500 or status == "503", answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["instruction"]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(data=st.data())
async def test_no_rubbish_breaks_a_door(app: FastAPI, data: st.DataObject):
    await send(app, data.draw(requests(app.openapi())))


def test_the_document_names_every_error_and_says_what_each_operation_is(app: FastAPI):
    for method, path, operation in operations(app.openapi()):
        assert operation["summary"] and operation["tags"], f"{method} {path}"
        if path.startswith("/api"):
            assert operation["security"]
            assert {"401", "422", "500", "503"} <= set(operation["responses"]), f"{method} {path}"
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
        if "{" in path:
            assert "404" in operation["responses"], f"{method} {path}"
        if method != "GET":
            assert "403" in operation["responses"], f"{method} {path}"
