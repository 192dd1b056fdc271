"""What is logged of calls: one line each, where the level says so, and never a secret."""

import io
import json

import pytest

from quarterdeck.kernel import log as kernel_log
from quarterdeck.kernel.settings import Settings
from quarterdeck.router.door.request_log import RequestLog
from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import KEY, Guest, MemoryClients, Served, backend


async def lines_of(form: str, level: str) -> tuple[str, str]:
    """All that is logged for a good call, a refused and a failed one; and the first one's request id."""
    stream = io.StringIO()
    kernel_log.set_up(Settings(log_format=form), level=level, stream=stream)
    clients = MemoryClients({"sk-client-secret": Guest("cli_1", "crew", "scout")})
    async with FakeProvider() as provider:
        provider.script("native-gpt", ["ok", "400", "429"])
        async with Served([backend(provider, "gpt")], clients=clients, log=RequestLog(form)) as router:
            headers = {"Authorization": "Bearer sk-client-secret", "X-Quarterdeck-Item": "ET-007"}
            answers = [await router.ask("gpt", headers=headers) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 400, 503]
    return stream.getvalue(), answers[0].headers["x-request-id"]


@pytest.mark.usefixtures("logs_left_as_they_were")
async def test_every_call_has_its_line_with_all_that_was_asked_for() -> None:
    text, request = await lines_of("json", "INFO")
    events = [json.loads(line) for line in text.splitlines()]
    done = [event for event in events if event["event"] == "request_completed"]
    assert [event["status"] for event in done] == [200, 400, 503]
    assert [event["outcome"] for event in done] == ["ok", "refused", "unreachable"]
    first = done[0]
    assert first["request"] == request
    assert (first["backend"], first["pool"], first["model"]) == ("bkd_one", "primary", "gpt")
    assert (first["client"], first["agent"], first["item"]) == ("cli_1", "scout", "ET-007")
    assert first["tokens"] > 0
    assert float(first["cost"]) > 0
    assert first["elapsed_ms"] >= 0
    assert (first["level"], first["logger"]) == ("info", "quarterdeck.router")
    assert first["timestamp"].endswith("Z")
    names = {event["event"] for event in events}
    assert {"backend_429_cooldown", "all_pools_exhausted_emergency"} <= names


@pytest.mark.usefixtures("logs_left_as_they_were")
async def test_lines_for_people_say_the_same() -> None:
    text, request = await lines_of("console", "INFO")
    (line,) = [line for line in text.splitlines() if f"request={request}" in line and "status=200" in line]
    assert "[info     ] request_completed" in line
    assert "model=gpt" in line
    assert "item=ET-007" in line


@pytest.mark.usefixtures("logs_left_as_they_were")
async def test_the_level_really_applies() -> None:
    text, _ = await lines_of("json", "WARNING")
    assert "request_completed" not in text
    assert "backend_429_cooldown" in text


@pytest.mark.usefixtures("logs_left_as_they_were")
async def test_no_key_no_token_and_nothing_that_was_said_is_ever_logged() -> None:
    text, _ = await lines_of("json", "DEBUG")
    ours = "\n".join(
        line for line in text.splitlines() if '"logger":"quarterdeck.router"' in line.replace(" ", "")
    )
    assert ours
    for secret in (KEY, "sk-client-secret", "all hands on deck", "the ship is"):
        assert secret not in text
