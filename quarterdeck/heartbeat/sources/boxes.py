"""Lines with a box in to-do documents: how they are read and rewritten. Pure.

    - [ ] Renew the certificate <!-- quarterdeck state=in_progress at=2026-01-05T12:00:00+00:00 rounds=3 -->

A line is known by what it says, not by where it stands: it may move. Of equal lines each has its number.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from quarterdeck.heartbeat.sources.reading import tame

MARK = "quarterdeck"
_BOX = re.compile(r"\[([ xX])\]")
_MARKER = re.compile(rf"\s*<!--\s*{MARK}\b(.*?)-->")
_FACT = re.compile(r'([a-z]+)=(?:"([^"]*)"|(\S+))')
_BULLET = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])?\s*")


@dataclass(frozen=True)
class Box:
    """One line with a box: `line` counts from 1, `mark` is what we wrote behind it."""

    identity: str
    line: int
    title: str
    is_ticked: bool
    mark: Mapping[str, str] = field(default_factory=dict)


def boxes(text: str) -> list[Box]:
    """Every line with a box, in order."""
    seen: Counter[str] = Counter()
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if (match := _BOX.search(line)) is not None:
            says = said(line)
            seen[says] += 1
            identity = hashlib.sha256(f"{says}\n{seen[says]}".encode()).hexdigest()[:16]
            found.append(Box(identity, number, says, match[1] != " ", _mark(line)))
    return found


def said(line: str) -> str:
    """What a line says, without bullet, box and our mark."""
    bare = _BOX.sub(" ", _MARKER.sub("", line), count=1)
    return tame(_BULLET.sub("", bare, count=1), 1000)


def _mark(line: str) -> dict[str, str]:
    match = _MARKER.search(line)
    facts = _FACT.findall(match[1]) if match else []
    return {name: quoted or plain for name, quoted, plain in facts}


def rewritten(text: str, identity: str, facts: Mapping[str, str | None], *, tick: bool = False) -> str | None:
    """The document with this line's mark changed (`None` takes a fact away); `None` = the line is gone."""
    wanted = next((box for box in boxes(text) if box.identity == identity), None)
    if wanted is None:
        return None
    lines = text.splitlines(keepends=True)
    line = lines[wanted.line - 1]
    body = line.rstrip("\r\n")
    ending = line[len(body) :]
    mark = {name: value for name, value in {**wanted.mark, **facts}.items() if value is not None}
    bare = _MARKER.sub("", body).rstrip()
    if tick:
        bare = _BOX.sub("[x]", bare, count=1)
    lines[wanted.line - 1] = bare + _written(mark) + ending
    return "".join(lines)


def _written(mark: Mapping[str, str]) -> str:
    facts = " ".join(f"{name}={_value(value)}" for name, value in mark.items())
    return f" <!-- {MARK} {facts} -->" if facts else ""


def _value(value: str) -> str:
    plain = tame(value, 200).replace("--", "—").replace('"', "'").replace("[", "(").replace("]", ")")
    return plain if plain and re.fullmatch(r"\S+", plain) else f'"{plain}"'


def fresh(now: datetime, **facts: str | None) -> dict[str, str | None]:
    """Facts with their time."""
    return {**facts, "at": now.isoformat(timespec="seconds")}
