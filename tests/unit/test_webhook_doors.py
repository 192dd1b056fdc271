"""The webhook doors over HTTP: who has signed comes in once, who has not stays out, and nothing is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from deployments.starting import by_webhook
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Forbidden, NotFound, Unavailable
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.inbox import Delivery, Ignored, Standing
from quarterdeck.kernel.web import LARGEST_BODY
from quarterdeck.pipeline.deliveries import DeliveryCard
from quarterdeck.pipeline.doors import DOORS, TRIAL
from tests.fakes import senders
from tests.fakes.company import ANNA, OWNER, move_in, settings_of
from tests.fakes.doors import desk_doors
from tests.fakes.senders import CONNECTIONS, SECRETS, Sent

SOURCES = sorted(CONNECTIONS)
OTHER = "whsec_YW5vdGhlciBrZXkgb2YgdGhpcnR5LXR3byBieXRlcw=="


@pytest.fixture
async def house(tmp_path: Path, database_url: str) -> AsyncIterator[House]:
    """Connected to every source; nobody works in it."""
    async with open_house(settings_of(tmp_path, database_url)) as house:
        await connect(house, *SOURCES)
        yield house


@pytest.fixture
async def web(house: House) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(desk_doors(house))
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        yield client


async def connect(house: House, *sources: str, **changed: Any) -> None:
    async with house.database.command("connect") as unit:
        for source in sources:
            kind, value = CONNECTIONS[source]
            await house.connections.put(unit, kind, "default", value | changed, Source.API)


async def post(web: httpx.AsyncClient, sent: Sent) -> httpx.Response:
    return await web.post(sent.path, content=sent.body, headers=sent.headers)


async def kept(house: House) -> int:
    return len(await house.inbox.entries(None, None, 2**62, 200))


def example(source: str, number: str = "n-1") -> Sent:
    return next(one for one in senders.one_of_each(number, datetime.now(UTC)) if one.source == source)


@pytest.mark.parametrize("source", SOURCES)
async def test_what_is_signed_is_kept_and_answered_at_once(house: House, web: httpx.AsyncClient, source: str):
    answer = await post(web, example(source))
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
    entry = await house.inbox.show(1)
    assert (entry.source, entry.state, json.loads(entry.body or b"")) != (source, Standing.WAITING, {})
    assert entry.body == example(source).body


@pytest.mark.parametrize("source", SOURCES)
async def test_what_comes_twice_is_answered_twice_and_kept_once(
    house: House, web: httpx.AsyncClient, source: str
):
    first = example(source)
    answers = await asyncio.gather(*(post(web, first) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [202] * 5
    assert sorted(answer.json()["status"] for answer in answers) == ["accepted", *["known"] * 4]
    assert await kept(house) == 1


@pytest.mark.parametrize("source", ["plane", "gitea"])
async def test_a_new_id_on_an_old_body_makes_no_new_delivery(
    house: House, web: httpx.AsyncClient, source: str
):
    first = example(source)
    await post(web, first)
    name = f"X-{source.capitalize()}-Delivery"
    answer = await post(web, replace(first, headers=first.headers | {name: "n-2"}))
    assert (answer.json()["status"], await kept(house)) == ("known", 1)


async def test_the_same_body_under_a_new_signed_id_is_a_new_order(house: House, web: httpx.AsyncClient):
    assert (await post(web, example("generic", "n-1"))).json()["status"] == "accepted"
    assert (await post(web, example("generic", "n-2"))).json()["status"] == "accepted"


PROOFS = {
    "plane": ["X-Plane-Signature"],
    "gitea": ["X-Gitea-Signature", "X-Hub-Signature-256"],
    "openclaw": ["Authorization"],
    "generic": ["Webhook-Signature"],
}


@pytest.mark.parametrize("source", SOURCES)
async def test_a_missing_empty_or_wrong_proof_is_401_and_its_body_is_told_to_nobody(
    house: House, web: httpx.AsyncClient, source: str
):
    for proof in (None, "", "sha256=", "v1,", "Bearer ", "0" * 64, "ключ", "v1,\xff"):
        first = example(source)
        headers: dict[str, Any] = {k: v for k, v in first.headers.items() if k not in PROOFS[source]}
        if proof is not None:
            headers |= dict.fromkeys(PROOFS[source], proof.encode("utf-8"))
        body = first.body.replace(b"}", b', "canary": "canary-of-the-body"}', 1)
        with structlog.testing.capture_logs() as logs:
            answer = await web.post(first.path, content=body, headers=headers)
        assert answer.status_code == 401, proof
        assert answer.json()["instruction"]
        (line,) = [line for line in logs if line["event"] == "webhook_refused"]
        assert (line["source"], line["size"]) == (source, len(body))
        assert "canary" not in str(logs) + answer.text
    assert await kept(house) == 0


@pytest.mark.parametrize("source", ["plane", "gitea", "generic"])
async def test_a_changed_byte_breaks_the_signature(house: House, web: httpx.AsyncClient, source: str):
    first = example(source)
    assert (await post(web, replace(first, body=first.body + b" "))).status_code == 401
    assert await kept(house) == 0


async def test_gitea_without_a_secret_sends_empty_signatures_which_are_refused(
    house: House, web: httpx.AsyncClient
):
    assert (await post(web, senders.gitea("n-1", "push", {"ref": "x"}, ""))).status_code == 401


async def test_gitea_may_send_a_form_whose_signature_is_over_the_json_in_it(
    house: House, web: httpx.AsyncClient
):
    payload = {"ref": "refs/heads/ветка & more=+%", "commits": [{"message": "a\nb"}]}
    answer = await post(web, senders.gitea("n-1", "push", payload, as_form=True))
    assert answer.status_code == 202
    assert json.loads((await house.inbox.show(1)).body or b"") == payload
    again = await post(web, senders.gitea("n-1", "push", payload))
    assert again.json()["status"] == "known"
    forged = senders.gitea("n-2", "push", payload | {"x": 1}, "another-secret", as_form=True)
    assert (await post(web, forged)).status_code == 401


async def test_gitea_may_sign_in_the_manner_of_others(house: House, web: httpx.AsyncClient):
    first = example("gitea")
    headers = {k: v for k, v in first.headers.items() if k != "X-Gitea-Signature"}
    assert (await post(web, replace(first, headers=headers))).status_code == 202


async def test_the_second_kind_of_plane_is_known_by_the_id_that_does_not_change(
    house: House, web: httpx.AsyncClient
):
    payload = {"version": "v2", "event": "workitem.created", "event_id": "e-1", "delivery_id": "d-1"}
    assert (await post(web, senders.plane("d-1", payload))).json()["status"] == "accepted"
    again = senders.plane("d-2", payload | {"delivery_id": "d-2"})
    assert (await post(web, again)).json()["status"] == "known"
    assert (await house.inbox.show(1)).event == "workitem.created"


async def test_an_order_of_long_ago_or_of_tomorrow_is_refused(house: House, web: httpx.AsyncClient):
    for minutes in (-6, 6):
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        answer = await post(web, senders.generic("n-1", at, {"type": "deliver"}))
        assert (answer.status_code, answer.json()["code"]) == (401, "timestamp_out_of_tolerance"), minutes
    assert await kept(house) == 0


async def test_a_time_that_is_none_is_refused(house: House, web: httpx.AsyncClient):
    for timestamp in ("", "now", "-1", "1e9", "９", "9" * 40):
        first = example("generic")
        headers: dict[str, Any] = first.headers | {"Webhook-Timestamp": timestamp.encode()}
        answer = await web.post(first.path, content=first.body, headers=headers)
        assert answer.status_code == 401, timestamp
    assert await kept(house) == 0


async def test_a_sender_may_change_its_key_while_it_sends(house: House, web: httpx.AsyncClient):
    now, order = datetime.now(UTC), {"type": "deliver"}
    both = senders.generic("n-1", now, order, OTHER, SECRETS["generic"])
    assert (await post(web, both)).status_code == 202
    assert (await post(web, senders.generic("n-2", now, order, OTHER))).status_code == 401


async def test_we_may_take_a_new_key_while_the_old_one_is_still_in_use(house: House, web: httpx.AsyncClient):
    await connect(house, "generic", secret=f"{SECRETS['generic']} {OTHER}")
    now, order = datetime.now(UTC), {"type": "deliver"}
    for number, key in (("n-1", SECRETS["generic"]), ("n-2", OTHER)):
        assert (await post(web, senders.generic(number, now, order, key))).status_code == 202


BODIES = [b"", b"{", b'{"a": 1', b"[]", b"1", b'"x"', b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1e999}']


async def test_a_signed_body_that_cannot_be_read_is_a_clear_422(house: House, web: httpx.AsyncClient):
    for body in (*BODIES, b'{"a":' * 100 + b"1" + b"}" * 100, b"[" * 100_000):
        headers = {
            "X-Plane-Signature": senders.hex_hmac(SECRETS["plane"], body),
            "Content-Type": "application/json",
        }
        answer = await web.post("/webhooks/plane", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "payload_unreadable"), body[:20]
    assert await kept(house) == 0


@pytest.mark.parametrize("source", SOURCES)
async def test_another_type_than_json_is_a_clear_422(house: House, web: httpx.AsyncClient, source: str):
    form = () if source == "gitea" else ("application/x-www-form-urlencoded",)
    for kind in ("", "text/plain", "multipart/form-data; boundary=x", "application/jsonp", *form):
        first = example(source)
        answer = await post(web, replace(first, headers=first.headers | {"Content-Type": kind}))
        assert (answer.status_code, answer.json()["code"]) == (422, "content_type_wrong"), kind
        assert "application/json" in answer.json()["instruction"]
    assert await kept(house) == 0


async def test_more_than_the_limit_is_413_signed_or_not(house: House, web: httpx.AsyncClient):
    large = senders.plane("n-1", {"event": "x" * LARGEST_BODY})
    assert (await post(web, large)).status_code == 413

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_BODY // 50_000 + 1):
            yield b"x" * 50_000

    unannounced = await web.post("/webhooks/plane", content=endless())
    assert (unannounced.status_code, await kept(house)) == (413, 0)


async def test_an_id_that_cannot_be_one_is_422(house: House, web: httpx.AsyncClient):
    for number in ("x" * 201, "ключ"):
        first = example("plane")
        headers: dict[str, Any] = first.headers | {"X-Plane-Delivery": number.encode()}
        answer = await web.post(first.path, content=first.body, headers=headers)
        assert answer.status_code == 422, number
    assert await kept(house) == 0


async def test_a_delivery_without_an_id_is_known_by_its_content(house: House, web: httpx.AsyncClient):
    first = example("gitea")
    headers = {k: v for k, v in first.headers.items() if k != "X-Gitea-Delivery"}
    answers = [await post(web, replace(first, headers=headers)) for _ in range(2)]
    assert [answer.json()["status"] for answer in answers] == ["accepted", "known"]


async def test_a_source_that_is_not_connected_is_404_and_one_without_a_secret_403(
    tmp_path: Path, database_url: str
):
    async with open_house(settings_of(tmp_path, database_url)) as house:
        transport = httpx.ASGITransport(desk_doors(house))
        async with httpx.AsyncClient(transport=transport, base_url="http://desk") as web:
            for source in SOURCES:
                answer = await post(web, example(source))
                assert (answer.status_code, answer.json()["code"]) == (404, "not_connected")
                assert f"block `{DOORS[source].block}`" in answer.json()["instruction"]
            await connect(house, "plane", webhook_secret="")
            house.connections._seen.clear()
            answer = await post(web, example("plane"))
            assert (answer.status_code, answer.json()["code"]) == (403, "no_webhook_secret")
            unknown = await web.post("/webhooks/nonsense", content=b"{}")
            assert unknown.status_code == 404 and "generic, gitea" in unknown.json()["instruction"]
        assert await kept(house) == 0


async def test_a_secret_that_is_changed_counts_within_seconds(house: House, web: httpx.AsyncClient):
    assert (await post(web, example("plane"))).status_code == 202
    await connect(house, "plane", webhook_secret="a-new-secret-of-plane")
    assert (await post(web, example("plane", "n-2"))).status_code == 401
    new = senders.plane("n-2", {"event": "issue"}, "a-new-secret-of-plane")
    assert (await post(web, new)).status_code == 202


async def test_no_proof_and_no_secret_is_kept_or_shown(house: House, web: httpx.AsyncClient):
    """Neither in the table, nor over the API."""
    payload = {
        "event": "x",
        "token": "canary-token-1",
        "data": {"password": "canary-2", "text": SECRETS["gitea"]},
    }
    await move_in(house)
    for source in SOURCES:
        await post(web, example(source))
    await post(web, senders.plane("n-9", payload))
    async with house.database.engine.connect() as connection:
        rows = (await connection.exec_driver_sql("select headers::text from inbox")).all()
    headers = " ".join(row[0] for row in rows).lower()
    assert "signature" not in headers and "bearer" not in headers and "authorization" not in headers
    await house.connections.get("gitea")  # a secret that this process has read
    shown = await web.get("/api/v1/webhooks/5", headers={"Authorization": f"Bearer {OWNER}"})
    assert shown.status_code == 200
    assert shown.json()["body"]["event"] == "x"
    assert shown.json()["body"]["data"] == {"password": "***", "text": "***"}
    assert "canary" not in shown.text


async def test_the_owner_lists_shows_and_replays_and_nobody_else_does(house: House, web: httpx.AsyncClient):
    await move_in(house)
    for number in range(3):
        await post(web, example("gitea", f"n-{number}"))
    await post(web, example("plane"))
    seen: list[str] = []

    async def handler(delivery: Delivery) -> str:
        seen.append(delivery.delivery_id)
        return "done"

    async def nothing(delivery: Delivery) -> str:
        return Ignored("Nothing to do.")

    house.deliveries.add("gitea", handler)
    house.deliveries.add("plane", nothing)
    await house.deliveries.work_off()
    owner, anna = ({"Authorization": f"Bearer {token}"} for token in (OWNER, ANNA))
    first = (await web.get("/api/v1/webhooks?limit=2&source=gitea", headers=owner)).json()
    rest = f"/api/v1/webhooks?limit=2&source=gitea&cursor={first['next_cursor']}"
    second = (await web.get(rest, headers=owner)).json()
    assert [one["id"] for one in first["items"] + second["items"]] == [3, 2, 1]
    assert second["next_cursor"] is None
    ignored = (await web.get("/api/v1/webhooks?state=ignored", headers=owner)).json()["items"]
    assert [one["source"] for one in ignored] == ["plane"]
    assert (await web.get("/api/v1/webhooks?cursor=rubbish", headers=owner)).status_code == 422
    replayed = await web.post("/api/v1/webhooks/1/replay", headers=owner)
    assert (replayed.status_code, replayed.json()["state"]) == (200, "waiting")
    await house.deliveries.work_off()
    assert seen == ["n-0", "n-1", "n-2", "n-0"]
    for _ in range(2):
        again = await web.post("/api/v1/webhooks/2/replay", headers=owner | {"Idempotency-Key": "once"})
        assert again.status_code == 200
        await house.deliveries.work_off()
    assert seen == ["n-0", "n-1", "n-2", "n-0", "n-1"], "a repeated request replays nothing"
    assert (await web.get("/api/v1/webhooks/99", headers=owner)).status_code == 404
    for method, path in (("GET", ""), ("GET", "/1"), ("POST", "/1/replay")):
        answer = await web.request(method, f"/api/v1/webhooks{path}", headers=anna)
        assert answer.status_code == 403, path
        assert (await web.request(method, f"/api/v1/webhooks{path}")).status_code == 401, path


async def tried(house: House, source: str, **options: Any) -> DeliveryCard:
    """The door tried while a desk works on what comes."""
    door = httpx.ASGITransport(desk_doors(house))
    now = house.database.clock.now()
    trying = asyncio.create_task(
        house.deliveries.test(owner("test"), source, "http://desk", now, transport=door, **options)
    )
    while not trying.done():
        await house.deliveries.work_off()
        await asyncio.sleep(0.01)
    return await trying


async def test_a_door_is_tried_and_nothing_comes_of_it(house: House):
    house.deliveries.add("generic", by_webhook(house.settings))
    for source in SOURCES:
        for _ in range(2):  # each time it is another delivery
            card = await tried(house, source)
            assert (card.source, card.event, card.state) == (source, TRIAL, Standing.IGNORED), card.outcome
    assert await kept(house) == 2 * len(SOURCES)


async def test_a_trial_says_what_is_wrong(house: House, tmp_path: Path):
    async def not_for_us(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>")

    async def another_secret(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401)

    now = house.database.clock.now()
    for answers, why in ((not_for_us, "did not arrive"), (another_secret, "401")):
        door = httpx.MockTransport(answers)
        with pytest.raises(Conflict, match=why):
            await house.deliveries.test(owner("test"), "gitea", "http://desk", now, transport=door)
    with pytest.raises(Unavailable):
        await house.deliveries.test(owner("test"), "gitea", "http://127.0.0.1:9", now)
    door = httpx.ASGITransport(desk_doors(house))
    with pytest.raises(Conflict, match="nobody worked on it"):
        await house.deliveries.test(owner("test"), "gitea", "http://desk", now, transport=door, seconds=1.0)
    await connect(house, "plane", webhook_secret="")
    with pytest.raises(Forbidden):
        await house.deliveries.test(owner("test"), "plane", "http://desk", now)
    with pytest.raises(NotFound):
        await house.deliveries.test(owner("test"), "nonsense", "http://desk", now)


async def test_when_the_database_is_away_for_a_moment_nothing_is_refused(
    house: House, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    """Plane does not send again what was answered with an error."""
    await post(web, example("plane"))
    away, tries = Database("postgresql+psycopg://nobody@127.0.0.1:9/none"), list[str]()
    command = away.command
    monkeypatch.setattr(away, "command", lambda name: tries.append(name) or command(name))
    monkeypatch.setattr(house.inbox, "_database", away)
    waiting = asyncio.create_task(post(web, example("plane", "n-2")))
    while len(tries) < 2 and not waiting.done():
        await asyncio.sleep(0.01)
    monkeypatch.setattr(house.inbox, "_database", house.database)
    assert (await waiting).json() == {"status": "accepted"}
    await away.close()


async def test_when_the_database_stays_away_the_sender_is_told_to_come_again(
    house: House, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    await post(web, example("plane"))
    monkeypatch.setattr("quarterdeck.kernel.inbox.HOLD", 0.1)
    away = Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
    monkeypatch.setattr(house.inbox, "_database", away)
    answer = await post(web, example("plane", "n-2"))
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    await away.close()
