"""Lists that come in pages: `{items, next_cursor}`. An opaque cursor says where the next page begins."""

import base64
import binascii
import json
from typing import Generic, TypeVar

from pydantic import BaseModel, Field

from quarterdeck.kernel.errors import Invalid

T = TypeVar("T")

MOST = 200
"""The longest page."""


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` to get the next page.")


def cursor(*place: str) -> str:
    """Where the next page begins, as one opaque word."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def place(text: str, parts: int) -> list[str]:
    """What `cursor` was made of. Raises `Invalid` for a text that `cursor` did not make."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != parts or not all(isinstance(p, str) for p in found):
        raise bad_cursor()
    return found


def bad_cursor() -> Invalid:
    """The answer to a cursor that we did not give out."""
    return Invalid(
        "The cursor is not one that this list gave out.",
        "Begin again without `cursor`, then pass `next_cursor` on unchanged.",
        field="cursor",
    )
