"""What all our blocks have in common: each fills one kind of connection."""

from typing import Any, ClassVar, Self

from prefect.blocks.core import Block
from pydantic import SecretStr

from quarterdeck.kernel.connections import FROM_ENVIRONMENT
from quarterdeck.kernel.settings import Settings

DEFAULT = "default"
"""The name of the block document that the desk reads."""


class ConnectionBlock(Block):
    """A form for one kind of connection."""

    kind: ClassVar[str]

    @classmethod
    def from_environment(cls, settings: Settings) -> Self | None:
        """The block that the environment describes, or None when it says nothing about it."""
        told = FROM_ENVIRONMENT[cls.kind](settings)
        return cls(**told) if told else None

    def value(self) -> dict[str, Any]:
        """What the connection holds: the fields with their secrets in clear. Never log it."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: _clear(field) for name, field in fields}


def _clear(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
