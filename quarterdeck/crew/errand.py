"""The client of a remote run: our program under the run's keeper, while the agent works elsewhere.

What the run has come to is written down before and after every step outside, so that a client that
takes the place of a killed one goes on there. In the run's folder:

    job.json      what is to be done          secrets.json   read once, then removed
    errand.json   where, and how              turn.json      what it has come to
    callback.json what somebody reported      result.json    the end, as from every agent
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from quarterdeck.crew import answer, keeper
from quarterdeck.crew.runtime import RESULT
from quarterdeck.kernel import crash
from quarterdeck.kernel.errors import Invalid, QuarterdeckError

JOB, ERRAND, SECRETS = "job.json", "errand.json", "secrets.json"
TURN, CALLBACK = "turn.json", "callback.json"


class Stage(StrEnum):
    """How far a turn has come. Between `intent` and `sent` nobody knows whether it arrived."""

    NEW = "new"
    INTENT = "intent"
    SENT = "sent"
    ANSWERED = "answered"


@dataclass(frozen=True)
class Turn:
    """What is known of the agent's turn; `cost_usd` is exact, as text.

    `question` numbers what was asked: the same number is the same words (`is_again`: as a reminder), asked
    once more for the same turn. `tries` counts what led nowhere.
    """

    stage: Stage = Stage.NEW
    run_id: str = ""
    text: str = ""
    tokens: int | None = None
    cost_usd: str | None = None
    tries: int = 0
    question: int = 0
    is_again: bool = False

    def with_usage(self, tokens: int | None, cost: Decimal | float | None) -> "Turn":
        return replace(self, tokens=tokens, cost_usd=None if cost is None else str(Decimal(str(cost))))


class Errand:
    """One remote run, from inside its client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job: dict[str, Any] = self._facts(JOB)
        self.order: dict[str, Any] = self._facts(ERRAND)
        self._secrets = self._take_secrets()
        self.turn = self._read_turn()

    def _facts(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / name).read_bytes())
        return facts

    def _take_secrets(self) -> dict[str, str]:
        try:
            return self._facts(SECRETS)
        finally:
            (self.folder / SECRETS).unlink(missing_ok=True)

    def secret(self, name: str) -> str:
        """A secret that was handed over; empty if it was not."""
        return str(self._secrets.get(name) or "")

    def _read_turn(self) -> Turn:
        if not (self.folder / TURN).exists():
            return Turn()
        facts = self._facts(TURN)
        return Turn(**facts | {"stage": Stage(facts["stage"])})

    def note(self, **changes: Any) -> Turn:
        """Write down what the turn has come to, safe from a power cut."""
        self.turn = replace(self.turn, **changes)
        keeper.save(str(self.folder / TURN), asdict(self.turn))
        crash.point(f"after errand {self.turn.stage}")
        return self.turn

    def callback(self) -> dict[str, Any] | None:
        """What was reported of this run from outside, if anything was."""
        try:
            return self._facts(CALLBACK)
        except FileNotFoundError:
            return None

    def finish(self) -> None:
        """Turn the answer into files and a result. Raises `Invalid` for an answer that cannot be used."""
        said = answer.parse(self.turn.text)
        answer.write(Path(self.job["work_tree"]), said.files)
        for path in said.files:
            say(f"[quarterdeck: wrote {path}]")
        report = said.report()
        if "check_pr_open" in self.job["gates"] and said.pull_request is None:
            item = self.job["item"]
            report["pull_request"] = {"title": f"{item['key']}: {item['title']}"[:300], "body": said.summary}
        self.report(**report)

    def report(self, **report: Any) -> None:
        """Write the run's result."""
        facts = report | {"tokens": self.turn.tokens, "cost_usd": self.turn.cost_usd}
        keeper.save(str(self.folder / RESULT), {name: v for name, v in facts.items() if v is not None})


def say(text: str, end: str = "\n") -> None:
    """Into the run's log, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


Work = Callable[[Errand], Awaitable[None]]


def run(work: Work) -> None:
    """The whole client: `work` brings the turn to its answer; then the answer is used.

    SIGTERM gives the work up: it closes what it has open. Exit codes: 0 done, 1 failed, 143 given up.
    """
    os.umask(0o077)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    errand = Errand(Path(sys.argv[1]))
    try:
        if errand.turn.stage is not Stage.ANSWERED:
            asyncio.run(_until_ended(work, errand))
        errand.finish()
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except QuarterdeckError as error:
        say(f"\n[quarterdeck: {error}]")
        errand.report(error=str(error))
        sys.exit(1)


async def _until_ended(work: Work, errand: Errand) -> None:
    loop, working = asyncio.get_running_loop(), asyncio.ensure_future(work(errand))
    loop.add_signal_handler(signal.SIGTERM, working.cancel)
    calling = asyncio.create_task(_callback(errand))
    await asyncio.wait({working, calling}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, calling):
        task.cancel()
    told = await asyncio.gather(working, calling, return_exceptions=True)
    if not calling.cancelled() and calling.exception() is None:
        _take(errand, calling.result())
    elif isinstance(told[0], BaseException):
        raise told[0]


async def _callback(errand: Errand) -> Mapping[str, Any]:
    """What is reported from outside, as soon as it is."""
    while (told := errand.callback()) is None:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.2)
    return told


def _take(errand: Errand, told: Mapping[str, Any]) -> None:
    say("[quarterdeck: the run was reported as finished]")
    if told.get("error"):
        raise Invalid(f"The agent reported an error: {told['error']}")
    errand.turn = errand.turn.with_usage(told.get("tokens"), told.get("cost_usd"))
    errand.note(stage=Stage.ANSWERED, text=str(told.get("text") or ""))
