"""Change one member of a JSON object and leave every other byte as it is: numbers, order, escapes, spaces.

An inner quotation mark is always escaped in JSON, so the bytes `"model"` cannot be part of a text, except at
its end; whoever finds them once in an object that has this member has found the member.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_VALUE = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(" + _STRING + rb")")
_TOKEN = re.compile(_STRING + rb'|[{}\[\],:]|[^ \t\r\n"{}\[\],:]+', re.DOTALL)
_MODEL = b'"model"'
_OPEN, _CLOSE, _COMMA, _COLON = b"{", b"}", b",", b":"


@lru_cache(maxsize=4096)
def quoted(name: str) -> bytes:
    """A name as JSON."""
    return orjson.dumps(name)


def with_model(raw: bytes, name: bytes) -> bytes:
    """A valid object that has a text as its model, with another one; `name` is JSON."""
    at = raw.find(_MODEL)
    is_only = at >= 0 and raw.rfind(_MODEL) == at  # it stands near the beginning, and rfind is quick
    if is_only and (b"\\" not in raw or b"\\u00" not in raw):  # the first is ten times faster
        if not (value := _VALUE.match(raw, at + len(_MODEL))):
            return raw
        start, end = value.span(1)
        return b"".join((raw[:start], name, raw[end:]))
    for key, start, end in reversed(list(members(raw))):
        if key == "model" and raw[start : start + 1] == b'"':
            raw = raw[:start] + name + raw[end:]
    return raw


def with_member(raw: bytes, key: str, value: Any) -> bytes:
    """The object with this member set to a value, where it stands or else at the end."""
    spans = (
        [(start, end) for found, start, end in members(raw) if found == key] if _may_have(raw, key) else []
    )
    for start, end in reversed(spans):
        raw = raw[:start] + orjson.dumps(value) + raw[end:]
    if spans:
        return raw
    body = raw.rstrip()[:-1].rstrip()
    comma = b"" if body.endswith(_OPEN) else _COMMA
    return body + comma + orjson.dumps(key) + _COLON + orjson.dumps(value) + _CLOSE


def _may_have(raw: bytes, key: str) -> bool:
    return key.encode() in raw or b"\\u00" in raw


def members(raw: bytes) -> Iterator[tuple[str, int, int]]:
    """The members of a valid object: key, and where the value begins and ends."""
    depth, key, start, end = 0, "", -1, -1
    is_named = False
    for token in _TOKEN.finditer(raw):
        mark = raw[token.start() : token.start() + 1]
        if depth == 1 and mark in (_COMMA, _CLOSE):
            if is_named:
                yield key, start, end
            is_named, start = False, -1
        elif depth == 1 and not is_named:
            key, is_named = orjson.loads(token[0]), True
        elif depth and not (start < 0 and mark == _COLON):
            start, end = start if start >= 0 else token.start(), token.end()
        depth += (mark in b"{[") - (mark in b"}]")
