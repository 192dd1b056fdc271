"""The client of a run of the `model` runtime: asks the router, and keeps what it answers."""

import asyncio
import time
from typing import Any

from quarterdeck.crew import prompt
from quarterdeck.crew.chat_stream import Said, ask, client
from quarterdeck.crew.errand import Errand, Stage, run, say
from quarterdeck.kernel.errors import Conflict, Invalid, QuarterdeckError, Unavailable

MOST_TRIES = 4
PAUSE = 1.0
"""Seconds before the second try, doubled each time."""


async def work(errand: Errand) -> None:
    """Ask until there is a whole answer.

    An answer that was lost with its reader is asked for again: a model remembers nothing, so that costs
    its tokens twice and does nothing else.
    """
    if errand.turn.stage is Stage.SENT:
        say("[quarterdeck: the answer was lost with its reader; asked again]")
    until = time.monotonic() + errand.job["limit_seconds"]
    while True:
        tries = errand.turn.tries + 1
        errand.note(stage=Stage.SENT, tries=tries)
        try:
            said = await _asked(errand)
            break
        except (Unavailable, Conflict) as error:
            wait = pause(error.data.get("retry_after"), tries, until - time.monotonic())
            if tries >= MOST_TRIES or wait is None or not _may_pass(error):
                raise
            say(f"\n[quarterdeck: {error.detail} Asked again in {wait:g} s.]")
            await asyncio.sleep(wait)
    errand.turn = errand.turn.with_usage(said.tokens, said.cost)
    if said.is_cut:  # half an answer may be half a file
        raise Invalid(
            "The agent's answer was cut off at its limit of tokens.",
            "It was not used. Raise `max_tokens` in the roster, or give it less to do at once.",
        )
    errand.note(stage=Stage.ANSWERED, run_id=said.id, text=said.text)


def pause(told: float | None, tries: int, left: float) -> float | None:
    """Seconds until it is asked again: as many as were asked for, else a growing number.

    None: the run, of which so many are `left`, would be over by then.
    """
    wait = float(told or PAUSE * 2**tries)
    return wait if wait < left else None


def _may_pass(error: QuarterdeckError) -> bool:
    """Can it be different in a moment? A key that was made just now is not known to the router yet."""
    return isinstance(error, Unavailable) or error.data.get("status") == 401


async def _asked(errand: Errand) -> Said:
    order, job = errand.order, errand.job
    headers = {
        "Authorization": f"Bearer {errand.secret('key')}",
        "X-Quarterdeck-Agent": job["agent"]["slug"],
        "X-Quarterdeck-Item": job["item"]["key"],
    }
    given = ("model", "temperature", "max_tokens")
    body: dict[str, Any] = {name: order[name] for name in given if name in order}
    system, task = prompt.system(job), prompt.message(job)
    body["messages"] = [{"role": "system", "content": system}] if system else []
    body["messages"].append({"role": "user", "content": task})
    async with client("the router", order["url"], order["silence_seconds"]) as router:
        return await ask(router, "/v1/chat/completions", body, headers)


if __name__ == "__main__":
    run(work)
