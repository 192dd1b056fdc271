"""`HEARTBEAT.md` of each agent: one template and the roster (spec heartbeat.md, sections 3.3, 8 and 11)."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from quarterdeck.heartbeat.context import FILE, MOST_BYTES
from quarterdeck.heartbeat.roster import Category, Heartbeat
from quarterdeck.heartbeat.sources.reading import tame
from quarterdeck.kernel.errors import Misconfigured

VERSION = "1"
ADDITIONS: Mapping[Category, str] = {
    Category.DEVELOPMENT: "Where there are automated tests, see that they pass.",
    Category.BUSINESS: "Look at the quality of what you delivered lately.",
    Category.HIGH_FREQUENCY: "See that HEARTBEAT.md and AGENTS.md stay below 5 KB each.",
}
"""What a category adds to an agent's own checks; it never replaces them (section 3.3)."""


class Outcome(StrEnum):
    """What became of one file, or would."""

    WRITE = "write"
    SAME = "same"
    NO_WORKSPACE = "no workspace"


@dataclass(frozen=True)
class Rendered:
    """One agent's file."""

    agent: str
    path: str
    text: str
    outcome: Outcome


@cache
def _template() -> Template:
    loader = PackageLoader("quarterdeck.heartbeat")
    kind = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    return kind.get_template(f"{FILE}.jinja")  # Markdown for a machine, not a page: nothing to escape


def text_of(one: Heartbeat) -> str:
    """The file of one agent. Raises `Misconfigured` when the roster's checks make it too long."""
    text = _template().render(
        agent=one.agent,
        version=VERSION,
        category=one.category.value,
        interval=_minutes(one.interval.total_seconds()),
        scheduler=one.scheduler.value,
        multica_id=tame(one.multica_id),
        stagnation=_minutes(one.limits.stagnation.total_seconds()),
        recovery=_minutes(one.limits.recovery.total_seconds()),
        dependency_wait=_minutes(one.limits.dependency_wait.total_seconds()),
        max_rounds=one.limits.max_rounds,
        warn_rounds=one.limits.warn_rounds,
        notify=", ".join(one.notify) or "nobody",
        patrol=one.patrol.value,
        checks=[tame(check) for check in one.checks],
        addition=ADDITIONS[one.category],
    )
    if len(text.encode()) >= MOST_BYTES:
        raise Misconfigured(
            f"{FILE} of {one.agent} would have {len(text.encode())} bytes; it must stay below {MOST_BYTES}.",
            "Shorten its `checks` in the roster; details belong into `docs/` of its workspace.",
            code="heartbeat_too_long",
        )
    return text


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g}"


def rendered(one: Heartbeat) -> Rendered:
    """The file as it should be, and whether it is."""
    text = text_of(one)
    if not one.workspace:
        return Rendered(one.agent, "", text, Outcome.NO_WORKSPACE)
    path = Path(one.workspace).expanduser() / FILE
    return Rendered(one.agent, str(path), text, Outcome.SAME if _read(path) == text else Outcome.WRITE)


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes()[: MOST_BYTES * 2].decode("utf-8", "replace")
    except OSError:
        return None


def write(one: Rendered) -> None:
    """Put it in its place, in one step. Raises `Misconfigured` where that cannot be written."""
    path = Path(one.path)
    draft = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{FILE}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(one.text)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}.", "Make it yours.") from None
    finally:
        with suppress(OSError):
            Path(draft).unlink()
