"""One member of a JSON object changes, and no other byte."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.router.ways.raw_json import members, with_member, with_model

NASTY = st.sampled_from(
    ['"model":"x"', 'model"', '\\"model', '"model"', "\\", '"', "{", "}", "é", "\u2028", "𝄞", "\x00"]
)
TEXTS = st.lists(
    st.one_of(NASTY, st.text(alphabet=st.characters(exclude_categories=["Cs"]))), max_size=4
).map("".join)
KEYS = st.one_of(st.sampled_from(["model", "models", "mode", "l", ""]), TEXTS)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


@st.composite
def written(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """An object that has a model, and one of the ways to write it."""
    before, after = draw(OBJECTS), draw(OBJECTS)
    content = {**before, "model": draw(TEXTS), **{k: v for k, v in after.items() if k != "model"}}
    spaced = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",\n", ":\t")]))
    text = json.dumps(content, ensure_ascii=draw(st.booleans()), separators=spaced)
    return content, text.encode()


@given(written(), TEXTS)
def test_the_model_is_changed_and_nothing_else(given_: tuple[dict[str, Any], bytes], name: str) -> None:
    content, raw = given_
    changed = with_model(raw, orjson.dumps(name))
    assert json.loads(changed) == content | {"model": name}


@given(written(), KEYS, VALUES)
def test_any_member_can_be_set(given_: tuple[dict[str, Any], bytes], key: str, value: Any) -> None:
    content, raw = given_
    assert json.loads(with_member(raw, key, value)) == content | {key: value}


@given(written())
def test_members_are_found_where_they_stand(given_: tuple[dict[str, Any], bytes]) -> None:
    content, raw = given_
    assert {key: json.loads(raw[start:end]) for key, start, end in members(raw)} == content


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"x","temperature":1.10,"seed":123456789012345678901234567890,"top_p":1E-2}',
        b'{ "model" : "x", "stop": "\\u00e9\\/ \\ud83d\\ude00" }',
        b'{"a":{"model":"x"},"model":"x"}',
        b'{"mod\\u0065l":"x","a":{"model":"y"}}',
        b'{"a":"\\"model\\":\\"x\\"","b":["model","x"],"model":"x"}\n',
    ],
)
def test_numbers_escapes_and_spaces_stay_as_they_were_sent(raw: bytes) -> None:
    assert with_model(with_model(raw, b'"other"'), b'"x"') == raw


def test_of_two_models_neither_keeps_its_old_name() -> None:
    """Parsers disagree on which one counts: an unknown name must not slip through behind a known one."""
    assert with_model(b'{"model":"a","model":"b"}', b'"n"') == b'{"model":"n","model":"n"}'


def test_a_member_is_added_to_an_empty_object_as_well() -> None:
    assert with_member(b" {} ", "a", 1) == b'{"a":1}'.rjust(8)
