"""A chat-completions answer that comes as a stream: its text piece by piece, its usage kept.

The router and OpenClaw's gateway both answer in this form. What is asked for twice by mistake would be
paid for twice, so nothing is repeated here; whoever asks decides.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx

from quarterdeck.crew.answer import MOST_ANSWER
from quarterdeck.crew.errand import say
from quarterdeck.kernel import http
from quarterdeck.kernel.errors import Conflict, Invalid, Unavailable


@dataclass
class Said:
    """What has come so far; `is_whole` once the other side said that this was all.

    `is_cut`: the model stopped at its limit of tokens, not at the end of what it had to say.
    """

    id: str = ""
    parts: list[str] = field(default_factory=list)
    size: int = 0
    tokens: int | None = None
    cost: float | None = None
    is_whole: bool = False
    is_cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.parts)


async def ask(
    client: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    begun: Callable[[], Any] = lambda: None,
) -> Said:
    """One question and its whole answer, which also goes into the log.

    `begun` is called when the other side has taken the question up.

    Raises `Unavailable` when it did not come to its end (`maybe_arrived`: the question may have been
    taken up), `Conflict` when it was refused, `Invalid` for an answer that is too long.
    """
    said = Said()
    async with aclosing(pieces(client, url, body, headers, said, begun)) as texts:
        async for text in texts:
            say(text, end="")
    say("")
    return said


async def pieces(
    client: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    said: Said,
    begun: Callable[[], Any] = lambda: None,
) -> AsyncGenerator[str, None]:
    """The same answer piece by piece, also kept in `said`. Closing this hangs up. Raises like `ask`."""
    wanted = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", url, json=wanted, headers=dict(headers)) as answer:
        if not answer.is_success or not _is_stream(answer):
            await answer.aread()
            raise refusal(answer)
        begun()
        async for line in _lines(answer):
            before = len(said.parts)
            is_last = _take(said, line)
            for text in said.parts[before:]:
                yield text
            if is_last:
                break
    if not said.is_whole:
        raise Unavailable(
            "The answer broke off.", "It is asked for again.", code="broken_off", maybe_arrived=True
        )


def _is_stream(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("content-type", "").startswith("text/event-stream"))


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """The lines of the stream; one that never ends is refused, not kept."""
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
        if len(rest) > MOST_ANSWER:
            raise _too_long()


def _take(said: Said, line: str) -> bool:
    """Take in one line; True at the end of the answer."""
    if not line.startswith("data:"):
        return False
    content = line[5:].strip()
    if content == "[DONE]":
        said.is_whole = True
        return True
    try:
        chunk = json.loads(content)
    except (ValueError, RecursionError):
        return False  # half a line of a broken stream
    if isinstance(chunk, dict):
        _take_chunk(said, chunk)
    return False


def _take_chunk(said: Said, chunk: Mapping[str, Any]) -> None:
    if error := chunk.get("error"):
        raise Conflict(f"The answer ended in an error: {words(error)}.", "Look at the log.", code="refused")
    said.id = str(chunk.get("id") or said.id)
    if isinstance(usage := chunk.get("usage"), Mapping) and isinstance(usage.get("total_tokens"), int):
        said.tokens = usage["total_tokens"]
        said.cost = usage["cost"] if isinstance(usage.get("cost"), int | float) else None
    choices = _choices(chunk)
    said.is_cut = said.is_cut or any(choice.get("finish_reason") == "length" for choice in choices)
    for text in _texts(choices):
        said.parts.append(text)
        said.size += len(text.encode("utf-8", "replace"))
    if said.size > MOST_ANSWER:
        raise _too_long()


def _choices(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of a chunk. Raises `Unavailable` for one of another form: words may be lost."""
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise Unavailable(
            f"The answer has something else than choices: {str(chunk)[:300]}",
            "Check that its address leads to the right service.",
            code="wrong_answer",
            maybe_arrived=True,
        )
    return choices


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, Mapping) and isinstance(choice.get("delta") or {}, Mapping)


def _texts(choices: Iterable[Mapping[str, Any]]) -> list[str]:
    contents = [(choice.get("delta") or {}).get("content") for choice in choices]
    return [text for text in contents if isinstance(text, str)]  # some think in lists of parts


def _too_long() -> Invalid:
    return Invalid(f"The agent's answer is longer than {MOST_ANSWER} bytes.", "It was cut off and not used.")


def words(error: Any) -> str:
    """An error as others word it, in short: `{"message": ...}`, a text, or something else."""
    told = error.get("message", error) if isinstance(error, Mapping) else error
    return str(told)[:300]


def refusal(answer: httpx.Response) -> Conflict | Unavailable:
    """What an answer that is no stream means, read by its content type.

    `Unavailable` for 408, 429 and 5xx (with `retry_after`), and for what no such door would answer.
    """
    status, kind = answer.status_code, answer.headers.get("content-type", "")
    text = ""
    if kind.startswith("application/json"):
        try:
            told = answer.json()
            text = words(told.get("error") or told) if isinstance(told, dict) else ""
        except (ValueError, RecursionError):
            text = ""
    elif kind.startswith("text/plain"):
        text = answer.text[:300]
    what = f"{answer.request.url.netloc.decode()} answered {status} {text}".strip()
    if status in (408, 429) or status >= 500:
        return Unavailable(
            f"{what}.",
            "It is tried again later.",
            code="server_error",
            status=status,
            retry_after=http.retry_after(answer),
            maybe_arrived=status >= 500,
        )
    if answer.is_success or kind.startswith("text/html"):
        return Unavailable(
            f"{what}, which is no answer of this door.",
            "Check that its address leads to the right service.",
            code="wrong_answer",
            maybe_arrived=True,
        )
    fix = "Check its credentials and the agent's parameters."
    return Conflict(f"{what}.", fix, code="refused", status=status)


def client(name: str, url: str, silence: float) -> httpx.AsyncClient:
    """A client for long answers; `silence` is the longest pause in one, in seconds."""
    return http.client(name, base_url=url, seconds=silence, attempts=1, most_bytes=20 * MOST_ANSWER)
