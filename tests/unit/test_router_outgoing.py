"""How a request to a provider is sent, heard and timed: by hand, over aiohttp's connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from quarterdeck.router import steady
from quarterdeck.router.door.patience import Wait
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome
from quarterdeck.router.ways.openai_way import OpenAIWay
from quarterdeck.router.ways.outgoing import _sent
from tests.fakes.served_router import CHAT, backend

GOOD = b'{"model":"x","choices":[],"usage":{"total_tokens":1}}'
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
REFUSED = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 8\r\n\r\ntoo long"
LONG = b'{"model":"gpt","prompt":"' + b"x" * 12_000_000 + b'"}'

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """A provider that does what `talk` does on each connection; its address."""

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(until_closed, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def opened() -> AsyncIterator[OpenAIWay]:
    way = OpenAIWay(steady.now)
    try:
        yield way
    finally:
        await way.close()


def attempt(url: str, raw: bytes = b'{"model":"gpt"}', patience: float = 5, **changes: Any) -> Attempt:
    headers = changes.pop("headers", {})
    at = backend(url, "gpt", **changes)
    return Attempt(at, at.mappings["gpt"], CHAT, "", headers, {}, False, False, patience, raw)


async def failed(way: OpenAIWay, made: Attempt) -> Failure:
    with pytest.raises(Failure) as failure:
        await way.send(made)
    return failure.value


async def test_calls_one_after_the_other_use_one_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(b'{"model":"native-gpt"}'))
            writer.write(OK)

    connections: list[asyncio.StreamWriter] = []
    async with talking(talk) as url, opened() as way:
        for _ in range(3):
            assert isinstance(await way.send(attempt(url)), Answer)
        assert len(connections) == 1


async def test_what_is_said_before_the_answer_itself_is_passed_over() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK)
        await reader.read()

    async with talking(talk) as url, opened() as way:
        answer = await way.send(attempt(url))
        assert isinstance(answer, Answer)
        assert answer.usage is not None


async def test_a_provider_that_refuses_a_long_body_before_it_is_sent_is_heard() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSED)
        await over.wait()

    over = asyncio.Event()
    async with talking(talk) as url, opened() as way:
        failure = await failed(way, attempt(url, LONG))
        over.set()
        assert (failure.outcome, failure.status, failure.body) == (Outcome.REFUSED, 400, b"too long")


@pytest.mark.parametrize("raw", [b'{"model":"gpt"}', LONG])
async def test_silence_after_the_request_ends_the_attempt(raw: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000_000):
            pass

    async with talking(talk) as url, opened() as way:
        failure = await failed(way, attempt(url, raw, timeout_seconds=0.1))
        assert failure.outcome is Outcome.TIMED_OUT
        assert "longer than the backend's time limit" in failure.reason


async def test_a_provider_that_stops_reading_a_long_body_is_silent_too() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    over = asyncio.Event()
    async with talking(talk) as url, opened() as way:
        failure = await failed(way, attempt(url, LONG, timeout_seconds=0.1))
        over.set()
        assert failure.outcome is Outcome.TIMED_OUT
        assert "longer than the backend's time limit" in failure.reason


class Upload:
    """A long body on its way: what is left of it at each look, an hour after the one before."""

    def __init__(self, *left: int) -> None:
        self._left = list(left)
        self.now = 0.0
        self.wait = Wait(set(), asyncio.current_task(), until=1_000_000)  # type: ignore[arg-type]
        self.seen: list[float] = []

    @property
    def writing_paused(self) -> bool:
        self.seen.append(self.wait.until)
        return bool(self._left)

    def get_write_buffer_size(self) -> int:
        self.now += 3600
        return self._left.pop(0)


async def test_a_long_body_may_be_slow_but_each_part_of_it_must_be_taken_in_time() -> None:
    upload = Upload(500, 400, 400, 399)
    await _sent(upload, upload, upload.wait, 0.004, lambda: upload.now)  # type: ignore[arg-type]
    assert upload.seen == [1_000_000, 3600.004, 7200.004, 7200.004, 14_400.004]
    assert upload.wait.until == 14_400.004


async def test_the_deadline_ends_an_attempt_whose_provider_goes_on_sending() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not over.is_set():
            writer.write(b" ")
            await asyncio.wait([asyncio.ensure_future(over.wait())], timeout=0.02)

    over = asyncio.Event()
    async with talking(talk) as url, opened() as way:
        failure = await failed(way, attempt(url, patience=0.2))
        over.set()
        assert (failure.outcome, "deadline" in failure.reason) == (Outcome.TIMED_OUT, True)


async def test_silence_in_the_middle_of_an_answer_ends_the_attempt() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-5])
        await reader.read()

    async with talking(talk) as url, opened() as way:
        failure = await failed(way, attempt(url, timeout_seconds=0.1))
        assert "longer than the backend's time limit" in failure.reason


@pytest.mark.parametrize("name", ["accept", "user-agent", "x-request-id"])
async def test_a_value_that_would_begin_another_header_is_refused_unsent(name: str) -> None:
    async with opened() as way:
        failure = await failed(way, attempt("http://127.0.0.1:9", headers={name: "a\r\nx-evil: 1"}))
        assert (failure.outcome, failure.status) == (Outcome.REFUSED, 400)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a b", "http://127.0.0.1:9/a\r\nx-evil: 1"])
async def test_an_address_that_would_begin_another_line_is_not_called(address: str) -> None:
    async with opened() as way:
        assert (await failed(way, attempt(address))).outcome is Outcome.UNREACHABLE


async def test_a_key_that_no_longer_opens_is_not_sent_though_it_was_before() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(b'{"model":"native-gpt"}'))
            writer.write(OK)

    async with talking(talk) as url, opened() as way:
        assert isinstance(await way.send(attempt(url)), Answer)
        assert (await failed(way, attempt(url, fault="does not open"))).outcome is Outcome.BAD_KEY


async def test_whoever_is_cancelled_leaves_no_connection_behind() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()

    asked, left = asyncio.Event(), asyncio.Event()
    async with talking(talk) as url, opened() as way:
        task = asyncio.create_task(way.send(attempt(url)))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(left.wait(), 20)
