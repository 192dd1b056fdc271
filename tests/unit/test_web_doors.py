"""The HTTP doors: who may enter, what is refused and how, and that nothing of the inside is shown."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.web import LARGEST_BODY
from tests.fakes.doors import board_behind_doors

Client = httpx.AsyncClient
JSON = {"Content-Type": "application/json"}
ITEM = {"project": "ET", "title": "A thing"}


@pytest.fixture
async def anna(database: Database) -> AsyncIterator[Client]:
    """A member at the door of a board with the project ET and the item ET-001."""
    transport = httpx.ASGITransport(board_behind_doors(database))
    headers = {"Authorization": "Bearer annas-token"}
    async with Client(transport=transport, base_url="http://desk", headers=headers) as client:
        await client.post("/api/v1/projects", json={"key": "ET", "name": "Enduro"})
        await client.post("/api/v1/items", json=ITEM)
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> dict:
    """The problem in an answer, after a look at what every problem must have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:quarterdeck:{code}"
    assert body["title"] and body["detail"] and body["instruction"]
    return body


def fields(body: dict) -> list[str]:
    return [error["field"] for error in body["errors"]]


async def test_an_item_is_filed_shown_edited_and_listed(anna: Client):
    filed = await anna.post("/api/v1/items", json=ITEM | {"priority": "high", "depends_on": ["ET-001"]})
    assert filed.status_code == 201
    assert filed.json()["key"] == "ET-002"
    assert filed.headers["etag"] == '"1"'
    edited = await anna.patch("/api/v1/items/ET-002", json={"title": "New"}, headers={"If-Match": '"1"'})
    assert (edited.status_code, edited.headers["etag"]) == (200, '"2"')
    shown = await anna.get("/api/v1/items/ET-002")
    assert shown.json() == edited.json()
    page = (await anna.get("/api/v1/items", params={"limit": 1, "q": "new"})).json()
    assert ([item["key"] for item in page["items"]], page["next_cursor"]) == (["ET-002"], None)
    events = (await anna.get("/api/v1/items/ET-002/events")).json()
    assert [e["kind"] for e in events["items"]] == ["item_filed", "item_edited"]
    assert set(events["items"][0]) == {"id", "at", "kind", "text", "run_id", "data"}
    later = (
        await anna.get("/api/v1/items/ET-002/events", params={"cursor": events["items"][0]["id"]})
    ).json()
    assert [e["kind"] for e in later["items"]] == ["item_edited"]


async def test_a_project_is_edited_at_the_version_that_was_read(anna: Client):
    tag = (await anna.get("/api/v1/projects/ET")).headers["etag"]
    edited = await anna.patch("/api/v1/projects/ET", json={"archived": True}, headers={"If-Match": tag})
    assert (edited.status_code, edited.json()["archived"], edited.headers["etag"]) == (200, True, '"2"')
    late = await anna.patch("/api/v1/projects/ET", json={"name": "Late"}, headers={"If-Match": tag})
    assert late.status_code == 412
    odd = await anna.patch("/api/v1/projects/ET", json={"key": "XX", "name": "x"})
    assert odd.status_code == 422 and fields(odd.json()) == ["key"]


@pytest.mark.parametrize(
    "path", ["/projects", "/projects/ET", "/items", "/items/ET-001", "/items/ET-001/events"]
)
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "annas-token", "Bearer ' or 1=1 --"],
)
async def test_nothing_is_shown_without_a_token(anna: Client, path, authorization):
    answer = await anna.get(f"/api/v1{path}", headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "ET" not in answer.text.replace(path, "")


async def test_a_wrong_body_is_not_even_looked_at_without_a_token(anna: Client):
    for authorization in ("", "Bearer wrong"):
        answer = await anna.post("/api/v1/items", json={"x": 1}, headers={"Authorization": authorization})
        assert answer.status_code == 401


async def test_a_viewer_reads_everything_and_changes_nothing(anna: Client):
    viewer = {"Authorization": "Bearer viktors-token"}
    assert (await anna.get("/api/v1/items/ET-001", headers=viewer)).status_code == 200
    for method, path, body in (
        ("POST", "/projects", {"key": "XX", "name": "x"}),
        ("POST", "/items", ITEM),
        ("PATCH", "/items/ET-001", {"title": "x"}),
    ):
        problem(await anna.request(method, f"/api/v1{path}", json=body, headers=viewer), 403, "forbidden")
    assert (await anna.get("/api/v1/items/ET-001")).json()["version"] == 1


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["project", "title"]),
        (ITEM | {"title": " "}, ["title"]),
        (ITEM | {"title": None}, ["title"]),
        (ITEM | {"title": "x" * 301}, ["title"]),
        (ITEM | {"title": "a\x00b"}, ["title"]),
        (ITEM | {"title": "\ud800"}, ["title"]),
        (ITEM | {"priority": "soon"}, ["priority"]),
        (ITEM | {"labels": ["x", 7]}, ["labels.1"]),
        (ITEM | {"labels": "x"}, ["labels"]),
        (ITEM | {"depends_on": ["ET-001"] * 101}, ["depends_on"]),
        (ITEM | {"stage": "merge"}, ["stage"]),
        ([], ["body"]),
        ("text", ["body"]),
        (None, ["body"]),
    ],
)
async def test_a_malformed_body_is_refused_by_the_name_of_the_field(anna: Client, body, wrong):
    answer = await anna.post("/api/v1/items", content=json.dumps(body), headers=JSON)
    assert fields(problem(answer, 422, "invalid")) == wrong


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe{", b"[" * 50_000, b'{"a": 1e999999}'])
async def test_a_body_that_is_not_json_is_refused(anna: Client, body):
    answer = await anna.post("/api/v1/items", content=body, headers=JSON)
    assert problem(answer, 422, "invalid")["errors"]


async def test_a_body_without_its_type_is_answered_with_the_type_to_send(anna: Client):
    answer = await anna.post("/api/v1/items", content=json.dumps(ITEM))
    assert "application/json" in problem(answer, 422, "invalid")["instruction"]


async def test_what_was_sent_is_never_sent_back(anna: Client):
    for body in (ITEM | {"title": ["canary"]}, ITEM | {"priority": "canary"}, ["canary"]):
        assert "canary" not in (await anna.post("/api/v1/items", json=body)).text


@pytest.mark.parametrize("key", ["et", "E", "1ET", "ABCDEFGHIJK", "ET ", "ЕТ", "ET\n"])
async def test_a_project_key_has_a_form(anna: Client, key):
    answer = await anna.post("/api/v1/projects", json={"key": key, "name": "x"})
    assert fields(problem(answer, 422, "invalid")) == ["key"]


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        *(("repository", "a b"), ("default_branch", "--upload-pack=x"), ("name", "")),
        *(("default_branch", name) for name in ("a..b", "x.lock", "HEAD", "main/", "a//b", "main.", "item")),
    ],
)
async def test_a_project_that_no_code_host_could_hold_is_refused(anna: Client, wrong, value):
    answer = await anna.post("/api/v1/projects", json={"key": "XX", "name": "x", wrong: value})
    assert fields(problem(answer, 422, "invalid")) == [wrong]
    changed = await anna.patch("/api/v1/projects/ET", json={wrong: value})
    assert fields(problem(changed, 422, "invalid")) == [wrong]


async def test_a_second_project_of_the_same_key_is_a_conflict(anna: Client):
    problem(await anna.post("/api/v1/projects", json={"key": "ET", "name": "x"}), 409, "project_exists")


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": 10**30}, "limit"),
        ({"state": "lost"}, "state.0"),
        ({"cursor": "rubbish"}, "cursor"),
        ({"colour": "red"}, "colour"),
        ({"q": "x" * 201}, "q"),
    ],
)
async def test_a_wrong_query_is_refused_by_the_name_of_the_parameter(anna: Client, query, wrong):
    assert fields(problem(await anna.get("/api/v1/items", params=query), 422, "invalid")) == [wrong]


@pytest.mark.parametrize("path", ["/items/ET-999", "/items/ET-999/events"])
async def test_an_unknown_item_is_answered_with_the_items_there_are(anna: Client, path):
    assert "ET-001" in problem(await anna.get(f"/api/v1{path}"), 404, "unknown_item")["instruction"]


@pytest.mark.parametrize(
    "key", ["ET-1e3", "ET-00%00", "%FF", "..%2f..", "ET-001%20", "x" * 3000, "ET-001'--"]
)
async def test_odd_keys_are_simply_unknown(anna: Client, key):
    answer = await anna.get(f"/api/v1/items/{key}")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_cycle_is_a_conflict_that_is_named(anna: Client):
    await anna.post("/api/v1/items", json=ITEM | {"depends_on": ["ET-001"]})
    answer = await anna.patch("/api/v1/items/ET-001", json={"depends_on": ["ET-002"]})
    body = problem(answer, 409, "dependency_cycle")
    assert "ET-001 → ET-002 → ET-001" in body["detail"]
    assert body["data"] == {"cycle": ["ET-001", "ET-002", "ET-001"]}
    problem(await anna.patch("/api/v1/items/ET-001", json={"parent": "ET-001"}), 409, "parent_cycle")


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"If-Match": '"7"'}, 412),
        ({"If-Match": "7"}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-Match": "x"}, 422),
    ],
)
async def test_an_edit_of_an_old_version_is_refused(anna: Client, how, status):
    answer = await anna.patch("/api/v1/items/ET-001", json={"title": "New"}, headers=how)
    assert answer.status_code == status


async def test_a_repeated_post_is_answered_the_same_and_a_changed_one_is_refused(anna: Client):
    key = {"Idempotency-Key": "one"}
    answers = await asyncio.gather(*(anna.post("/api/v1/items", json=ITEM, headers=key) for _ in range(5)))
    assert {(a.status_code, a.text) for a in answers} == {(201, answers[0].text)}
    other = await anna.post("/api/v1/items", json=ITEM | {"title": "Other"}, headers=key)
    assert fields(problem(other, 422, "idempotency_key_reused")) == ["Idempotency-Key"]


async def test_unknown_routes_and_methods_are_problems_too(anna: Client):
    problem(await anna.get("/api/v1/nonsense"), 404, "unknown_route")
    problem(await anna.get("/api/v1/items/"), 404, "unknown_route")
    answer = await anna.delete("/api/v1/items")
    told = problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"  # which two routes offer
    assert "/api/v1/items does not take DELETE" in told["detail"] and "GET, POST" in told["instruction"]
    assert told["data"] == {"allowed": ["GET", "POST"]}


async def test_an_unexpected_error_shows_a_number_and_nothing_of_the_inside(anna: Client, caplog):
    answer = await anna.get("/breaks")
    body = problem(answer, 500, "internal")
    assert "canary" not in answer.text and "Traceback" not in answer.text
    assert body["data"]["request"] == answer.headers["x-request-id"]


async def test_a_body_that_is_too_large_is_refused_however_it_arrives(anna: Client):
    large = json.dumps(ITEM | {"description": "x" * LARGEST_BODY})
    problem(await anna.post("/api/v1/items", content=large), 413, "too_large")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536].encode()

    answer = await anna.post("/api/v1/items", content=pieces(), headers=JSON)
    problem(answer, 413, "too_large")


@pytest.mark.parametrize("host", ["evil.example", "desk:99999", "a/b?c", "[::1", ""])
async def test_the_host_header_decides_nothing(anna: Client, host):
    answer = await anna.get("/api/v1/items/ET-001", headers={"Host": host})
    assert answer.status_code == 200
    assert "evil" not in answer.text + str(answer.headers)
    refused = await anna.get("/api/v1/items/ET-001", headers={"Host": host, "Authorization": ""})
    assert refused.status_code == 401


async def test_every_answer_keeps_browsers_in_their_place(anna: Client):
    for path in ("/api/v1/items", "/nonsense", "/breaks"):
        headers = (await anna.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


async def test_without_its_database_a_door_says_so_and_when_to_come_again():
    gone = Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
    transport = httpx.ASGITransport(board_behind_doors(gone))
    async with Client(transport=transport, base_url="http://desk") as client:
        answer = await client.get("/api/v1/items", headers={"Authorization": "Bearer annas-token"})
    await gone.close()
    problem(answer, 503, "database_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert "9" not in answer.json()["instruction"]
