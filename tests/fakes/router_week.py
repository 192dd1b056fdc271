"""A busy week of a router: everything that its dashboard can show, at once."""

import random
import time

from quarterdeck.router.backend import Limit
from quarterdeck.router.limits.rules import LimitHint
from tests.fakes.router_admin import SmallRouter, iso

MODELS = ("kimi-k2", "glm-4.6", "claude-sonnet", "deepseek-v3", "qwen3-coder")
LIMITED = "Rate limit reached for requests per minute: limit 60, used 60. Please try again in 20s."


def fill(router: SmallRouter) -> None:
    """Six providers, three of them in trouble; a week of usage; three clients."""
    chance = random.Random(1)
    now = time.time()
    backends = _providers(router)
    _troubles(router, now)
    router.totals = {
        "total_requests": 1_284_093,
        "total_errors": 8_123,
        "total_tokens": 2_403_881_223,
        "total_prompt_tokens": 1_900_112_003,
        "total_completion_tokens": 503_769_220,
        "total_cost": 3120.48213,
    }
    router.hourly = [
        _hour(chance, now - hours * 3600, backend, model)
        for hours in range(168)
        for backend, model in zip(backends, MODELS, strict=True)
        if chance.random() < 0.7
    ]
    router.daily = [
        _day(chance, now - days * 86_400, pool) for days in range(30) for pool in ("primary", "fallback")
    ]
    router.events = [_event(chance, n, now - 5000 * n, chance.choice(backends)) for n in range(40)]
    router.calls = [_call(chance, n, now - 7 * n, chance.choice(backends)) for n in range(60)]
    _clients(router)


def _mapped(*models: str) -> dict[str, dict[str, str]]:
    return {model: {"native_id": f"vendor/{model}"} for model in models}


def _providers(router: SmallRouter) -> list[str]:
    many = _mapped("claude-sonnet", *(f"model-{n}" for n in range(311)))
    used = [
        router.add(
            name="NVIDIA A", label="free tier", model_mappings=_mapped("kimi-k2", "glm-4.6", "qwen3-coder")
        ),
        router.add(name="NVIDIA B", model_mappings=_mapped("kimi-k2", "glm-4.6")),
        router.add(name="OpenRouter", label="paid", pool="fallback", rpm_limit=200, model_mappings=many),
        router.add(name="Anthropic direct", label="prod", rpm_limit=60, model_mappings=_mapped("opus")),
        router.add(name="DeepSeek", rpm_limit=120, model_mappings=_mapped("deepseek-v3")),
    ]
    router.add(name="Old account", label="to be removed", pool="fallback", enabled=False)
    return used


def _troubles(router: SmallRouter, now: float) -> None:
    balancer = router.balancer
    for _ in range(30):
        if admission := balancer.admit("qwen3-coder", (), now):
            balancer.succeeded(admission, now)
    if admission := balancer.admit("opus", (), now):
        balancer.limited(admission, now, LimitHint(Limit.RATE), LIMITED)
    if admission := balancer.admit("model-3", (), now):
        balancer.bad_key(admission, now, "401 Unauthorized: the key is not accepted")
    for _ in range(2):
        if admission := balancer.admit("deepseek-v3", (), now):
            balancer.failed(admission, now, "The connection broke before an answer.")


def _hour(chance: random.Random, at: float, backend: str, model: str) -> dict[str, object]:
    count = int(chance.random() * 400)
    return {
        "hour_bucket": iso(at // 3600 * 3600),
        "backend_id": backend,
        "model": model,
        "pool": "primary",
        "request_count": count,
        "error_count": chance.choice([0, 0, 0, 3, 12]),
        "total_tokens": count * 1873,
        "cost": count * 0.0021337,
        "avg_latency_ms": chance.randint(300, 4000),
    }


def _day(chance: random.Random, at: float, pool: str) -> dict[str, object]:
    return {
        "date": iso(at)[:10],
        "pool": pool,
        "total_requests": chance.randint(100, 90_000),
        "total_errors": chance.choice([0, 14]),
        "total_tokens": chance.randint(10**6, 10**8),
        "total_cost": chance.random() * 90,
        "unique_backends": 3,
    }


def _event(chance: random.Random, number: int, at: float, backend: str) -> dict[str, object]:
    return {
        "id": f"cev_{number}",
        "backend_id": backend,
        "consecutive_count": chance.randint(1, 5),
        "cooldown_seconds": 30 * 2 ** chance.randint(0, 4),
        "started_at": iso(at),
        "ended_at": iso(at + 60) if number else None,
        "response_summary": LIMITED if number % 3 else "",
    }


def _call(chance: random.Random, number: int, at: float, backend: str) -> dict[str, object]:
    ends = [("ok", 200)] * 6 + [("limited", 429), ("timed_out", 0), ("broken", 502), ("aborted", 200)]
    outcome, status = chance.choice(ends)
    return {
        "id": f"cal_{number}",
        "at": iso(at),
        "attempt": 1 + number % 2,
        "backend_id": backend,
        "is_emergency": number % 17 == 3,
        "model": chance.choice(MODELS),
        "client_id": "",
        "agent": chance.choice(["anna", "viktor", "scout", ""]),
        "item": chance.choice(["ET-014", "ET-102", ""]),
        "outcome": outcome,
        "status": status,
        "total_tokens": chance.randint(200, 120_000),
        "is_estimate": number % 13 == 1,
        "cost": chance.random() * 0.02,
        "latency_ms": chance.randint(400, 20_000),
        "ttft_ms": chance.choice([None, 350, 820]),
    }


def _clients(router: SmallRouter) -> None:
    used = {"requests_today": 1204, "tokens_today": 1_000_233, "cost_today": 4.2918}
    router.add_client(name="ci", enabled=False)
    for agent, tokens, cost in (("anna", 5_000_000, 20.0), ("viktor", 1_000_000, None)):
        client, _ = router.add_client(name=agent, agent=agent, tokens_per_day=tokens, cost_per_day=cost)
        client |= used
        router.clients[client["id"]] = client
