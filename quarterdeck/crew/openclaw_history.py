"""What a session's history says of one turn of ours. Pure: the gateway's messages in, a verdict out.

A turn is found by the first mark in the message that began it; others may stand in what strangers wrote.
The gateway wraps messages, resumes an interrupted turn after its own restart with a `[System]` message and
under another run id, and calls models several times in a turn: so a turn is everything from its mark to the
next mark.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

_MARK = re.compile(r"\[quarterdeck run \d+\]")


class Progress(StrEnum):
    """How far a turn has come in the history."""

    ABSENT = "absent"
    OPEN = "open"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(frozen=True)
class Seen:
    """One turn as its history tells it. `size` grows with everything that is said."""

    progress: Progress
    text: str = ""
    tokens: int | None = None
    cost: Decimal | None = None
    size: int = 0


def seen(messages: Sequence[Any], mark: str) -> Seen:
    """The turn with this mark in a session's messages, oldest first."""
    said = _turn([m for m in messages if isinstance(m, Mapping)], mark)
    if not said:
        return Seen(Progress.ABSENT)
    answers = [message for message in said if message.get("role") == "assistant"]
    ends = [message for message in answers if message.get("stopReason") in ("stop", "error", "length")]
    tokens, cost = _usage(answers)
    if not ends or said[-1].get("role") == "user":
        return Seen(Progress.OPEN, size=len(said))
    last = ends[-1]
    match last.get("stopReason"):
        case "error":
            words = str(last.get("errorMessage") or "") or text_of(last)
        case "length":  # half an answer may be half a file
            words = "its answer was cut off at its model's limit of tokens"
        case _:
            return Seen(Progress.ANSWERED, text_of(last), tokens, cost, len(said))
    return Seen(Progress.FAILED, words, tokens, cost, len(said))


def _turn(messages: Sequence[Mapping[str, Any]], mark: str) -> list[Mapping[str, Any]]:
    turn: list[Mapping[str, Any]] = []
    for message in messages:
        if message.get("role") == "user" and (marks := _MARK.findall(text_of(message))):
            if mark != marks[0]:
                if turn:
                    break
                continue
            turn.append(message)
        elif turn:
            turn.append(message)
    return turn


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message: a text, or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(
        str(p.get("text", "")) for p in parts if isinstance(p, Mapping) and p.get("type") == "text"
    )


def _usage(answers: Sequence[Mapping[str, Any]]) -> tuple[int | None, Decimal | None]:
    """Tokens and dollars of all model calls of a turn; a price of 0 means that nobody entered one."""
    tokens, cost = 0, Decimal(0)
    for answer in answers:
        usage = answer.get("usage")
        if isinstance(usage, Mapping):
            tokens += _number(usage.get("totalTokens"))
            prices = usage.get("cost")
            cost += Decimal(str(_number(prices.get("total")))) if isinstance(prices, Mapping) else 0
    return int(tokens) or None, cost or None


def _number(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value < math.inf else 0
