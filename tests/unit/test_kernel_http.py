"""Outgoing HTTP: down, refused and wrong are told apart; nothing happens twice, and nothing leaks."""

import asyncio
import gzip
import json
import logging
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.kernel.errors import Conflict, Forbidden, Misconfigured, Unavailable
from quarterdeck.kernel.http import LONGEST_WAIT, accepted, client, is_public, json_of, trusted

TOKEN = "123456789:canary-token-of-a-bot-AAAAAAAAAAAAAAAA"

Writer = asyncio.StreamWriter
Behaviour = Callable[["Server", Writer, int], Awaitable[None]]


@dataclass
class Server:
    """A small HTTP server: each request is answered by one behaviour, told how many came before."""

    behaviour: Behaviour
    address: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((first.split()[0], headers))
                await self.behaviour(self, writer, len(self.requests))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def response(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(*answers: bytes) -> Behaviour:
    """Gives these answers one after another, the last one again and again; an empty one hangs up."""

    async def behave(server: Server, writer: Writer, count: int) -> None:
        answer = answers[min(count, len(answers)) - 1]
        if answer:
            writer.write(answer)
        else:
            writer.close()

    return behave


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[Server]:
    server = Server(behaviour)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server


async def test_an_answer_comes_through_unpacked_and_we_say_who_we_are() -> None:
    body = gzip.compress(json.dumps({"ok": True}).encode())
    async with (
        serving(says(response("200 OK", body, "Content-Encoding: gzip"))) as server,
        client("the test", base_url=server.address) as http,
    ):
        assert json_of(await http.get("/")) == {"ok": True}
        assert server.requests[0][1]["user-agent"].startswith("Quarterdeck/")


async def test_nobody_there_is_unavailable_and_has_surely_not_arrived() -> None:
    async with serving(says(response())) as server:
        address = server.address
    async with client("the shop", base_url=address, pause=0) as http:
        with pytest.raises(Unavailable) as caught:
            await http.post("/")
    assert caught.value.code == "unreachable"
    assert caught.value.data["maybe_arrived"] is False
    assert "the shop cannot be reached" in caught.value.detail


async def test_a_connection_that_breaks_is_tried_again_only_if_that_is_harmless() -> None:
    async with (
        serving(says(b"", b"", response())) as server,
        client("the test", base_url=server.address, pause=0) as http,
    ):
        assert (await http.get("/")).status_code == 200
        assert len(server.requests) == 3

    async with (
        serving(says(b"", response())) as server,
        client("the test", base_url=server.address, pause=0) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            await http.post("/", json={})
        assert caught.value.data["maybe_arrived"] is True
        assert len(server.requests) == 1


async def test_a_body_that_can_be_read_once_is_sent_once() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 10

    async with (
        serving(says(b"", response())) as server,
        client("the test", base_url=server.address, pause=0) as http,
    ):
        with pytest.raises(Unavailable):
            await http.put("/", content=body(), headers={"content-length": "10"})
        assert len(server.requests) == 1


async def test_a_passing_failure_is_waited_out_for_idempotent_requests() -> None:
    async with (
        serving(says(response("503 Busy"), response("200 OK", b"1"))) as server,
        client("the test", base_url=server.address, pause=0) as http,
    ):
        assert json_of(await http.get("/")) == 1


@pytest.mark.parametrize(
    ("method", "headers", "tries"), [("GET", (), 3), ("POST", (), 1), ("GET", ("Retry-After: 7",), 1)]
)
async def test_a_failure_that_stays_is_unavailable(method: str, headers: tuple[str, ...], tries: int) -> None:
    async with (
        serving(says(response("503 Busy", b"", *headers))) as server,
        client("the test", base_url=server.address, pause=0) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            accepted(await http.request(method, "/"))
        assert len(server.requests) == tries
        assert caught.value.data["retry_after"] == (7 if headers else None)


async def test_too_many_requests_carries_how_long_to_wait() -> None:
    async with (
        serving(says(response("429 Slow down", b"", "Retry-After: 30"))) as server,
        client("the test", base_url=server.address) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            accepted(await http.get("/"))
    assert (caught.value.code, caught.value.data["retry_after"]) == ("too_many_requests", 30)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("Retry-After: Wed, 21 Oct 2026 07:30:00 GMT", 120),
        ("Retry-After: Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Retry-After: Wednesday, 21-Oct-26 07:28:30 GMT", 30),
        ("Retry-After: " + "9" * 5000, LONGEST_WAIT),
        ("Retry-After: Wed, 21 Oct 9999 07:28:00 GMT", LONGEST_WAIT),
        ("Retry-After: soon", None),
        ("Retry-After: -5", None),
    ],
)
async def test_how_long_to_wait_may_be_told_as_a_date_by_the_other_sides_clock(
    told: str, seconds: int | None
) -> None:
    now = "Date: Wed, 21 Oct 2026 07:28:00 GMT"
    async with (
        serving(says(response("429 Slow down", b"", now, told))) as server,
        client("the test", base_url=server.address) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            accepted(await http.get("/"))
    assert caught.value.data["retry_after"] == seconds


async def test_a_refusal_is_a_conflict_with_its_status() -> None:
    async with (
        serving(says(response("403 Forbidden", b"canary"))) as server,
        client("the test", base_url=server.address) as http,
    ):
        with pytest.raises(Conflict) as caught:
            accepted(await http.get("/canary?canary"))
    assert caught.value.data["status"] == 403
    assert "canary" not in str(caught.value)


async def test_an_answer_of_the_wrong_kind_is_told_apart() -> None:
    async with (
        serving(says(response("200 OK", b"<html>"))) as server,
        client("the test", base_url=server.address) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            json_of(await http.get("/"))
        assert caught.value.code == "wrong_answer"


async def test_an_answer_that_is_not_http_is_down_and_not_a_crash() -> None:
    async with (
        serving(says(b"SSH-2.0-OpenSSH_9\r\n\r\n")) as server,
        client("the test", base_url=server.address, pause=0) as http,
    ):
        with pytest.raises(Unavailable):
            await http.get("/")


@pytest.mark.parametrize("packed", [False, True])
async def test_a_huge_answer_is_cut_off_even_if_it_came_packed(packed: bool) -> None:
    body = gzip.compress(b"0" * 1_000_000) if packed else b"0" * 1_000_000
    headers = ("Content-Encoding: gzip",) if packed else ()
    async with (
        serving(says(response("200 OK", body, *headers))) as server,
        client("the test", base_url=server.address, most_bytes=10_000) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            await http.get("/")
    assert caught.value.code == "wrong_answer"
    assert "10000 bytes" in caught.value.detail


async def test_bytes_that_cannot_be_unpacked_are_a_wrong_answer() -> None:
    async with (
        serving(says(response("200 OK", b"not gzip", "Content-Encoding: gzip"))) as server,
        client("the test", base_url=server.address) as http,
    ):
        with pytest.raises(Unavailable) as caught:
            await http.get("/")
    assert caught.value.code == "wrong_answer"


async def test_the_time_limit_holds_for_the_whole_request_however_slowly_it_trickles() -> None:
    async def trickle(server: Server, writer: Writer, count: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(trickle) as server, client("the test", base_url=server.address, seconds=0.2) as http:
        with pytest.raises(Unavailable) as caught:
            await http.get("/")
    assert caught.value.code == "timed_out"
    assert caught.value.data["maybe_arrived"] is True


async def test_a_cancelled_request_is_cancelled_and_not_timed_out() -> None:
    async def silence(server: Server, writer: Writer, count: int) -> None:
        came.set()
        await asyncio.Event().wait()

    came = asyncio.Event()
    async with serving(silence) as server, client("the test", base_url=server.address) as http:
        asking = asyncio.create_task(http.get("/"))
        await came.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


async def test_redirects_are_not_followed_unless_the_address_is_user_given() -> None:
    async with (
        serving(says(response("302 Found", b"", "Location: /elsewhere"))) as server,
        client("the test", base_url=server.address) as http,
    ):
        assert (await http.get("/")).status_code == 302
        assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]"])
async def test_a_user_given_address_may_not_be_private(host: str) -> None:
    async with client("the test", user_given=True) as http:
        with pytest.raises(Forbidden) as caught:
            await http.get(f"http://{host}:1/canary")
    assert caught.value.code == "private_address"
    assert "canary" not in str(caught.value)


async def test_a_user_given_address_may_not_redirect_in_circles() -> None:
    def circle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "https://example.com/canary"})

    async with client("the test", user_given=True, transport=httpx.MockTransport(circle)) as http:
        with pytest.raises(Unavailable) as caught:
            await http.get("https://example.com/")
    assert caught.value.code == "wrong_answer"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("address", ["ftp://host/", "no address", "http://host:port/"])
async def test_an_address_that_is_none_is_a_matter_of_configuration(address: str) -> None:
    with pytest.raises(Misconfigured):
        async with client("the test", base_url=address) as http:
            await http.get("/")


async def test_no_error_and_no_log_line_holds_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        serving(says(response("200 OK", b"<"), response("500 No"), b"")) as server,
        client("Telegram", base_url=server.address, pause=0) as http,
    ):
        for _ in range(3):
            try:
                json_of(await http.post(f"/bot{TOKEN}/sendMessage", headers={"x-secret": TOKEN}))
            except Unavailable:
                assert "canary" not in traceback.format_exc()
            else:
                pytest.fail("each of the three must fail")
    assert "canary" not in caplog.text


PRIVATE = """
    10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 169.254.169.254 0.0.0.0 224.0.0.1
    :: ::1 fe80::1%eth0 fd00::1 64:ff9b::7f00:1 2002:7f00:1:: ::ffff:127.0.0.1 nothing
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_addresses_are_known_however_they_are_written(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@given(address=st.ip_addresses(network="10.0.0.0/8"))
def test_wrapping_a_private_address_does_not_make_it_public(address: object) -> None:
    assert not is_public(str(address))
    assert not is_public(f"::ffff:{address}")


@pytest.mark.parametrize("told", [True, False])
def test_the_certificates_are_read_once_and_checked(told: bool) -> None:
    trust = trusted(told=told)
    assert trust is trusted(told=told)
    assert trust.verify_mode is ssl.CERT_REQUIRED and trust.check_hostname
