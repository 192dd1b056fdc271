"""What a model is reminded of: the last messages of a conversation, bounded, and nothing else.

A surface keeps no history; a model remembers nothing. So much is kept that a talk goes on, and no more.
"""

from collections.abc import Sequence
from typing import Any

MOST_MESSAGES = 20
MOST_CHARACTERS = 24_000


def kept(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest messages that fit, whole ones; the first is always a user's."""
    window, size = list[dict[str, Any]](), 0
    for message in reversed(messages[-MOST_MESSAGES:]):
        size += len(message["content"])
        if size > MOST_CHARACTERS:
            break
        window.insert(0, message)
    while window and window[0]["role"] != "user":
        window.pop(0)
    return window
