"""`quarterdeck doctor`: looks at every part, says what is wrong, what that means, and how to mend it.

A check is one entry of `checks.CHECKS`; a new part adds its own. Looking changes nothing; mending does
only what is safe to do twice.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Literal

from sqlmodel import select

from quarterdeck.house import House, open_house
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.settings import Settings

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What a check saw: `detail` is the fact, `meaning` what follows from it, `fix` what to do."""

    verdict: Verdict
    detail: str
    meaning: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Patient:
    """What is examined. Without a house (its database does not answer) `why_closed` says why."""

    settings: Settings
    house: House | None = None
    why_closed: QuarterdeckError | None = None

    def open_house(self) -> House:
        """The house. Raises `QuarterdeckError` when it could not be opened."""
        if self.house is None:
            assert self.why_closed is not None
            raise self.why_closed
        return self.house


@dataclass(frozen=True)
class Check:
    """One look. `mend` does what is safe and says what it did."""

    name: str
    look: Callable[[Patient], Awaitable[Finding]]
    mend: Callable[[Patient], Awaitable[str]] | None = None
    needs_house: bool = False


@dataclass(frozen=True)
class Result:
    """A check's finding; `mended` says what `--fix` did about it."""

    check: str
    verdict: Verdict
    detail: str
    meaning: str
    fix: str
    mended: str = ""


async def examine(settings: Settings, checks: Sequence[Check], *, fix: bool) -> AsyncIterator[Result]:
    """Every check in turn; with `fix`, what can be mended safely is mended and looked at again."""
    async with AsyncExitStack() as stack:
        patient = await _admitted(settings, stack)
        for check in checks:
            result = await _look(check, patient)
            if fix and result.verdict != "ok" and check.mend:
                result = await _mend(check, patient, result)
            yield result


async def _admitted(settings: Settings, stack: AsyncExitStack) -> Patient:
    if settings.database_url is None and not settings.folder.exists():
        return Patient(
            settings,
            why_closed=QuarterdeckError(
                f"There is no desk in {settings.folder}.", "Run `quarterdeck setup`."
            ),
        )
    try:
        house = await stack.enter_async_context(open_house(settings))
        async with house.database.read() as session:
            await session.exec(select(1))
        return Patient(settings, house)
    except QuarterdeckError as error:
        return Patient(settings, why_closed=error)


async def _look(check: Check, patient: Patient) -> Result:
    if check.needs_house and patient.house is None:
        return _result(check, Finding("warn", "Not looked at: it needs the database."))
    try:
        return _result(check, await check.look(patient))
    except QuarterdeckError as error:
        return _result(check, Finding("fail", error.detail, fix=error.instruction))
    except Exception as error:
        meaning = "The check itself broke; the part may be fine."
        return _result(check, Finding("warn", f"{type(error).__name__} while looking.", meaning))


def _result(check: Check, finding: Finding) -> Result:
    return Result(check.name, finding.verdict, logs.redact(finding.detail), finding.meaning, finding.fix)


async def _mend(check: Check, patient: Patient, before: Result) -> Result:
    assert check.mend is not None
    try:
        done = await check.mend(patient)
    except (QuarterdeckError, OSError) as error:
        return replace(before, mended=f"Could not be mended: {error}")
    return replace(await _look(check, patient), mended=done)
