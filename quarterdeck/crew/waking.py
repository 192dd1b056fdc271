"""An agent woken by hand: a few words put into its main session; nobody here waits for what it says."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from quarterdeck.kernel.outside import STORABLE

Mode = Literal["now", "next-heartbeat"]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000), STORABLE]


class Wake(BaseModel):
    """What a woken agent is told, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Words = Field(description="What it is told.", examples=["ET-007 waits for your review."])
    mode: Mode = Field(
        default="now", description="`now` calls its model at once; `next-heartbeat`: it reads it then."
    )


class Woken(BaseModel):
    """What became of it."""

    agent: str = Field(examples=["analyst"])
    mode: Mode
    outcome: str = Field(
        description="In the gateway's word: `queued`, or `coalesced` with a wake that waits already.",
        examples=["queued"],
    )


@runtime_checkable
class Wakes(Protocol):
    """A runtime whose agents can be woken."""

    async def wake(self, parameters: Mapping[str, Any], wanted: Wake) -> str:
        """The gateway's word for what became of it.

        Raises `Unavailable` (down; code `wrong_answer`: somebody else is there), `Conflict` (refused),
        `Misconfigured`, and `NotFound` for an agent that the gateway does not have.
        """
        ...
