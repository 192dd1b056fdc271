"""The client of a run of the `openclaw` runtime.

Before it asks, and whenever a connection breaks, it looks into the session's history: an answer that is
there is taken, a turn that goes on is waited for, and only what surely is not under way is asked (again).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from quarterdeck.crew import prompt
from quarterdeck.crew.errand import Errand, Stage, run, say
from quarterdeck.crew.openclaw import Address, Gateway, whole
from quarterdeck.crew.openclaw_history import Progress, Seen, seen
from quarterdeck.kernel.errors import Conflict, QuarterdeckError, Unavailable

T = TypeVar("T")

LOOK = 0.5
"""Seconds between looks into a history."""

SETTLE = 3.0
"""Seconds in which a turn that was cut off is in the history, if it ever began."""

MOST_TRIES = 5
GOODBYE = 5.0

NOTHING = ("NO_REPLY", "No response from OpenClaw.")
"""What stands there when an agent says nothing: its own word for that, and the gateway's."""

AGAIN = "You were asked this before, and your turn was interrupted. Go on where you stopped."


class Conversation:
    """One run's turn in a session of the gateway."""

    def __init__(self, errand: Errand, gateway: Gateway) -> None:
        self._errand = errand
        self._gateway = gateway
        self._order = errand.order
        self._mark = prompt.mark(errand.job)
        self._by_hook = self._order["route"] == "hooks"
        self._was_refused = False
        self._goes_on = False
        """Is the turn surely under way at the gateway?"""
        self._joins = False
        """Is the same question to be repeated, because the gateway may be at it?"""
        prefix = self._order["session_prefix"]
        if prefix is None:
            prefix = "hook:" if self._by_hook else ""
        self.session = f"{prefix}task:{errand.job['item']['key']}"
        self._whole_session = whole(self.session, self._order["agent_id"])

    async def hold(self) -> None:
        """Bring the turn to its answer; however often it must be taken up."""
        if self._errand.turn.stage is not Stage.NEW:
            say("[quarterdeck: looking for what became of the turn]")
            if await self._found():
                return
        while True:
            try:
                await self._ask()
                return
            except Unavailable as error:
                say(f"\n[quarterdeck: {error.detail}]")
                self._was_refused, problem = "status" in error.data, error
            if await self._found():
                return
            if self._errand.turn.tries >= MOST_TRIES and not self._goes_on:
                raise problem

    async def _ask(self) -> None:
        if not self._joins:
            await self._make_question()
        elif not self._goes_on:
            self._errand.note(tries=self._errand.turn.tries + 1)
        message = prompt.message(self._errand.job)
        if self._errand.turn.is_again:
            message = f"{self._mark} {AGAIN}\n\n{message}"
        await (self._by_hooks(message) if self._by_hook else self._by_chat(message))

    async def _make_question(self) -> None:
        turn = self._errand.turn
        is_again = turn.tries > 0 and (await self._look()).progress is not Progress.ABSENT
        self._errand.note(
            stage=Stage.INTENT, tries=turn.tries + 1, question=turn.question + 1, is_again=is_again
        )

    async def _by_chat(self, message: str) -> None:
        said = await self._gateway.ask(
            message,
            agent_id=self._order["agent_id"],
            session_key=self.session,
            system=prompt.system(self._errand.job),
            begun=lambda: self._errand.note(stage=Stage.SENT),
        )
        told = await self._settled(_is_over, SETTLE)
        if told.progress is Progress.FAILED:
            raise self._failed(told)
        self._take(
            Seen(Progress.ANSWERED, said.text or told.text, told.tokens or said.tokens, told.cost), said.id
        )

    async def _by_hooks(self, message: str) -> None:
        """The words of a hook's turn come from the history: the hook itself never tells them."""
        until = time.monotonic() + self._order["busy_seconds"]
        words = f"{prompt.system(self._errand.job)}\n\n{message}".strip()
        while True:
            key = f"quarterdeck-run-{self._errand.job['run_id']}-{self._errand.turn.question}"
            self._errand.note(stage=Stage.SENT)
            try:
                run_id, status = await self._gateway.run_agent(
                    words,
                    agent_id=self._order["agent_id"],
                    session_key=self.session,
                    key=key,
                    seconds=self._errand.job["limit_seconds"],
                )
                break
            except Unavailable as error:
                if error.data.get("status") not in (429, 503):
                    raise
                await self._while_busy(error, until)
            self._errand.note(question=self._errand.turn.question + 1)  # what was refused cannot be joined
        told = await self._settled(_is_over, SETTLE)
        if status == "error" or told.progress is Progress.FAILED:
            raise self._failed(told)
        say(told.text)
        self._take(told, run_id)

    async def _while_busy(self, busy: Unavailable, until: float) -> None:
        """Wait for a session that is at work: with our own turn, which is let go on, or with something else.

        Raises `busy` once our turn is over, or when the other work was waited for long enough.
        """
        if (await self._look()).progress is not Progress.ABSENT:
            say("[quarterdeck: the turn goes on; waited for]")
            if _is_over(await self._settled(_is_over, self._order["busy_seconds"])):
                raise busy
        elif (left := until - time.monotonic()) <= 0:
            raise busy
        else:
            say("[quarterdeck: the session is busy; asked again]")
            await asyncio.sleep(min(float(busy.data.get("retry_after") or 1), max(left, 1)))

    async def _found(self) -> bool:
        """Is there an answer already, or does one come without us? True: it was taken.

        A gateway that was restarted since takes the turn up by itself; one that was not goes on with a
        hook's turn, which the same words with the same key join, and has ended a chat's with its caller.
        """
        began = time.time()
        was_restarted = await self._was_restarted()
        patience = float(self._order["resume_seconds"]) if was_restarted else SETTLE
        turn = await self._settled(_is_over, patience)
        can_join = self._by_hook and not was_restarted
        self._goes_on = can_join and turn.progress is Progress.OPEN
        self._joins = self._goes_on or (can_join and not self._was_refused)
        if turn.progress is Progress.FAILED:
            raise self._failed(turn)
        if turn.progress is Progress.ANSWERED:
            say(turn.text)
            self._take(turn, "")
            return True
        say(f"[quarterdeck: no answer after {time.time() - began:.0f} s]")
        return False

    async def _was_restarted(self) -> bool:
        asked_at = (self._errand.folder / "turn.json").stat().st_mtime
        return time.time() - await self._patiently(self._gateway.uptime) > asked_at

    async def _settled(self, is_settled: Callable[[Seen], bool], patience: float) -> Seen:
        """The turn as soon as it is as wanted, or when nothing was said for `patience` seconds."""
        turn = await self._patiently(self._look)
        until = time.monotonic() + patience
        while not is_settled(turn) and time.monotonic() < until:
            await asyncio.sleep(LOOK)
            before, turn = turn.size, await self._patiently(self._look)
            if turn.size != before:
                until = time.monotonic() + patience
        return turn

    async def _look(self) -> Seen:
        messages = await self._gateway.history(
            self._whole_session, lambda found: seen(found, self._mark).progress is not Progress.ABSENT
        )
        return seen(messages, self._mark)

    async def _patiently(self, look: Callable[[], Awaitable[T]]) -> T:
        """A gateway that is away is waited for: the run's own limit ends that."""
        while True:
            try:
                return await look()
            except Unavailable as error:
                if error.code == "wrong_answer":
                    raise
                await asyncio.sleep(LOOK)

    def _take(self, turn: Seen, run_id: str) -> None:
        text = "" if turn.text.strip() in NOTHING else turn.text
        self._errand.turn = self._errand.turn.with_usage(turn.tokens, turn.cost)
        self._errand.note(stage=Stage.ANSWERED, text=text, run_id=run_id)

    def _failed(self, turn: Seen) -> Conflict:
        """What it cost is the run's all the same."""
        self._errand.turn = self._errand.turn.with_usage(turn.tokens, turn.cost)
        reason = turn.text[:300] or "it gives no reason"
        return Conflict(
            f"The agent's turn ended in an error: {reason}.", "Look at OpenClaw's log.", code="turn_failed"
        )

    async def leave(self) -> None:
        """A hook's turn goes on without us unless it is told to stop."""
        if self._by_hook and self._errand.turn.stage is Stage.SENT:
            with suppress(QuarterdeckError, TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await self._gateway.abort(self._whole_session)


def _is_over(turn: Seen) -> bool:
    return turn.progress in (Progress.ANSWERED, Progress.FAILED)


async def work(errand: Errand) -> None:
    """The whole run."""
    address = Address(errand.order["url"], errand.secret("token"), errand.secret("hooks_token"))
    silence = errand.order["silence_seconds"]
    gateway = Gateway(address, errand.job["limit_seconds"] if errand.order["route"] == "hooks" else silence)
    conversation = Conversation(errand, gateway)
    try:
        await conversation.hold()
    except asyncio.CancelledError:
        await conversation.leave()
        raise
    finally:
        await gateway.close()


if __name__ == "__main__":
    run(work)
