"""Tokens that no provider told, counted by LiteLLM's tokenizers in a process of its own.

    python -m quarterdeck.router.ways.counting        reads and answers lines of JSON until its input ends

The process costs seconds and 200 MB, which the router must not have: it is started when first needed, ends by
itself after some idle minutes, and with its parent. It has no secrets and makes no connection.
"""

import asyncio
import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Map
from contextlib import suppress
from typing import Any

from quarterdeck.kernel import children
from quarterdeck.router.backend import Usage

IDLE_SECONDS = 180.0
START_SECONDS = 60.0
COUNT_SECONDS = 10.0
MOST_WAITING = 64
"""Questions that may wait for the helper, each with its whole request in memory; more are estimated."""

LONGEST = 2_000_000
"""Characters that are counted; more are estimated."""

CHARACTERS_PER_TOKEN = 4
_NO_TEXT = frozenset(("image_url", "input_audio", "source", "file", "type", "role", "id"))
_KEPT = ("PATH", "HOME", "LANG", "PYTHONPATH", "SYSTEMROOT", "TMPDIR")
_OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "HF_HUB_OFFLINE": "1",
}


class TokenCounter:
    """Counts one after the other. What cannot be counted in time is estimated at four characters a token."""

    def __init__(self, *, idle: float = IDLE_SECONDS, limit: float = COUNT_SECONDS) -> None:
        self._idle = idle
        self._limit = limit
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    @property
    def pid(self) -> int | None:
        """The helper's process id while it runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def count(self, native_id: str, path: str, body: Map[str, Any], text: str) -> Usage:
        """Never raises: an estimate is made where nothing can be counted."""
        asked = _asked_for(body)
        told = _estimate(asked, text)
        if len(asked) + len(text) <= LONGEST and self._waiting < MOST_WAITING:
            question = {"model": native_id, "prompt": _prompt(body), "asked": asked, "text": text}
            with suppress(OSError, ValueError, KeyError, TimeoutError):
                counted = await self._asked(json.dumps(question).encode() + b"\n")
                told = _usage(int(counted["prompt"]), int(counted["completion"]))
        return told

    async def close(self) -> None:
        """End the helper."""
        async with self._turn:
            await self._end()

    async def _asked(self, line: bytes) -> dict[str, Any]:
        """One answer, in turn."""
        self._waiting += 1
        try:
            async with self._turn:
                return await self._surely_answered(line)
        finally:
            self._waiting -= 1

    async def _surely_answered(self, line: bytes) -> dict[str, Any]:
        """A helper that has just ended by itself is started once more."""
        try:
            return await self._answer(line)
        except (ConnectionError, EOFError):
            await self._end()
            return await self._answer(line)
        except BaseException:
            await self._end()  # an answer that comes too late must not answer the next question
            raise

    async def _answer(self, line: bytes) -> dict[str, Any]:
        process = await self._started()
        assert process.stdin is not None and process.stdout is not None
        async with asyncio.timeout(self._limit):
            process.stdin.write(line)
            await process.stdin.drain()
            told: dict[str, Any] = json.loads(await _line(process.stdout))
        return told

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", __name__, str(self._idle)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={**{name: os.environ[name] for name in _KEPT if name in os.environ}, **_OFFLINE},
                start_new_session=True,  # Ctrl-C ends the router, and it the helper
            )
            assert self._process.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                await _line(self._process.stdout)
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await children.end(process)


def estimate(body: Map[str, Any], text: str) -> Usage:
    """What a call used, at four characters a token: for when there is no time to count."""
    return _estimate(_asked_for(body), text)


def _estimate(asked: str, text: str) -> Usage:
    return _usage(-(-len(asked) // CHARACTERS_PER_TOKEN), -(-len(text) // CHARACTERS_PER_TOKEN))


def _usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt, completion, prompt + completion, is_estimate=True)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Raises `EOFError` when the helper has ended."""
    line = await stream.readline()
    if not line:
        raise EOFError
    return line


def _prompt(body: Map[str, Any]) -> dict[str, Any]:
    """The fields that a provider reads as the prompt, in any dialect."""
    names = ("messages", "tools", "functions", "system", "prompt", "input", "instructions")
    return {name: body[name] for name in names if body.get(name)}


def _asked_for(body: Map[str, Any]) -> str:
    """All that the model is told."""
    return "\n".join(_texts(_prompt(body)))


def _texts(whole: Any) -> Iterator[str]:
    """All texts in it, in order and however deep, but pictures and sounds, which are no text."""
    waiting = [whole]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            if not part.startswith("data:"):
                yield part
        elif isinstance(part, Map):
            waiting.extend(part[name] for name in reversed([*part]) if name not in _NO_TEXT)
        elif isinstance(part, list):
            waiting.extend(reversed(part))


# In the helper


def serve(idle: float) -> None:
    """Answer until the input ends, or nothing has come for so long."""
    count = _tokenizer()
    print("{}", flush=True)
    while select.select([sys.stdin], [], [], idle)[0]:
        line = sys.stdin.buffer.raw.readline() if hasattr(sys.stdin.buffer, "raw") else b""
        if not line:
            return
        print(json.dumps(_counted(json.loads(line), count)), flush=True)


def _tokenizer() -> Callable[..., int]:
    os.environ.update(_OFFLINE)
    import litellm

    litellm.disable_hf_tokenizer_download = True
    return litellm.token_counter  # type: ignore[no-any-return]


def _counted(question: dict[str, Any], count: Callable[..., int]) -> dict[str, int]:
    model, text = question["model"], question["text"]
    said = count(model=model, text=text, count_response_tokens=True) if text else 0
    return {"prompt": _prompt_tokens(model, question, count), "completion": said}


def _prompt_tokens(model: str, question: dict[str, Any], count: Callable[..., int]) -> int:
    """Messages have tokens of their own beside their texts; other dialects' are counted as texts."""
    prompt = question["prompt"]
    if "messages" in prompt and not prompt.keys() & {"system", "input", "functions"}:
        with suppress(Exception):  # parts that this counter does not know
            return count(
                model=model,
                messages=prompt["messages"],
                tools=prompt.get("tools"),
                use_default_image_token_count=True,
            )
    asked = question["asked"]
    return count(model=model, text=asked) if asked else 0


if __name__ == "__main__":
    serve(float(sys.argv[1]))
