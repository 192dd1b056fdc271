"""Libraries that cost seconds, loaded by the worker that runs a test with them and not by all at collection.

aiogram = Later("aiogram")   # imported when first something of it is asked for
"""

from importlib import import_module
from typing import Any


class Later:
    """A package, to be imported when it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):  # what pytest asks of everything that it finds
            raise AttributeError(name)
        return getattr(import_module(self._name), name)
