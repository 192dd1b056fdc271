"""An agent tried now, without an item: is its far side there, and does it answer? (`quarterdeck agent test`)

An agent that talks is asked a few words in a session of its own, by the same way as in a run: keeper,
client, secrets and all. A program is only looked at: it cannot know that nothing shall be done.
"""

import asyncio
import secrets
import shutil
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from quarterdeck.crew.agent_api import UnexpectedFrame
from quarterdeck.crew.command import in_short
from quarterdeck.crew.model import Agent
from quarterdeck.crew.runtime import Job, Outcome, Runtime
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.errors import Conflict, QuarterdeckError, Unavailable

PROMPT = "This is a test of the connection. Answer with the one word: ready."
EXCERPT = 300
_NUMBERS = range(10**12, 2 * 10**12)
"""Numbers of trials, which no run will ever have."""


class Fault(StrEnum):
    """Why a trial failed."""

    DOWN = "down"  # nobody answers, or says that it cannot now
    REFUSED = "refused"  # it answers, and does not take us or what we ask
    WRONG = "wrong"  # settings that cannot work, or somebody else answers there
    SILENT = "silent"  # reached, and no answer in time
    FAILED = "failed"  # reached, and the answer cannot be used


@dataclass(frozen=True)
class Trial:
    """What became of a trial; `seconds` is how long the answer took."""

    agent: str
    runtime: str
    ok: bool = False
    found: str = ""
    answer: str = ""
    seconds: float | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None
    fault: Fault | None = None
    problem: str = ""
    instruction: str = ""


async def try_agent(crew: Crew, slug: str, *, seconds: float = 60.0, prompt: str = PROMPT) -> Trial:
    """Reach an agent's far side, and ask it. An empty prompt only reaches. Raises `NotFound`."""
    agent = await crew.agent(slug)
    runtime = crew.runtime(agent.runtime)
    trial = Trial(slug, agent.runtime)
    try:
        async with asyncio.timeout(seconds):
            found = await runtime.reach(agent.slug, agent.model, agent.parameters)
    except TimeoutError:
        return replace(trial, fault=Fault.DOWN, problem=f"Nobody answered within {seconds:g} s.")
    except QuarterdeckError as error:
        fault = fault_of(error)
        return replace(trial, fault=fault, problem=error.detail, instruction=error.instruction)
    except ValueError as error:  # Pydantic's are among them
        problem = f"The parameters of agent {slug} are wrong: {in_short(error)}."
        return replace(trial, fault=Fault.WRONG, problem=problem, instruction="Correct them in the roster.")
    trial = replace(trial, found=found, ok=True)
    if not (prompt and runtime.talks):
        return trial
    outcome = await _asked(crew, runtime, agent, timedelta(seconds=seconds), prompt)
    return _ended(trial, outcome, seconds)


def fault_of(error: QuarterdeckError) -> Fault:
    """What an error of reaching means."""
    if isinstance(error, UnexpectedFrame) or error.code == "wrong_answer":
        return Fault.WRONG
    if isinstance(error, Unavailable):
        return Fault.DOWN
    return Fault.REFUSED if isinstance(error, Conflict) else Fault.WRONG


async def _asked(crew: Crew, runtime: Runtime, agent: Agent, limit: timedelta, prompt: str) -> Outcome:
    """One run in a folder that is gone afterwards."""
    number = _NUMBERS[secrets.randbelow(len(_NUMBERS))]
    folder = crew.trial_folder(number)
    await asyncio.to_thread((folder / "tree").mkdir, 0o700, parents=True)
    job = Job(
        run_id=number,
        item_key=f"trial-{agent.slug}",
        title="Test of the connection",
        description="",
        stage="trial",
        round=1,
        prompt=prompt,
        agent=agent.slug,
        model=agent.model,
        system_prompt=agent.system_prompt,
        parameters=agent.parameters,
        folder=folder,
        work_tree=folder / "tree",
        branch="",
        limit=limit,
    )
    try:
        await runtime.start(job)
        return await runtime.wait(folder)
    except asyncio.CancelledError:
        await runtime.stop(folder, "the trial was given up")
        raise
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _ended(trial: Trial, outcome: Outcome, seconds: float) -> Trial:
    took = None
    if outcome.started_at and outcome.ended_at:
        took = round((outcome.ended_at - outcome.started_at).total_seconds(), 2)
    cost = outcome.cost_micro_usd
    known = replace(
        trial,
        ok=outcome.succeeded,
        seconds=took,
        tokens=outcome.tokens,
        cost_usd=None if cost is None else Decimal(cost) / 1_000_000,
        answer=str((outcome.result or {}).get("summary") or "")[:EXCERPT],
    )
    if outcome.succeeded:
        return known
    if outcome.timed_out:
        problem = f"It was reached, but did not answer within {seconds:g} s."
        return replace(known, fault=Fault.SILENT, problem=problem, instruction="Look at its own log.")
    return replace(known, fault=Fault.FAILED, problem=outcome.error or "It ended without an answer.")
