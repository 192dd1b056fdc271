"""Bytes become events, however they are cut and whatever ends their lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.router.ways import sse
from quarterdeck.router.ways.sse import Splitter, data_of

LINES = st.sampled_from(["data: {}", 'data: {"a": "é𝄞"}', "data:[DONE]", ": ping", "event: error", "id: 7"])
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=6)


@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_are_the_same_however_the_bytes_arrive(
    events: list[list[str]], end: str, data: st.DataObject
) -> None:
    raw = "".join(end.join(lines) + end + end for lines in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    splitter, found = Splitter(), []
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += splitter.feed(raw[start:stop])
    if rest := splitter.rest():  # after a last "\r" another "\n" could still come
        found.append(rest)
    assert [event.strip(b"\n") for event in found] == ["\n".join(lines).encode() for lines in events]


def test_an_event_that_has_not_ended_is_kept() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == [b"data: 1"]
    assert splitter.rest() == b"data: 2"
    assert splitter.feed(b"\n") == [b"data: 2"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x", b"x"),
        (b"data:x", b"x"),
        (b"event: m\ndata: x", b"x"),
        (b"data: x\ndata: y", b"x\ny"),
        (b": comment", None),
        (b"data: a\n: comment", b"a"),
    ],
)
def test_data_is_what_the_standard_says(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST_EVENT", 10)
    with pytest.raises(ValueError, match="longer than 10"):
        Splitter().feed(b"data: 12345")
