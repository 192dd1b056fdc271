"""Whatever is sent to any door of the desk, the answer is one that the OpenAPI document promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deployments.web import create_app
from tests.fakes.company import OWNER, company
from tests.fakes.knocking import DOOR, PROBLEM, Knocking, furnish

SOME = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.fixture
async def app(tmp_path: Path, database_url: str) -> AsyncIterator[FastAPI]:
    """The doors of a company with a project, two items, a run and a delivery."""
    async with company(tmp_path, database_url) as house:
        await furnish(house)
        yield create_app(house)


@pytest.fixture
def owners(app: FastAPI) -> Knocking:
    return Knocking(app, OWNER)


@pytest.fixture
def nobodys(app: FastAPI) -> Knocking:
    return Knocking(app)


@SOME
@given(data=st.data())
async def test_no_rubbish_breaks_a_door(owners: Knocking, data: st.DataObject) -> None:
    await owners.knock(data.draw(owners.cases()))


@SOME
@given(data=st.data())
async def test_nobody_without_a_token_is_told_anything(nobodys: Knocking, data: st.DataObject) -> None:
    case = data.draw(nobodys.cases())
    answer = await nobodys.knock(case)
    if case.operation.path in ("/health", "/healthz"):
        assert answer.status_code == 200
        return
    refusals = {401, 404} if case.operation.path == DOOR else {401}
    malformed = {404, 405, 413, 422}  # what no route has seen
    assert answer.status_code in refusals | malformed
    assert answer.headers["content-type"] == PROBLEM
    assert "Enduro" not in answer.text


def test_the_document_names_every_error_and_says_what_each_operation_is(app: FastAPI) -> None:
    document = app.openapi()
    for path, found in document["paths"].items():
        for method, operation in found.items():
            assert operation["summary"] and operation["tags"], f"{method} {path}"
            if path.startswith("/api"):
                assert operation["security"]
                assert {"401", "422", "500", "503"} <= set(operation["responses"]), f"{method} {path}"
                assert ("requestBody" in operation) == ("413" in operation["responses"]), f"{method} {path}"
                for status, response in operation["responses"].items():
                    if status >= "400":
                        assert list(response["content"]) == [PROBLEM]
            if "{" in path:
                assert "404" in operation["responses"], f"{method} {path}"
            if method != "get":
                assert "403" in operation["responses"], f"{method} {path}"
