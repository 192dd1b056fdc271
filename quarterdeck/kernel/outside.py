"""What text from outside must be before a room takes it in."""

from typing import Annotated

from pydantic import AfterValidator


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    return text


STORABLE = AfterValidator(_storable)
"""Part of the type of every text from outside, behind its other constraints: PostgreSQL can keep it."""

Text = Annotated[str, STORABLE]
"""Any text from outside without constraints of its own."""
