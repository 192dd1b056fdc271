"""From one backend to the next: what is tried, how often, and what the client gets in the end."""

import asyncio
from typing import Any

import pytest

from quarterdeck.router import steady
from quarterdeck.router.backend import Pool, Status
from quarterdeck.router.call import Call
from quarterdeck.router.config import Tuning
from quarterdeck.router.exchange import Answer, Attempt, Failure, Outcome, Stream
from quarterdeck.router.limits.balancer import Balancer
from tests.fakes.provider import FAULTS, FakeProvider
from tests.fakes.served_router import CHAT, MemoryBook, Served, asked, backend

OUTCOMES = {
    "429": Outcome.LIMITED,
    "429-account": Outcome.LIMITED,
    "400-account": Outcome.LIMITED,
    "401": Outcome.BAD_KEY,
    "403": Outcome.BAD_KEY,
    "408": Outcome.BROKEN,
    "500": Outcome.BROKEN,
    "502": Outcome.BROKEN,
    "503": Outcome.BROKEN,
    "529": Outcome.BROKEN,
    "reset": Outcome.UNREACHABLE,
    "malformed": Outcome.BROKEN,
    "cut-before-tokens": Outcome.UNREACHABLE,
    "html": Outcome.BROKEN,
    "empty": Outcome.BROKEN,
    "error-event-first": Outcome.BROKEN,
    "tls-to-plain": Outcome.UNREACHABLE,
    "tls-self-signed": Outcome.UNREACHABLE,
    "dns": Outcome.UNREACHABLE,
}


def failing(provider: FakeProvider, fault: str, **changes: Any) -> Any:
    base = f"{provider.base(fault)}/v1"
    return backend(base, "gpt", name="bad", native=fault, **changes)


@pytest.mark.parametrize(("fault", "outcome"), OUTCOMES.items())
async def test_a_failing_backend_is_booked_and_the_next_one_answers(fault: str, outcome: Outcome) -> None:
    async with FakeProvider() as provider:
        good = backend(provider, "gpt", pool=Pool.FALLBACK)
        async with Served([failing(provider, fault), good]) as router:
            answer = await router.ask("gpt")
            assert answer.status_code == 200
            first, second = router.calls
            assert (first.outcome, first.is_answer, first.attempt) == (outcome, False, 1)
            assert first.status == (int(fault[:3]) if fault[:3].isdigit() else first.status)
            assert (second.outcome, second.is_answer, second.pool) == (Outcome.OK, True, Pool.FALLBACK)
            assert first.request == second.request == answer.headers["x-request-id"]
            assert first.id != second.id
            assert len(provider.to(fault)) == (FAULTS[fault].door == "http")


@pytest.mark.parametrize("fault", ["400", "404"])
async def test_a_request_that_is_wrong_comes_back_as_it_is_and_is_tried_nowhere_else(fault: str) -> None:
    async with FakeProvider() as provider:
        backends = [failing(provider, fault), backend(provider, "gpt", pool=Pool.FALLBACK)]
        async with Served(backends) as router:
            answer = await router.ask("gpt")
            assert answer.status_code == int(fault)
            assert answer.json()["error"]["message"]
            assert answer.headers["content-type"] == "application/json"
            assert len(provider.requests) == 1
            (call,) = router.calls
            assert (call.outcome, call.is_answer, call.status) == (Outcome.REFUSED, True, int(fault))
            assert router.balancer.view("bkd_bad", steady.now()).failures == 0


async def test_a_backend_that_hangs_is_left_after_its_own_time_limit() -> None:
    async with FakeProvider() as provider:
        bad = failing(provider, "hang", timeout_seconds=0.2)
        async with Served([bad, backend(provider, "gpt", pool=Pool.FALLBACK)]) as router:
            began = steady.now()
            assert (await router.ask("gpt")).status_code == 200
            took_ms = (steady.now() - began) * 1000
            assert [call.outcome for call in router.calls] == [Outcome.TIMED_OUT, Outcome.OK]
            assert router.calls[0].latency_ms >= 150
            assert sum(call.latency_ms for call in router.calls) <= took_ms  # each attempt has its own


async def test_no_request_takes_longer_than_its_deadline_over_all_attempts() -> None:
    async with FakeProvider() as provider:
        backends = [
            failing(provider, "hang"),
            backend(provider, "gpt", name="two", native="stall-before-tokens"),
        ]
        async with Served(backends, request_deadline_seconds=0.3) as router:
            began = steady.now()
            assert (await router.ask("gpt")).status_code == 503
            assert steady.now() - began < 8  # not the ten seconds of the backend
            assert [call.outcome for call in router.calls] == [Outcome.TIMED_OUT]


async def test_when_all_have_failed_the_client_is_told_so_and_when_to_come_again() -> None:
    async with FakeProvider() as provider:
        backends = [backend(provider, "gpt", name=name, native="429-seconds") for name in ("a", "b", "c")]
        async with Served(backends) as router:
            answer = await router.ask("gpt")
            assert answer.status_code == 503
            assert answer.json()["error"]["type"] == "AllPoolsExhausted"
            assert 5 <= int(answer.headers["retry-after"]) <= 7
            assert len(provider.requests) == 3
            assert ([call.is_answer for call in router.calls], router.refused) == ([False, False, True], 0)
            assert {router.balancer.view(b.id, steady.now()).status for b in backends} == {Status.COOLING}
            assert router.app.emergencies == 1


async def test_a_request_that_no_backend_may_take_is_counted_though_nothing_is_booked() -> None:
    async with FakeProvider() as provider:
        only = backend(provider, "gpt", rpm_limit=1)
        async with Served([only], queue_max_depth=0, emergency_rpm_fraction=0.0) as router:
            assert (await router.ask("gpt")).status_code == 200
            assert (await router.ask("gpt")).status_code == 503
            assert (len(router.calls), router.refused) == (1, 1)


async def test_no_more_backends_are_tried_than_the_setting_says_and_none_of_them_twice() -> None:
    async with FakeProvider() as provider:
        backends = [backend(provider, "gpt", name=f"n{n}", native=f"m{n}") for n in range(7)]
        for n in range(7):
            provider.script(f"m{n}", ["503", "503", "503", "503"])
        async with Served(backends, max_pool_retries=3, emergency_rpm_fraction=0.0) as router:
            assert (await router.ask("gpt")).status_code == 503
            called = [request.model for request in provider.requests]
            assert len(called) == len(set(called)) == 3


async def test_the_emergency_channel_serves_beyond_the_limit_and_leaves_it_untouched() -> None:
    async with FakeProvider() as provider:
        only = backend(provider, "gpt", rpm_limit=1)
        other = backend(provider, "another", name="other")
        async with Served([only, other], queue_timeout_seconds=0.05) as router:
            assert (await router.ask("gpt")).status_code == 200
            assert (await router.ask("gpt")).status_code == 200
            assert [call.is_emergency for call in router.calls] == [False, True]
            assert router.app.emergencies == 1
            answer = await router.ask("gpt")
            assert answer.status_code == 503
            assert {request.model for request in provider.requests} == {"native-gpt"}
            assert router.balancer.view("bkd_other", steady.now()).level.tokens >= 999


async def test_an_emergency_that_fails_is_booked_and_tried_in_three_rounds_at_most() -> None:
    async with FakeProvider() as provider:
        provider.script("native-gpt", ["ok", "500", "500", "500", "500"])
        only = backend(provider, "gpt", rpm_limit=1)
        async with Served([only], queue_timeout_seconds=0.05, emergency_rpm_fraction=1000) as router:
            assert (await router.ask("gpt")).status_code == 200
            assert (await router.ask("gpt")).status_code == 503
            assert [call.outcome for call in router.calls[1:]] == [Outcome.BROKEN] * (
                len(provider.requests) - 1
            )
            assert 1 <= len(provider.requests) - 1 <= 3
            assert [call.is_answer for call in router.calls[1:]][-1:] == [True]


class BrokenBook(MemoryBook):
    """One whose pages are full."""

    def record(self, call: Call) -> None:
        super().record(call)
        raise OSError("no space left")


async def test_a_failure_to_book_never_reaches_the_client_nor_sends_anything_twice() -> None:
    async with FakeProvider() as provider:
        provider.script("native-gpt", ["500"])
        backends = [backend(provider, "gpt"), backend(provider, "gpt", name="two")]
        async with Served(backends, book=BrokenBook()) as router:
            assert (await router.ask("gpt")).status_code == 200
            assert (await router.stream("gpt")).is_complete
            assert len(provider.requests) == len(router.calls) == 3


class BrokenWay:
    """A way with a fault of its own."""

    async def send(self, attempt: Attempt) -> Answer | Stream:
        raise RuntimeError("a fault of ours")

    async def close(self) -> None:
        """Nothing is open."""


async def test_a_fault_of_ours_is_an_attempt_that_failed_and_keeps_no_place() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt")], short=BrokenWay()) as router:
        assert (await router.ask("gpt")).status_code == 503
        assert router.calls[0].outcome is Outcome.BROKEN
        assert router.balancer.view("bkd_one", steady.now()).in_flight == 0


async def test_a_limited_provider_is_obeyed_to_the_second_and_its_words_are_kept_without_secrets() -> None:
    async with FakeProvider() as provider, Served([failing(provider, "429-seconds")]) as router:
        await router.ask("gpt")
        (change,) = [c for c in router.balancer.take_changes() if hasattr(c, "summary")]
        assert (change.count, round(change.seconds)) == (1, 7)
        assert "Rate limit reached" in change.summary


async def test_the_client_that_leaves_ends_the_attempt_at_once() -> None:
    async with FakeProvider() as provider, Served([backend(provider, "gpt", native="hang")]) as router:
        asking = asyncio.create_task(router.ask("gpt"))
        await provider.until(lambda: len(provider.requests) == 1)
        asking.cancel()
        await provider.until(provider.requests[0].over.is_set)
        await router.until(lambda: bool(router.calls))
        (call,) = router.calls
        assert (call.outcome, call.is_answer, call.status) == (Outcome.ABORTED, True, 0)
        view = router.balancer.view("bkd_one", steady.now())
        assert (view.in_flight, view.failures) == (0, 0)
        await router.until(lambda: router.app.open_requests == 0)


async def test_the_client_that_leaves_while_it_waits_takes_no_token_and_calls_nobody() -> None:
    async with FakeProvider() as provider:
        only = backend(provider, "gpt", rpm_limit=1)
        async with Served([only], emergency_rpm_fraction=0.0) as router:
            await router.ask("gpt")
            asking = asyncio.create_task(router.ask("gpt"))
            await router.until(lambda: router.line.depth == 1)
            asking.cancel()
            await router.until(lambda: router.line.depth == 0)
            await router.until(lambda: router.app.open_requests == 0)
            assert len(provider.requests) == len(router.calls) == 1
            assert router.refused_as == [Outcome.ABORTED]


async def test_a_call_waits_for_a_token_and_is_then_served() -> None:
    async with FakeProvider() as provider:
        only = backend(provider, "gpt", rpm_limit=1)
        async with Served([only], emergency_rpm_fraction=0.0) as router:
            await router.ask("gpt")
            asking = asyncio.create_task(router.ask("gpt"))
            await router.until(lambda: router.line.depth == 1)
            router.balancer.adopt([backend(provider, "gpt", rpm_limit=100)], steady.now())
            assert (await asking).status_code == 200


async def test_routing_asks_nobody_but_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor backends are fetched while calls are made: only `adopt` changes them."""
    async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
        monkeypatch.setattr(Balancer, "backends", lambda self: pytest.fail("all backends were read"))
        assert (await router.ask("gpt")).status_code == 200
        assert router.balancer.tuning == Tuning()


async def test_calls_are_spread_over_equal_backends() -> None:
    async with FakeProvider() as provider:
        backends = [backend(provider, "gpt", name=f"n{n}", native=f"m{n}") for n in range(3)]
        async with Served(backends) as router:
            await asyncio.gather(*[router.http.post(CHAT, json=asked("gpt")) for _ in range(12)])
            assert [len(provider.to(f"m{n}")) for n in range(3)] == [4, 4, 4]


async def test_a_failure_has_words_but_no_address() -> None:
    failure = Failure(Outcome.BROKEN, "It broke.")
    assert str(failure) == "It broke."
    async with FakeProvider() as provider, Served([failing(provider, "dns")]) as router:
        answer = await router.ask("gpt")
        assert "provider.invalid" not in answer.text
