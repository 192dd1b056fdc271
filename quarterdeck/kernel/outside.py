"""What text from outside must be before a room takes it in."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    return text


STORABLE = AfterValidator(_storable)
"""Part of the type of every text from outside, behind its other constraints: PostgreSQL can keep it."""

Text = Annotated[str, STORABLE]
"""Any text from outside without constraints of its own."""


@dataclass(frozen=True)
class Spelled:
    """Part of the type of a name: how it is spelled, for programs (`pattern`) and for people (`words`)."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return handler(schema) | {"pattern": self.pattern}

    def _checked(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"must be {self.words}")
        return text


NAME = Spelled(
    r"^[a-z][a-z0-9_-]{0,49}$",
    "small letters, digits, - and _, at most 50, the first one a letter",
)
"""How agents, people, pipelines and stages are called."""
