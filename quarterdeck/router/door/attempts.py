"""The life of one request: backend after backend until one answers (sections 4, 6, 8 and 9), then its answer.

Until something of the answer itself has gone to the client, any failure leads to the next backend. After it
the declared policy is: an explicit error event, and the end.
"""

import asyncio
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import structlog

from quarterdeck.kernel.words import counted
from quarterdeck.router.backend import OPENAI, REHEARSAL, Backend, Usage
from quarterdeck.router.door.answers import EVENTS, Header, Refusal, Send, say, seconds, stopping
from quarterdeck.router.door.ask import Ask, Hold, spent
from quarterdeck.router.door.books import Account, Books
from quarterdeck.router.door.continuing import continued
from quarterdeck.router.door.request_log import LOGGER
from quarterdeck.router.door.watch import End, Watch
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream, Way
from quarterdeck.router.limits import rules
from quarterdeck.router.limits.balancer import Admission, Balancer
from quarterdeck.router.ways.connection_failure import in_words

EMERGENCY_ROUNDS = 3
EMERGENCY_PAUSE = 0.25
"""Seconds before the second round; twice as long before the third."""

SHORT_PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"))
"""What backends of the OpenAI dialect are given as it is; all else is translated for them."""

_CHECKED_EVERY = 1024
"""Bytes of a stream between two looks at the client's budget."""

_LEFT_HTTP_ERROR = 499
"""What the log shows for a client that left before an answer (nginx's number for it)."""

_log = structlog.get_logger(LOGGER)


class Line(Protocol):
    """Where requests wait for a backend that can take them (section 6)."""

    async def admit(self, model: str, tried: AbstractSet[str], deadline: float) -> Admission | None:
        """None = full, waited too long, or waiting is of no use."""
        ...


@dataclass(frozen=True, slots=True)
class Ways:
    """How backends are reached."""

    short: Way
    translated: Way
    rehearsal: Way

    def of(self, backend: Backend, path: str) -> Way:
        if backend.api == OPENAI and path in SHORT_PATHS:
            return self.short
        return self.rehearsal if backend.api == REHEARSAL else self.translated


@dataclass(slots=True)
class Hands:
    """What every request works with."""

    balancer: Balancer
    line: Line
    ways: Ways
    books: Books
    emergencies: int = field(default=0)


class OverBudget(Exception):
    """The stream has used what its client may use today."""


class Relay:
    """One request on its way. `run` raises `Refusal` while nothing has been sent to the client."""

    __slots__ = (
        *("_account", "_ask", "_deadline", "_hands", "_is_streaming"),
        *("_now", "_send", "_tried", "_waited", "_watch"),
    )

    def __init__(self, hands: Hands, ask: Ask, watch: Watch, send: Send) -> None:
        self._hands = hands
        self._ask = ask
        self._watch = watch
        self._send = send
        self._now = hands.books.now
        self._tried: set[str] = set()
        self._waited = 0.0
        self._is_streaming = False
        self._account = Account(hands.books, ask)
        self._deadline = ask.began + hands.balancer.tuning.request_deadline_seconds

    async def run(self) -> None:
        try:
            if not await self._through_pools() and not await self._through_emergency():
                raise self._exhausted()
        except Refusal as refusal:
            if not self._is_streaming:
                raise
            await self._close_stream(refusal)
        except asyncio.CancelledError:
            self._account.close(_LEFT_HTTP_ERROR, Outcome.ABORTED)
            if not self._is_streaming or self._watch.end is not End.STOPPING:
                raise
            self._watch.take_back()
            await self._close_stream(stopping())

    async def _through_pools(self) -> bool:
        for _ in range(self._hands.balancer.tuning.max_pool_retries):
            asked = perf_counter()
            admission = await self._hands.line.admit(self._ask.model, self._tried, self._deadline)
            self._waited += perf_counter() - asked
            if admission is None:
                return False
            self._tried.add(admission.backend.id)
            if await self._try(admission):
                return True
        return False

    async def _through_emergency(self) -> bool:
        """Up to three rounds over backends that the pools' limits kept us from (section 9)."""
        hands, model = self._hands, self._ask.model
        if hands.balancer.tuning.emergency_rpm_fraction <= 0:
            return False
        hands.emergencies += 1
        _log.warning("all_pools_exhausted_emergency", request=self._ask.id, model=model)
        for number in range(EMERGENCY_ROUNDS):
            if number:
                await asyncio.sleep(EMERGENCY_PAUSE * number)
            called = set(self._tried)
            while admission := self._admit_emergency(called):
                called.add(admission.backend.id)
                if await self._try(admission):
                    _log.info("emergency_passthrough_success", request=self._ask.id, model=model)
                    return True
            if called == self._tried:
                return False
        return False

    def _admit_emergency(self, called: AbstractSet[str]) -> Admission | None:
        now = self._now()
        if now >= self._deadline:
            return None
        return self._hands.balancer.admit_emergency(self._ask.model, called, now)

    def _exhausted(self) -> Refusal:
        tries = self._account.attempts
        failed = f"{counted(tries, 'attempt')} failed"
        what = failed if tries else "all are limited, resting or out of order"
        wait = self._hands.balancer.back_in(self._ask.model, self._now())
        if wait is None:
            wait = self._hands.balancer.tuning.cooldown_base_seconds
        self._account.close(503, Outcome.UNREACHABLE)
        return Refusal(
            503,
            f"No backend for the model {self._ask.model} could answer: {what}.",
            "all_pools_exhausted",
            "AllPoolsExhausted",
            ((b"retry-after", seconds(wait)),),
        )

    async def _try(self, admission: Admission) -> bool:
        """One attempt. Has the client been answered?"""
        began = self._now()
        if began >= self._deadline:
            self._hands.balancer.unused(admission, began)
            return False
        self._account.begin(admission, began)
        asked = perf_counter()
        try:
            way = self._hands.ways.of(admission.backend, self._ask.path)
            answer = await way.send(self._attempt(admission, self._deadline - began))
        except Failure as failure:
            self._waited += perf_counter() - asked
            return await self._failed(admission, failure)
        except asyncio.CancelledError:
            now = self._now()
            self._hands.balancer.released(admission, now)
            self._account.failed(Failure(Outcome.ABORTED, "The client left."), now)
            raise
        except Exception as error:  # a fault of ours must not keep the backend's slot, nor stop the request
            _log.exception("attempt_broke", request=self._ask.id, backend=admission.backend.id)
            reason = f"The router stumbled: {in_words(error)}."
            return await self._failed(admission, Failure(Outcome.BROKEN, reason))
        self._waited += perf_counter() - asked
        if not isinstance(answer, Answer):
            return await self._stream(admission, answer)
        if self._is_streaming:
            return await self._failed(admission, _no_stream(answer))
        await self._answer(admission, answer)
        return True

    def _attempt(self, admission: Admission, patience: float) -> Attempt:
        ask = self._ask
        return Attempt(
            admission.backend,
            admission.mapping,
            ask.path,
            ask.query,
            ask.headers,
            ask.body,
            ask.is_stream,
            ask.wants_usage,
            patience,
            ask.raw,
        )

    async def _failed(self, admission: Admission, failure: Failure) -> bool:
        """Tell everyone. Only what is wrong in the request itself goes back to the client, as it is."""
        self._tell(admission, failure)
        self._account.failed(failure, self._now())
        if failure.outcome is not Outcome.REFUSED:
            return False
        self._account.close(failure.status, failure.outcome)
        headers = (*self._headers(admission), *failure.passed_on)
        if not failure.body or self._is_streaming:
            message = rules.message_of(failure.body) or failure.reason
            raise Refusal(failure.status, message, "refused", headers=headers)
        self._watch.close()
        kind = failure.content_type.encode("latin-1", "replace")
        await say(self._send, failure.status, failure.body, headers, kind)
        return True

    def _tell(self, admission: Admission, failure: Failure) -> None:
        """What the failure means for the backend, to the balancer and to the log."""
        balancer, now, backend = self._hands.balancer, self._now(), admission.backend
        facts = {"request": self._ask.id, "backend": backend.id, "model": self._ask.model}
        match _meaning(failure):
            case Outcome.REFUSED | Outcome.ABORTED:
                return balancer.released(admission, now)
            case Outcome.LIMITED:
                hint = rules.retry_after(failure.headers, failure.body, now, failure.status or 429)
                balancer.limited(admission, now, hint, rules.summary(failure.body, backend.api_key))
                _log.warning("backend_429_cooldown", **facts, kind=hint.kind.value, hint_seconds=hint.seconds)
            case Outcome.BAD_KEY:
                balancer.bad_key(admission, now, failure.reason)
                _log.error("backend_key_refused", **facts, status=failure.status, reason=failure.reason)
            case Outcome.TIMED_OUT:
                balancer.failed(admission, now, failure.reason)
                _log.warning("backend_timeout", **facts, reason=failure.reason)
            case Outcome.UNREACHABLE:
                balancer.failed(admission, now, failure.reason)
                _log.warning("backend_connection_error", **facts, reason=failure.reason)
            case _:
                balancer.failed(admission, now, failure.reason)
                _log.warning("backend_error", **facts, status=failure.status, reason=failure.reason)
        return None

    def _headers(self, admission: Admission | None) -> tuple[Header, ...]:
        """What the router says about its own part in an answer."""
        spent = max(perf_counter() - self._ask.started - self._waited, 0.0)
        own = (
            (b"x-request-id", self._ask.id.encode()),
            (b"x-quarterdeck-overhead-ms", b"%.3f" % (spent * 1000)),
            (b"x-quarterdeck-attempts", b"%d" % self._account.attempts),
        )
        return own if admission is None else (*own, (b"x-quarterdeck-backend", admission.backend.id.encode()))

    async def _answer(self, admission: Admission, answer: Answer) -> None:
        now = self._now()
        self._hands.balancer.succeeded(admission, now)
        self._account.answered(answer.status, now)
        self._watch.close()
        try:
            headers = (*self._headers(admission), *answer.headers)
            await say(self._send, answer.status, answer.body, headers, answer.content_type.encode())
        finally:
            self._account.end(Outcome.OK, answer.usage, answer.said)

    async def _stream(self, admission: Admission, stream: Stream) -> bool:
        """Pass a stream on to its end. However it ends, it is booked and its connection let go.

        False: it broke off before anything of the answer had come, and another backend may go on.
        """
        self._account.answered(200, self._now())
        failure: Failure | None = None
        outcome = Outcome.ABORTED
        try:
            refusal, failure = await self._pass_on(admission, stream)
            if failure and not stream.is_begun:
                return await self._failed(admission, failure)
            outcome = failure.outcome if failure else Outcome.CUT if refusal else Outcome.OK
            await self._close_stream(refusal)
            return True
        finally:
            await self._let_go(admission, stream, outcome, failure)

    async def _let_go(
        self, admission: Admission, stream: Stream, outcome: Outcome, failure: Failure | None
    ) -> None:
        """After `_failed` it has only its connection."""
        is_over = failure is None or stream.is_begun
        if is_over:
            if failure:
                self._tell(admission, failure)
            elif stream.is_begun or outcome is Outcome.OK:
                self._hands.balancer.succeeded(admission, self._now())
            else:  # it was ended before a word had come
                self._hands.balancer.released(admission, self._now())
            self._account.stream_ended(self._now(), stream.first_content_at)
        try:
            await stream.close()
        finally:
            if is_over:
                self._account.end(outcome, stream.usage, stream.text())

    async def _pass_on(self, admission: Admission, stream: Stream) -> tuple[Refusal | None, Failure | None]:
        """Send all pieces. What remains to be said to the client, and what the backend did wrong."""
        ask = self._ask
        try:
            pieces = stream.pieces()
            if self._is_streaming:
                pieces = continued(pieces)
            else:
                await self._begin_stream(admission, stream)
            async with aclosing(pieces):  # type: ignore[type-var]
                await self._send_all(pieces, admission, stream)
        except Failure as failure:
            message = f"The backend broke off in the middle of its answer: {failure.reason}"
            return Refusal(502, message, "stream_cut"), failure
        except OverBudget:
            return spent("The budget of this key is used up for today; the answer stops here.", 0), None
        except asyncio.CancelledError:
            if self._watch.end is not End.STOPPING:
                raise
            self._watch.take_back()
            return stopping(), None
        except Exception:
            _log.exception("stream_broke", request=ask.id, backend=admission.backend.id)
            unreadable = Failure(Outcome.CUT, "The answer could not be read.")
            return Refusal(502, unreadable.reason, "stream_cut"), unreadable
        return None, None

    async def _begin_stream(self, admission: Admission, stream: Stream) -> None:
        headers = [(b"content-type", EVENTS), *self._headers(admission), *stream.headers]
        self._is_streaming = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_all(self, pieces: Any, admission: Admission, stream: Stream) -> None:
        hold, send, unchecked = self._ask.hold, self._send, 0
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if admission.is_trial and stream.is_begun:
                self._hands.balancer.answered(admission, self._now())
            if hold is None:
                continue
            unchecked += len(piece)
            if unchecked >= _CHECKED_EVERY and not piece.endswith(b"data: [DONE]\n\n"):
                unchecked = 0
                self._check_budget(hold, admission, stream)

    def _check_budget(self, hold: Hold, admission: Admission, stream: Stream) -> None:
        """Raises `OverBudget`. Until the provider tells, a token is taken to be four bytes."""
        tokens, cost = hold.left_tokens, hold.left_cost
        if tokens is None and cost is None:
            return
        usage = Usage(self._ask.prompt_tokens, len(stream.text().encode()) // 4)
        used, charged = usage.prompt + usage.completion, usage.cost(admission.mapping.prices)
        hold.grow(used, charged)
        if (tokens is not None and used > tokens) or (cost is not None and charged > cost):
            raise OverBudget

    async def _close_stream(self, refusal: Refusal | None) -> None:
        self._watch.close()
        last = refusal.event(self._ask.path) if refusal else b""
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


def _no_stream(answer: Answer) -> Failure:
    """What a whole answer is to a client that has the beginning of a stream."""
    reason = "The answer is no stream, and one has begun."
    return Failure(Outcome.BROKEN, reason, answer.status, is_charged=True, usage=answer.usage)


def _meaning(failure: Failure) -> Outcome:
    """What it means for the backend: a limit that is told in the middle of an answer is one all the same."""
    is_cut = failure.outcome is Outcome.CUT
    if is_cut and rules.outcome_of(failure.status, failure.body) is Outcome.LIMITED:
        return Outcome.LIMITED
    return failure.outcome
