"""A pipeline is data: stages in order, each with its agent, gates, limit, rounds and way back.

The file format is described in docs/reference/pipelines.md. A file is refused at load, with file and
line, when it names a gate that does not exist or a stage without an agent.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from quarterdeck.kernel.outside import NAME

GateName = Literal[
    "check_documents", "check_pr_open", "check_ci_green", "check_review_approved", "check_merged"
]
"""The gates there are; what each asks is in `gates.py`."""

ENGINE = "engine"
"""The agent of a stage that the engine does itself."""

DONE = "done"
"""The end of every pipeline; it has no agent and no gates."""

_UNITS = {"s": 1, "m": 60, "h": 3600}


def _duration(value: Any) -> Any:
    """`45s`, `30m`, `2h`, or a number of seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value) if isinstance(value, str) else None
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]]) if found else value


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0))]


class Gate(BaseModel):
    """A check that must pass before the next stage; `needs` are its parameters (documents by name)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: GateName
    needs: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`check_pr_open`, or `check_documents: [brd, acceptance]`."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            name, needs = next(iter(value.items()))
            return {"name": name, "needs": needs}
        return value


class Stage(BaseModel):
    """One step of a pipeline. `rounds` repairs are allowed per cause before a person is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, NAME]
    agent: str = Field(min_length=1, max_length=50)
    gates: tuple[Gate, ...] = ()
    approval: bool = False
    limit: Duration = timedelta(minutes=30)
    patience: Duration = timedelta(hours=2)
    rounds: int = Field(default=3, ge=0, le=100)
    fails_to: str = ""

    @property
    def is_engine(self) -> bool:
        return self.agent == ENGINE

    @property
    def back(self) -> str:
        """Where a failed gate sends the item."""
        return self.fails_to or self.name

    @field_validator("name")
    @classmethod
    def _not_done(cls, name: str) -> str:
        if name == DONE:
            raise ValueError("'done' is the end of every pipeline and cannot be a stage")
        return name


class Pipeline(BaseModel):
    """Stages in their order; after the last one an item is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, NAME]
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Pipeline":
        names = [stage.name for stage in self.stages]
        for position, stage in enumerate(self.stages):
            if stage.name in names[:position]:
                raise ValueError(f"stage {stage.name!r} stands twice")
            if stage.back not in names[: position + 1]:
                raise ValueError(f"stage {stage.name!r} fails to {stage.back!r}, which is not before it")
        return self

    def stage(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def asks(self, gate: str) -> bool:
        """Does any of its stages have this gate?"""
        return any(one.name == gate for stage in self.stages for one in stage.gates)

    def after(self, name: str) -> Stage | None:
        """The stage that follows, or None at the end."""
        names = [stage.name for stage in self.stages]
        position = names.index(name) + 1
        return self.stages[position] if position < len(self.stages) else None
