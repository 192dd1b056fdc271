"""Counts as people read them."""

import pytest

from quarterdeck.kernel.words import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("backend",), "0 backends"),
        (1, ("backend",), "1 backend"),
        (2, ("backend",), "2 backends"),
        (1, ("person", "people"), "1 person"),
        (3, ("message waits", "messages wait"), "3 messages wait"),
    ],
)
def test_one_thing_is_told_as_one(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said
