"""A streamed answer is its words, or an error with a sentence: rubbish of the expected form is no crash."""

import json
from typing import Any

import httpx
import pytest

from quarterdeck.crew import chat_stream
from quarterdeck.crew.chat_stream import Said
from quarterdeck.kernel.errors import Unavailable

DEEP = "[" * 100_000


async def asked(*chunks: Any) -> Said:
    """What is said by a far side that streams these chunks: JSON, or text as it is."""
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    body = "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]"))
    told = httpx.Response(200, text=body, headers={"Content-Type": "text/event-stream"})
    transport = httpx.MockTransport(lambda _: told)
    async with httpx.AsyncClient(transport=transport, base_url="http://far.example") as client:
        return await chat_stream.ask(client, "/v1/chat/completions", {}, {})


def words(text: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


async def test_an_answer_is_its_words_whatever_else_is_told() -> None:
    none = ({"choices": None}, {"choices": []}, {"choices": [{"delta": None}]}, words(None), words(["x"]))
    others = (*none, [1], "half {", DEEP)
    said = await asked(words("Hello "), *others, words("world."))
    assert (said.text, said.is_whole) == ("Hello world.", True)


@pytest.mark.parametrize("choices", [["x"], [None], 7, "words", {"delta": "x"}, [{"delta": "x"}]])
async def test_choices_that_are_something_else_are_told_as_a_wrong_answer(choices: Any) -> None:
    with pytest.raises(Unavailable) as wrong:
        await asked(words("Hello"), {"choices": choices})
    assert wrong.value.code == "wrong_answer"


async def test_a_refusal_that_is_too_deep_to_be_read_is_a_refusal() -> None:
    headers = {"Content-Type": "application/json"}
    told = httpx.Response(
        500, text=DEEP, headers=headers, request=httpx.Request("POST", "http://far.example")
    )
    assert "answered 500" in chat_stream.refusal(told).detail
