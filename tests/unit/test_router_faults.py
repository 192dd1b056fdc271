"""The fault wall: what a client gets, who was called, what the ledger says, for everything that can go wrong.

`EXPECTED` is what the provider-router specification (sections 7, 8, 11) and the issue ask for. The page
`docs/reference/router-faults.md` holds what was seen.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import httpx
import pytest

from quarterdeck.router import steady
from quarterdeck.router.backend import Backend, Limit, Pool, Status
from quarterdeck.router.call import Call
from quarterdeck.router.limits.rules import ACCOUNT_SECONDS, DAY
from quarterdeck.router.limits.standing import View
from quarterdeck.router.ways.litellm_way import LiteLLMWay
from tests.fakes.fault_page import CASES, PAGE, Case, Seen, read, render
from tests.fakes.provider import FAULTS, FakeProvider
from tests.fakes.provider_faults import WAIT, K, tomorrow
from tests.fakes.provider_invoice import WORDS, prose
from tests.fakes.served_router import KEY, Served, backend

APIS = {"direct": "openai-completions", "LiteLLM": "anthropic-messages"}
WRITES = os.environ.get("QUARTERDECK_WRITE_PAGES") == "1"

ASK = [{"role": "user", "content": "is the ship at sea"}]
WHOLE = "12+12"
WHOLE_STREAM = "12 tokens, `[DONE]`"
HEALTHY, DEGRADED, BAD_KEY = "healthy", "degraded", "error"


@dataclass
class Page:
    """The page as it is; with `QUARTERDECK_WRITE_PAGES=1` as it will be."""

    written: dict[Case, Seen] = field(default_factory=dict)

    def of(self, fault: str, found: dict[Case, Seen]) -> dict[Case, Seen]:
        if WRITES:
            self.written |= found
        return {case: said for case, said in self.written.items() if case.fault == fault}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    page = Page(read(PAGE.read_text("utf-8")) if PAGE.exists() else {})
    yield page
    if WRITES:
        PAGE.write_text(render(page.written), "utf-8")


@dataclass(frozen=True)
class Expected:
    """By kind of request; what LiteLLM's way does otherwise, and only that, is said separately."""

    plain: Seen | None
    stream: Seen
    litellm_plain: Seen | None = None
    litellm_stream: Seen | None = None

    def of(self, case: Case) -> Seen:
        special = self.litellm_plain if case.kind == "plain" else self.litellm_stream
        usual = self.plain if case.kind == "plain" else self.stream
        found = special if case.way == "LiteLLM" and special else usual
        assert found is not None
        return found


def served(mark: str = "") -> Expected:
    """A good answer, whatever was odd about it."""
    ledger = f"`ok` {mark}{WHOLE} = invoice"
    seen = Seen("the whole answer", "1, 0", ledger, HEALTHY)
    return Expected(seen, seen)


def failed_over(outcome: str, backend: str, calls: str = "1, 1") -> Expected:
    """The first backend failed before its first event: the second one answers."""
    ledger = f"`{outcome}` 0+0; `ok` {WHOLE} = invoice"
    seen = Seen("the second backend's whole answer", calls, ledger, backend)
    return Expected(seen, seen)


def refused(status: int) -> Expected:
    """The request itself is wrong: another backend would say the same."""
    seen = Seen(f"{status} with the provider's message", "1, 0", "`refused` 0+0", HEALTHY)
    return Expected(seen, seen)


def broken_off(outcome: str, tokens: int = K, ledger: str = " = invoice") -> Seen:
    """After the first token there is no other backend; the client is told."""
    return Seen(
        f"{tokens} tokens, then an error event", "1, 0", f"`{outcome}` ~12+{tokens}{ledger}", DEGRADED
    )


def in_the_middle(plain: str, stream: str) -> Expected:
    """A plain answer that breaks has given the client nothing yet."""
    return Expected(failed_over(plain, DEGRADED).plain, broken_off(stream))


def before_tokens(outcome: str) -> Expected:
    """The first event of the OpenAI dialect is for the client; Anthropic's begins with some that are not."""
    over = failed_over(outcome, DEGRADED)
    ledger = f"`{outcome}` ~12+0 = invoice; `ok` 12+12 = invoice"
    litellm = replace(over.stream, ledger=ledger)
    return Expected(over.plain, replace(litellm, client="the whole answer"), litellm_stream=litellm)


def cooling(what: str) -> Expected:
    return failed_over("limited", f"cooling, {what}")


EXPECTED: dict[str, Expected] = {
    "ok": served(),
    "429": cooling("rate, 30 s"),
    "429-seconds": cooling("rate, 7 s"),
    "429-date": cooling("rate, 7 s"),
    "429-huge": cooling("rate, 24 h"),
    "429-negative": cooling("rate, 30 s"),
    "429-text": cooling("rate, 30 s"),
    "429-quota": cooling("quota, until the date"),
    "429-account": cooling("account, 1 h"),
    "400-account": cooling("account, 1 h"),
    "400": refused(400),
    "401": failed_over("bad_key", BAD_KEY),
    "403": failed_over("bad_key", BAD_KEY),
    "404": refused(404),
    "408": failed_over("broken", DEGRADED),
    "500": failed_over("broken", DEGRADED),
    "502": failed_over("broken", DEGRADED),
    "503": failed_over("broken", DEGRADED),
    "529": failed_over("broken", DEGRADED),
    "reset": failed_over("unreachable", DEGRADED),
    "hang": failed_over("timed_out", DEGRADED),
    "slow-headers": served(),
    "cut-after-headers": failed_over("unreachable", DEGRADED),
    "cut-before-tokens": before_tokens("unreachable"),
    "cut-after-tokens": in_the_middle("unreachable", "cut"),
    "ends-early": in_the_middle("unreachable", "cut"),
    "stall-after-headers": failed_over("timed_out", DEGRADED),
    "stall-before-tokens": before_tokens("timed_out"),
    "stall-after-tokens": in_the_middle("timed_out", "timed_out"),
    "malformed": Expected(failed_over("broken", DEGRADED).plain, broken_off("cut", ledger="")),
    "no-done": served(),
    "usage-inline": served(),
    "usage-absent": served("~"),
    "usage-null": served("~"),
    "usage-apart": served(),
    "duplicate-chunk": Expected(None, replace(served().stream, client="13 tokens, `[DONE]`")),
    "huge-line": served(),
    "gzip": served(),
    "html": failed_over("broken", DEGRADED),
    "json-error-to-stream": refused(400),
    "error-event-first": failed_over("broken", DEGRADED),
    "error-event-later": Expected(None, broken_off("cut")),
    "empty": failed_over("broken", DEGRADED),
    "tls-to-plain": failed_over("unreachable", DEGRADED, "0, 1"),
    "tls-self-signed": failed_over("unreachable", DEGRADED, "0, 1"),
    "dns": failed_over("unreachable", DEGRADED, "0, 1"),
}


def pair(case: Case, provider: FakeProvider) -> list[Backend]:
    """The one that fails, and the one that is well. The provider's name of the model selects the fault."""
    doors = {"first": provider.base(case.fault), "second": provider.url}
    pools = {"first": Pool.PRIMARY, "second": Pool.FALLBACK}
    return [
        backend(
            doors[place] + ("/v1" if case.way == "direct" else ""),
            str(case),
            name=named(case, place),
            native=native(case, place),
            api=APIS[case.way],
            pool=pools[place],
            timeout_seconds=1 if case.fault.startswith(("hang", "stall")) else 10,
        )
        for place in ("first", "second")
    ]


def named(case: Case, place: str) -> str:
    return f"{place}-{case}"


def native(case: Case, place: str) -> str:
    return f"{case.fault if place == 'first' else 'ok'}@{named(case, place)}"


# What the client gets


async def told(http: httpx.AsyncClient, case: Case) -> str:
    """In words."""
    body = {"model": str(case), "messages": ASK, "stream": case.kind == "stream"}
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        by_second = answer.headers.get("x-quarterdeck-backend") == f"bkd_{named(case, 'second')}"
        whose = "the second backend's" if by_second else "the"
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.status_code == 200
            said = await stream_told(answer, case)
            return f"{whose} whole answer" if said == WHOLE_STREAM else said
        content = json.loads(await answer.aread())
    if answer.status_code == 200:
        assert content["model"] == str(case)
        assert shortened(content["choices"][0]["message"]["content"]) == "".join(prose(12))
        return f"{whose} whole answer"
    assert content["error"]["message"].endswith(MESSAGES[case.fault])
    return f"{answer.status_code} with the provider's message"


MESSAGES = {
    "400": "Invalid value for 'temperature'.",
    "404": "The model does not exist.",
    "json-error-to-stream": "Streaming is not supported by this model.",
}


def shortened(text: str) -> str:
    """With the huge word as it would be."""
    return " ".join(word if len(word) < 100 else WORDS[K - 1] for word in text.split(" "))


async def stream_told(answer: httpx.Response, case: Case) -> str:
    """How many tokens came, and how the stream ended. Nothing may come after the end."""
    tokens, ends = [], []
    async for line in answer.aiter_lines():
        if not line.startswith("data:"):
            continue
        assert ends == []
        data = line[5:].strip()
        if data == "[DONE]":
            ends.append("`[DONE]`")
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            ends.append("then an error event")
            assert chunk["error"]["message"] and chunk["error"]["type"]
            continue
        assert chunk["model"] == str(case)
        tokens += [c["delta"]["content"] for c in chunk["choices"] if c["delta"].get("content")]
    again = prose(12)[K - 1 :] if case.fault == "duplicate-chunk" else prose(12)[K:]
    whole = [*prose(K), *again]
    assert shortened("".join(tokens)) == "".join(whole[: len(tokens)])
    return f"{len(tokens)} tokens, {ends[0] if ends else 'and silence'}"


# What the others say


def calls_told(case: Case, provider: FakeProvider) -> str:
    return ", ".join(str(len(provider.to(native(case, place)))) for place in ("first", "second"))


def ledger_told(case: Case, calls: list[Call], provider: FakeProvider) -> str:
    return "; ".join(entry_told(call, case, provider) for call in calls if call.model == str(case))


def entry_told(call: Call, case: Case, provider: FakeProvider) -> str:
    place = "first" if call.backend_id == f"bkd_{named(case, 'first')}" else "second"
    usage, charged = call.usage, provider.invoice.tokens(native(case, place))
    mark = "~" if usage.is_estimate else ""
    cost = provider.invoice.picodollars(native(case, place))
    is_equal = (usage.prompt, usage.completion, call.cost) == (charged.prompt, charged.completion, cost)
    invoice = " = invoice" if is_equal and cost else ""
    return f"`{call.outcome}` {mark}{usage.prompt}+{usage.completion}{invoice}"


def backend_told(view: View, now: float) -> str:
    if view.status is Status.COOLING:
        assert view.until is not None and view.kind is not None and view.reason
        return f"cooling, {view.kind}, {wait_told(view.kind, view.until - now)}"
    if view.status is Status.HEALTHY:
        return view.health.value
    return view.status.value


def wait_told(kind: Limit, seconds: float) -> str:
    """The nearest of what may be meant."""
    known = {30.0: "30 s", WAIT: f"{WAIT} s", ACCOUNT_SECONDS: "1 h", DAY: "24 h"}
    if kind is Limit.QUOTA:
        known = {(tomorrow() - datetime.now(UTC)).total_seconds(): "until the date"}
    nearest = min(known, key=lambda one: abs(one - seconds))
    assert abs(nearest - seconds) < 4, seconds
    return known[nearest]


# The wall


async def seen(fault: str) -> dict[Case, Seen]:
    """All cases of one fault, side by side in one router."""
    cases = [case for case in CASES if case.fault == fault]
    translated = LiteLLMWay(steady.now)
    await translated.prepare()
    async with FakeProvider(keys=[KEY]) as provider:
        backends = [one for case in cases for one in pair(case, provider)]
        async with Served(backends, translated=translated, emergency_rpm_fraction=0) as router:
            said = await asyncio.gather(*(told(router.http, case) for case in cases))
            now = steady.now()
            views = [router.balancer.view(f"bkd_{named(case, 'first')}", now) for case in cases]
        await translated.close()
        return {
            case: Seen(
                client,
                calls_told(case, provider),
                ledger_told(case, router.calls, provider),
                backend_told(view, now),
            )
            for case, client, view in zip(cases, said, views, strict=True)
        }


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_does_what_is_asked_for_and_the_page_says_so(fault: str, page: Page) -> None:
    found = await seen(fault)
    assert found == {case: EXPECTED[case.fault].of(case) for case in found}
    assert found == page.of(fault, found)


def test_every_fault_has_its_place_on_the_page() -> None:
    assert list(EXPECTED) == list(FAULTS)
    if not WRITES:
        text = PAGE.read_text("utf-8")
        written = read(text)
        assert sorted(written) == sorted(CASES)
        assert text == render(written)


# The other dialects

BODIES = {
    "/v1/messages": {"messages": ASK, "max_tokens": 99},
    "/v1/responses": {"input": "is the ship at sea"},
}
ENDS = {"/v1/messages": {"message_stop"}, "/v1/responses": {"response.completed"}}
BROKEN = ["cut-after-tokens", "ends-early", "stall-after-tokens", "malformed", "error-event-later"]


async def last_event(http: httpx.AsyncClient, path: str, model: str) -> str:
    """The name of a stream's last event."""
    body = BODIES[path] | {"model": model, "stream": True}
    async with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        events = [line[7:] async for line in answer.aiter_lines() if line.startswith("event: ")]
    assert [event for event in events if "delta" in event]
    assert "error" not in events[:-1]
    return events[-1]


@pytest.mark.parametrize("fault", [*BROKEN, "no-done", "ok"])
@pytest.mark.parametrize("path", BODIES)
async def test_no_stream_of_another_dialect_ends_in_silence(path: str, fault: str) -> None:
    cases = [Case(fault, way, "stream") for way in APIS]
    translated = LiteLLMWay(steady.now)
    await translated.prepare()
    async with FakeProvider(keys=[KEY]) as provider:
        backends = [pair(case, provider)[0] for case in cases]
        async with Served(backends, translated=translated, emergency_rpm_fraction=0) as router:
            ends = await asyncio.gather(*(last_event(router.http, path, str(case)) for case in cases))
            await router.until(lambda: len(router.calls) == len(cases))
    await translated.close()
    wanted = {"error"} if fault in BROKEN else ENDS[path] if fault == "ok" else {"error"} | ENDS[path]
    assert set(ends) <= wanted
    assert {call.outcome == "ok" for call in router.calls} == {end != "error" for end in ends}
