"""The roster's `notifications:` section, as people write it."""

from collections.abc import Iterable, Sequence
from datetime import time
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.notify.model import Severity, Subscription
from quarterdeck.notify.texts import KINDS


def _minutes(value: object) -> object:
    """YAML reads a bare 22:30 as the number 1350."""
    if isinstance(value, int) and 0 <= value < 24 * 60:
        return time(*divmod(value, 60))
    return value


TimeOfDay = Annotated[time, BeforeValidator(_minutes)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Quiet(_Entry):
    """Hours in which messages arrive silently."""

    begin: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            return ZoneInfo(zone).key
        except (ValueError, OSError, KeyError):
            raise ValueError("is not a time zone such as Europe/Kyiv") from None


class _Wish(_Entry):
    channel: str
    chat: str = Field(default="", coerce_numbers_to_str=True, max_length=200)
    events: list[str] = []
    project: str | None = Field(default=None, max_length=10)
    severity: Severity = Severity.INFO
    quiet: _Quiet | None = None
    enabled: bool = True

    @field_validator("events")
    @classmethod
    def _known(cls, events: list[str]) -> list[str]:
        if unknown := set(events) - KINDS:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there is: {', '.join(sorted(KINDS))}")
        return events

    def subscription(self) -> Subscription:
        fields = self.model_dump(exclude={"quiet"})
        if self.quiet is None:
            return Subscription(**fields)
        quiet = self.quiet
        return Subscription(**fields, quiet_from=quiet.begin, quiet_to=quiet.end, zone=quiet.zone)


def read_subscriptions(entries: Sequence[Any], channels: Iterable[str]) -> list[Subscription]:
    """The section as subscriptions. Raises `Misconfigured` naming the entry and what is wrong with it."""
    known = sorted(channels)
    return [_read(number, entry, known) for number, entry in enumerate(entries, start=1)]


def _read(number: int, entry: Any, channels: Sequence[str]) -> Subscription:
    try:
        wish = _Wish.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _wrong(
            number, f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
    if wish.channel not in channels:
        raise _wrong(number, f"there is no channel {wish.channel!r}; there is: {', '.join(channels)}")
    return wish.subscription()


def _wrong(number: int, what: str) -> Misconfigured:
    return Misconfigured(
        f"Entry {number} of `notifications` in the roster is wrong: {what}.",
        "Correct the entry and run `quarterdeck setup --apply`.",
        entry=number,
    )
