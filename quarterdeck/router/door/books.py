"""What is written down of a request: a call per attempt, the client's budget, a line in the log.

Book-keeping never raises into a request, and never makes one be sent again.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import structlog

from quarterdeck.router.backend import Prices, Usage
from quarterdeck.router.call import NOTHING, Book, Call
from quarterdeck.router.door.ask import Ask, RequestIds
from quarterdeck.router.door.request_log import LOGGER, Entry, RequestLog
from quarterdeck.router.exchange import Failure, Outcome
from quarterdeck.router.limits.balancer import Admission
from quarterdeck.router.ways.counting import estimate

_log = structlog.get_logger(LOGGER)


class TokenCounter(Protocol):
    """Counts what a provider did not tell."""

    async def count(self, native_id: str, path: str, body: Mapping[str, Any], text: str) -> Usage: ...


class Books:
    """Everything that is written, and the tasks that still count tokens for it.

    `refused` is told of each request of a client that reached no backend, and how it ended.
    """

    def __init__(
        self,
        book: Book,
        counter: TokenCounter,
        log: RequestLog,
        now: Callable[[], float],
        refused: Callable[[Outcome], None],
    ) -> None:
        self.now = now
        self.refused = refused
        self.ids = RequestIds()
        self.log = log
        self._book = book
        self._counter = counter
        self._counting: set[asyncio.Task[None]] = set()

    def record(self, call: Call) -> None:
        try:
            self._book.record(call)
        except Exception:
            _log.exception("call_not_recorded", request=call.request)

    def record_counted(self, call: Call, prices: Prices, usage: Usage) -> None:
        """The same with tokens that had to be counted first."""
        self.record(replace(call, usage=usage, cost=usage.cost(prices)))

    def count_later(self, admission: Admission, ask: Ask, text: str, then: Callable[[Usage], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._count(admission, ask, text, then))
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def _count(self, admission: Admission, ask: Ask, text: str, then: Callable[[Usage], None]) -> None:
        usage: Usage | None = None
        try:
            usage = await self._counter.count(admission.mapping.native_id, ask.path, ask.body, text)
        except Exception:
            _log.exception("tokens_not_counted", request=ask.id)
        finally:
            then(usage or estimate(ask.body, text))

    async def close(self, limit: float) -> None:
        """Let counting end; of what takes longer the tokens are estimated."""
        if self._counting:
            _, late = await asyncio.wait(self._counting, timeout=limit)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self.log.flush()


class Account:
    """The books of one request. An attempt is written when it is known whether it was the last one."""

    __slots__ = (
        "_admission",
        "_ask",
        "_began",
        "_books",
        "_charged",
        "_charged_cost",
        "_first",
        "_is_closed",
        "_is_uncounted",
        "_pending",
        "_status",
        "_took",
        "attempts",
    )

    def __init__(self, books: Books, ask: Ask) -> None:
        self.attempts = 0
        self._status = 0
        self._books = books
        self._ask = ask
        self._admission: Admission | None = None
        self._began = 0.0
        self._took = 0.0
        self._first: int | None = None
        self._pending: Callable[..., Call] | None = None
        self._is_closed = False
        self._is_uncounted = False
        self._charged = self._charged_cost = 0

    def begin(self, admission: Admission, now: float) -> None:
        self._write_pending(is_answer=False)
        self.attempts += 1
        self._admission = admission
        self._began = now

    def failed(self, failure: Failure, now: float) -> None:
        """The attempt gave nothing that the client could use."""
        self._took = now - self._began
        usage = failure.usage or NOTHING
        self._pending = partial(self._call, outcome=failure.outcome, status=failure.status, usage=usage)
        self._is_uncounted = failure.is_charged and failure.usage is None
        if failure.is_charged and self._admission is not None:
            charged = failure.usage or Usage(self._ask.prompt_tokens)
            self._charged += charged.total or charged.prompt + charged.completion
            self._charged_cost += charged.cost(self._admission.mapping.prices)

    def answered(self, status: int, now: float) -> None:
        """There is an answer, or a stream has begun."""
        self._status = status
        self._took = now - self._began

    def stream_ended(self, now: float, first_content: float | None) -> None:
        self._took = now - self._began
        self._first = None if first_content is None else int((first_content - self._began) * 1000)

    def end(self, outcome: Outcome, usage: Usage | None, text: str) -> None:
        """The answer is over. Where the provider told no tokens, they are counted first."""
        if usage is not None:
            self._finish(outcome, usage)
            return
        assert self._admission is not None
        self._is_closed = True
        self._books.count_later(self._admission, self._ask, text, partial(self._finish, outcome))

    def _finish(self, outcome: Outcome, usage: Usage) -> None:
        call = self._call(outcome=outcome, status=self._status, usage=usage, is_answer=True)
        self._books.record(call)
        self._settle(usage.total or usage.prompt + usage.completion, call.cost)
        self._is_closed = True
        self._note(self._status, outcome, usage, call.cost)

    def close(self, status: int, outcome: Outcome) -> None:
        """The request is over without an answer of a backend, or with its refusal."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self.attempts:
            self._books.refused(outcome)
        self._write_pending(is_answer=True)
        self._settle(0, 0)
        self._note(status, outcome, NOTHING, 0)

    def _write_pending(self, *, is_answer: bool) -> None:
        if self._pending is None:
            return
        call, self._pending = self._pending(is_answer=is_answer), None
        if self._is_uncounted and self._admission is not None:
            counted = partial(self._books.record_counted, call, self._admission.mapping.prices)
            self._books.count_later(self._admission, self._ask, "", counted)
        else:
            self._books.record(call)

    def _settle(self, tokens: int, cost: int) -> None:
        """Streams that broke off count with what was asked: they are charged, too."""
        if self._ask.hold is None:
            return
        try:
            self._ask.hold.settle(tokens + self._charged, cost + self._charged_cost)
        except Exception:
            _log.exception("budget_not_settled", request=self._ask.id)

    def _call(self, *, outcome: Outcome, status: int, usage: Usage, is_answer: bool) -> Call:
        ask, admission = self._ask, self._admission
        assert admission is not None
        return Call(
            self._books.ids("cal"),
            self._began,
            ask.id,
            self.attempts,
            is_answer,
            admission.backend.id,
            admission.backend.pool,
            admission.is_emergency,
            ask.model,
            ask.caller,
            outcome,
            status,
            ask.is_stream,
            usage,
            usage.cost(admission.mapping.prices),
            int(self._took * 1000),
            self._first,
        )

    def _note(self, status: int, outcome: Outcome, usage: Usage, cost: int) -> None:
        log, ask, admission = self._books.log, self._ask, self._admission
        if not log.is_on:
            return
        now = self._books.now()
        log.add(
            Entry(
                now,
                ask.id,
                ask.model,
                status,
                outcome,
                admission.backend.id if admission else "",
                admission.backend.pool if admission else "",
                self.attempts,
                ask.is_stream,
                usage.total or usage.prompt + usage.completion,
                cost,
                int((now - ask.began) * 1000),
                ask.caller.client_id,
                ask.caller.agent,
                ask.caller.item,
            )
        )
