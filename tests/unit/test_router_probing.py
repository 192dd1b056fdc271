"""Probes: what a provider's answer means for its backend."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from quarterdeck.router import steady
from quarterdeck.router.backend import Backend, Health, Mapping, Status
from quarterdeck.router.config import Tuning
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.rules import LimitHint
from quarterdeck.router.limits.standing import HealthChanged
from quarterdeck.router.upkeep.probing import Prober
from tests.fakes.ports import free_port
from tests.fakes.provider import FAULTS, MODELS, OK, FakeProvider

KEY = "sk-right"
TUNING = Tuning(health_check_timeout_seconds=0.3)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(keys=[KEY]) as provider:
        yield provider


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with aiohttp.ClientSession() as session:
        yield Prober(Balancer(TUNING), session, steady.now)


def backend(number: int, url: str, **changes: object) -> Backend:
    made = Backend(f"bkd_{number}", f"Backend {number}", url, KEY, mappings={"m": Mapping("m", "m")})
    return replace(made, **changes)  # type: ignore[arg-type]


def adopt(prober: Prober, *backends: Backend) -> None:
    prober.balancer.adopt(backends, prober.now())


def standing(prober: Prober, identity: str = "bkd_1") -> tuple[Status, Health]:
    view = prober.balancer.view(identity, prober.now())
    return view.status, view.health


@pytest.mark.parametrize("prefix", ["", "/v1", "/v4/"])
async def test_the_list_of_models_is_asked_below_the_base_whatever_it_ends_in(
    provider: FakeProvider, prober: Prober, prefix: str
) -> None:
    adopt(prober, backend(1, provider.url + prefix))
    assert await prober.round() == "1 good"
    expected = {"": "/v1/models", "/v1": "/v1/models", "/v4/": "/v4/models"}[prefix]
    assert [(request.path, request.key) for request in provider.requests] == [(expected, KEY)]


async def test_an_anthropic_backend_is_asked_with_its_own_header(
    provider: FakeProvider, prober: Prober
) -> None:
    adopt(prober, backend(1, provider.url, api="anthropic-messages"))
    assert await prober.round() == "1 good"
    assert provider.requests[0].headers["x-api-key"] == KEY
    assert "authorization" not in provider.requests[0].headers


async def test_a_dialect_whose_models_cannot_be_asked_is_left_alone(
    provider: FakeProvider, prober: Prober
) -> None:
    adopt(prober, backend(1, provider.url, api="bedrock"))
    assert await prober.round() == "nobody to ask"
    assert provider.requests == []


async def test_a_dialect_whose_models_cannot_be_asked_is_tried_by_calls_again(prober: Prober) -> None:
    adopt(prober, backend(1, "http://127.0.0.1:9", api="bedrock"))
    desk = prober.balancer
    for _ in range(3):
        await prober.round()
        admission = desk.admit("m", (), prober.now())
        assert admission is not None
        desk.failed(admission, prober.now(), "no answer")
    assert standing(prober)[1] is Health.DOWN
    assert desk.admit("m", (), prober.now()) is None
    desk.take_changes()
    await prober.round()
    trial = desk.admit("m", (), prober.now())
    assert trial is not None and trial.is_trial
    assert desk.admit("m", (), prober.now()) is None
    (change,) = desk.take_changes()
    assert isinstance(change, HealthChanged) and change.state is Health.DEGRADED
    desk.succeeded(trial, prober.now())
    assert standing(prober) == (Status.HEALTHY, Health.HEALTHY)


async def test_a_refused_key_is_an_error_and_an_accepted_one_lifts_it(
    provider: FakeProvider, prober: Prober
) -> None:
    adopt(prober, backend(1, provider.url, api_key="sk-wrong"))
    await prober.round()
    assert standing(prober)[0] is Status.ERROR
    provider.keys.add("sk-wrong")
    await prober.round()
    assert standing(prober) == (Status.HEALTHY, Health.HEALTHY)


async def test_failures_degrade_and_then_take_a_backend_down_until_one_succeeds(
    provider: FakeProvider, prober: Prober
) -> None:
    adopt(prober, backend(1, provider.url))
    provider.script(MODELS, [FAULTS["500"], FAULTS["hang"], FAULTS["503"], OK])
    seen = []
    for _ in range(4):
        await prober.round()
        seen.append(standing(prober)[1])
    assert seen == [Health.DEGRADED, Health.DEGRADED, Health.DOWN, Health.HEALTHY]


@pytest.mark.parametrize("fault", ["404", "429"])
async def test_an_answer_that_proves_nothing_changes_nothing(
    provider: FakeProvider, prober: Prober, fault: str
) -> None:
    adopt(prober, backend(1, provider.url))
    provider.script(MODELS, [FAULTS["500"], FAULTS[fault]])
    await prober.round()
    await prober.round()
    assert standing(prober) == (Status.HEALTHY, Health.DEGRADED)


async def test_all_are_probed_at_once_and_trouble_with_one_stops_no_other(
    provider: FakeProvider, prober: Prober
) -> None:
    others = [backend(number, provider.url) for number in range(2, 6)]
    adopt(prober, backend(1, "http://127.0.0.1:9"), *others, backend(6, "http://nowhere.invalid"))
    assert await prober.round() == "2 failed, 4 good"
    assert standing(prober, "bkd_1")[1] is Health.DEGRADED
    assert standing(prober, "bkd_5")[1] is Health.HEALTHY


async def test_a_backend_that_is_off_cooling_or_without_a_key_is_not_asked(
    provider: FakeProvider, prober: Prober
) -> None:
    adopt(
        prober,
        backend(1, provider.url, enabled=False),
        backend(2, provider.url),
        backend(3, provider.url, fault="Its key does not open."),
    )
    admission = prober.balancer.admit("m", (), prober.now())
    assert admission is not None
    prober.balancer.limited(admission, prober.now(), LimitHint(), "slow down")
    assert await prober.round() == "nobody to ask"
    assert provider.requests == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refused", "connection refused"),
        ("dns", "the host's name does not resolve"),
        ("tls-self-signed", "self-signed certificate"),
        ("tls-to-plain", "wrong version number"),
    ],
)
async def test_why_a_provider_is_not_reached_is_told_in_words(
    provider: FakeProvider, prober: Prober, fault: str, said: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}" if fault == "refused" else provider.base(fault)
    adopt(prober, backend(1, url))
    assert await prober.round() == "1 failed"
    reason = prober.balancer.view("bkd_1", prober.now()).reason
    assert said in reason and "Error" not in reason and "127.0.0.1" not in reason


async def test_a_silent_provider_costs_the_time_limit_and_no_more(
    provider: FakeProvider, prober: Prober
) -> None:
    adopt(prober, *(backend(number, provider.url) for number in range(1, 9)))
    provider.script(MODELS, [FAULTS["hang"]] * 8)
    async with asyncio.timeout(8 * TUNING.health_check_timeout_seconds):  # not one after another
        assert await prober.round() == "8 failed"
