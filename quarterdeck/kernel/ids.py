"""Identities: random where nobody must guess or collide, readable where people say them aloud."""

import secrets
from uuid import UUID, uuid4


def new_id() -> UUID:
    """A random UUID (version 4)."""
    return uuid4()


def new_token() -> str:
    """A bearer token: `qd_` and 256 random bits."""
    return "qd_" + secrets.token_urlsafe(32)


def item_key(project: str, number: int) -> str:
    """`ET-007`: the project's key and the number, at least three digits."""
    return f"{project}-{number:03d}"
