"""Tokens that no provider told are counted in a process that comes when needed and goes by itself."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.router.backend import Usage
from quarterdeck.router.ways import counting
from quarterdeck.router.ways.counting import TokenCounter
from tests.fakes import tokenizing
from tests.processes import is_alive
from tests.waiting import until

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "the ship sails at dawn"}]}


@pytest.fixture
def counting_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper counts words, and starts at once."""
    monkeypatch.setenv("PYTHONPATH", str(Path(tokenizing.__file__).parent))


@pytest.fixture
async def counter() -> AsyncIterator[TokenCounter]:
    made = TokenCounter(limit=30)
    yield made
    await made.close()


def test_an_estimate_takes_four_characters_a_token_however_deep_they_lie() -> None:
    deep: Any = "nine tokens of four letters, or so.."
    for _ in range(1_500):
        deep = [deep]
    assert counting.estimate({"messages": deep, "model": "gpt"}, "hello") == Usage(9, 2, 11, is_estimate=True)


def test_texts_keep_their_order() -> None:
    body = {"system": "a", "messages": [{"role": "user", "content": [{"text": "b"}, "c"]}, {"content": "d"}]}
    assert list(counting._texts(body)) == ["a", "b", "c", "d"]


async def ended(pid: int) -> None:
    await until(lambda: not is_alive(pid), 30)


DIALECTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "the ship sails at dawn"}),
    ("/v1/embeddings", {"input": ["the ship", "sails at dawn"]}),
    ("/v1/responses", {"input": [{"role": "user", "content": "the ship"}], "instructions": "sails"}),
    ("/v1/messages", {**HELLO, "system": "Be brief."}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "the ship"}]}]}),
]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
MODELS = ("gpt-4o", "claude-2.1", "meta-llama/Llama-3-8b", "command-r-plus")


async def test_all_dialects_are_counted_by_one_helper_offline_without_our_secrets_and_no_pictures_as_text(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_ENCRYPTION_KEY", "f" * 64)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert counter.pid is None
    usage = await counter.count("gpt-4o", CHAT, HELLO, "all hands on deck")
    assert usage == Usage(prompt=12, completion=4, total=16, is_estimate=True)
    first = counter.pid
    tools = {**HELLO, "tools": [{"type": "function", "function": {"name": "steer"}}]}
    assert (await counter.count("gpt-4o", CHAT, tools, "")).prompt > usage.prompt
    counted = await asyncio.gather(*(counter.count("m", path, body, "aye") for path, body in DIALECTS))
    assert all(2 <= usage.prompt <= 20 and usage.completion == 1 for usage in counted)
    assert counter.pid == first is not None
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, PICTURE]}]}
    for model in MODELS:
        usage = await counter.count(model, CHAT, body, "aye")
        assert usage.prompt < 2_000 and usage.completion
    assert counter.pid == first
    helper = psutil.Process(counter.pid)
    assert not helper.environ().keys() & {"SIDECAR_ENCRYPTION_KEY", "OPENAI_API_KEY"}
    assert helper.net_connections() == []


async def test_a_helper_that_died_is_started_again(counting_words: None, counter: TokenCounter) -> None:
    told = await counter.count("m", CHAT, HELLO, "aye")
    assert told == Usage(prompt=5, completion=1, total=6, is_estimate=True)
    first = counter.pid
    assert first
    os.kill(first, signal.SIGKILL)
    await ended(first)
    assert await counter.count("m", CHAT, HELLO, "aye") == told
    assert counter.pid != first


async def test_the_helper_ends_by_itself_when_idle(counting_words: None) -> None:
    counter = TokenCounter(idle=0.2, limit=30)
    await counter.count("m", CHAT, HELLO, "aye")
    assert counter._process
    await ended(counter._process.pid)
    await counter.close()


async def test_the_helper_ends_when_its_parent_is_gone(counting_words: None, counter: TokenCounter) -> None:
    await counter.count("m", CHAT, HELLO, "aye")
    assert counter.pid and counter._process and counter._process.stdin
    pid = counter.pid
    counter._process.stdin.close()  # what the kernel does for a killed parent
    await ended(pid)


async def test_what_takes_too_long_is_estimated_at_four_characters_a_token(counting_words: None) -> None:
    counter = TokenCounter(limit=0)
    usage = await counter.count("m", CHAT, HELLO, "12345678")
    assert usage == Usage(prompt=6, completion=2, total=8, is_estimate=True)
    assert counter.pid is None
    await counter.close()


async def test_very_long_texts_are_estimated_without_the_helper(counter: TokenCounter) -> None:
    usage = await counter.count("m", CHAT, {"messages": [{"content": "x" * counting.LONGEST}]}, "aye!")
    assert (usage.prompt, usage.completion) == (counting.LONGEST // 4, 1)
    assert counter.pid is None


async def test_only_so_many_wait_for_a_helper_that_is_slow(
    counting_words: None, counter: TokenCounter
) -> None:
    counts = [
        asyncio.create_task(counter.count("m", CHAT, HELLO, "aye aye sir!"))
        for _ in range(counting.MOST_WAITING + 10)
    ]
    done, waiting = await asyncio.wait(counts, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result().completion for task in done} == {3}
    assert (len(done), len(waiting)) == (10, counting.MOST_WAITING)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
