"""What a fake model answers, before a dialect has put it into words."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.provider_invoice import Tokens

CREATED = 1_800_000_000


@dataclass(frozen=True)
class Reply:
    """`pieces` hold one token each: of the text, or of a called tool's arguments.

    `usage` says what is told of the tokens: `tokens`, `null`, nothing (`absent`), the tokens in the same
    chunk as the finish (`inline`), or those of reasoning beside those of the answer (`apart`).
    """

    number: int
    model: str
    pieces: tuple[str, ...]
    tokens: Tokens
    tool: str | None = None
    full: bool = False
    usage: str = "tokens"

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True)
class Frame:
    """One event of a stream: its bytes, how many tokens it brings, how many seconds go by before it."""

    data: bytes
    tokens: int = 0
    is_end: bool = False
    pause: float = 0


@dataclass(frozen=True)
class Dialect:
    """How one endpoint answers. `stream` is None where nothing streams."""

    plain: Callable[[Reply, dict[str, Any]], dict[str, Any]]
    stream: Callable[[Reply, dict[str, Any]], list[Frame]] | None
    error: Callable[[int, str, str, str | None], dict[str, Any]]
    error_frame: Callable[[dict[str, Any]], Frame]


def sse(data: Any, event: str | None = None, **more: Any) -> Frame:
    """A frame of server-sent events."""
    name = f"event: {event}\n" if event else ""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return Frame(f"{name}data: {text}\n\n".encode(), **more)


def arguments(tool: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a tool, by its schema."""
    schema = tool.get("parameters") or tool.get("input_schema") or {}
    return {name: _value(kind) for name, kind in schema.get("properties", {}).items()}


def in_pieces(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Arguments in pieces that only together are JSON."""
    text = json.dumps(arguments)
    return tuple(text[start : start + 5] for start in range(0, len(text), 5))


def _value(schema: dict[str, Any]) -> Any:
    known: dict[str, Any] = {"integer": 7, "number": 7.5, "boolean": True, "array": [], "object": {}}
    return known.get(schema.get("type", "string"), "Hamburg")
