"""What an agent may report in `result.json`: checked here, because a program writes what it likes."""

import json
import os
import stat
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from quarterdeck.crew.runtime import RESULT, Outcome
from quarterdeck.kernel.errors import Invalid

MOST_BYTES = 1_000_000
"""A larger result is refused: texts belong into documents on the branch."""


def _storable(text: str) -> str:
    """Without what PostgreSQL cannot keep: NUL characters and halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


Words = Annotated[str, AfterValidator(_storable)]


class PullRequest(BaseModel):
    """How the agent's work should be presented."""

    title: Words = Field(min_length=1, max_length=300)
    body: Words = ""


class Review(BaseModel):
    """What the agent says of somebody's work."""

    verdict: Literal["approved", "rejected"]
    comment: Words = ""


class Report(BaseModel):
    """The whole of `result.json`; every field may be left out, unknown ones are passed over.

    `error`: why the agent could not do its work; the run has failed then, whatever its exit code.
    """

    summary: Words = ""
    pull_request: PullRequest | None = None
    review: Review | None = None
    error: Words = Field(default="", max_length=10_000)
    tokens: int | None = Field(default=None, ge=0, le=2_000_000_000)
    cost_usd: Decimal | None = Field(default=None, ge=0, le=2_000)


def read_report(folder: Path, outcome: Outcome) -> Outcome:
    """The outcome with what the agent reported. A report that is rubbish is an error of the run."""
    try:
        report = _report(folder / RESULT)
    except Invalid as error:
        return replace(outcome, error=outcome.error or str(error))
    if report is None:
        return outcome
    cost = report.cost_usd
    return replace(
        outcome,
        error=outcome.error or report.error,
        result=report.model_dump(mode="json", exclude_none=True, exclude={"tokens", "cost_usd", "error"}),
        tokens=report.tokens,
        cost_micro_usd=None if cost is None else round(cost * 1_000_000),
    )


def _report(path: Path) -> Report | None:
    raw = _read(path)
    if raw is None:
        return None
    try:
        return Report.model_validate(json.loads(raw, parse_float=Decimal))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        places = (f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in wrong[:5])
        raise Invalid(f"The agent's result is not as agreed: {'; '.join(places)}.") from None
    except (ValueError, RecursionError):
        raise Invalid("The agent's result is not JSON.") from None


def _read(path: Path) -> bytes | None:
    """The bytes of the file, which may be anything: a pipe must not be waited for, nor a link followed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"The agent's result cannot be read: {error.strerror}.") from None
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise Invalid("The agent's result is not a file.")
        if facts.st_size > MOST_BYTES:
            raise Invalid(f"The agent's result is larger than {MOST_BYTES} bytes.")
        return os.read(file, MOST_BYTES)
    finally:
        os.close(file)
