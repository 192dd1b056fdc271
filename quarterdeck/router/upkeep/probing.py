"""Asks every provider whether it is there, all at once, and tells the balancer what was seen (section 10)."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import structlog

from quarterdeck.router.backend import Backend, Status
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.rules import Probe, join, probe_of
from quarterdeck.router.limits.standing import ProbeResult
from quarterdeck.router.ways import dialects
from quarterdeck.router.ways.connection_failure import in_words

log = structlog.get_logger(__name__)

AT_ONCE = 50
"""Probes under way at the same time."""

ANTHROPIC_VERSION = "2023-06-01"


def headers(backend: Backend) -> dict[str, str] | None:
    """How a dialect wants its key; None = its list of models cannot be asked with a plain key."""
    match dialects.provider(backend.api):
        case "openai":
            return {"Authorization": f"Bearer {backend.api_key}"}
        case "anthropic":
            return {"x-api-key": backend.api_key, "anthropic-version": ANTHROPIC_VERSION}
        case "gemini":
            return {"x-goog-api-key": backend.api_key}
        case _:
            return None


@dataclass(frozen=True)
class Prober:
    """One round at a time; `now` gives steady epoch seconds."""

    balancer: Balancer
    session: aiohttp.ClientSession
    now: Callable[[], float]

    async def round(self) -> str:
        """Probe all that are enabled and do not cool; says what was found. One's trouble stops no other."""
        self.balancer.sweep(self.now())
        gate = asyncio.Semaphore(AT_ONCE)
        asked: list[Backend] = []
        for backend in self._wanted():
            if headers(backend) is None:
                self.balancer.not_probed(backend.id, self.now())
            else:
                asked.append(backend)
        found = await asyncio.gather(*(self._one(gate, backend) for backend in asked))
        counts = Counter(probe.value for probe in found)
        return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nobody to ask"

    def _wanted(self) -> list[Backend]:
        now = self.now()
        return [
            backend
            for backend in self.balancer.backends()
            if backend.enabled
            and not backend.fault
            and self.balancer.view(backend.id, now).status is not Status.COOLING
        ]

    async def _one(self, gate: asyncio.Semaphore, backend: Backend) -> Probe:
        async with gate:
            result = await self._ask(backend)
        self.balancer.probed(backend, result, self.now())
        probe = probe_of(result.status)
        told = log.warning if probe in (Probe.FAILED, Probe.BAD_KEY) else log.debug
        event = "health_probe_failed" if probe in (Probe.FAILED, Probe.BAD_KEY) else "health_probe_ok"
        told(event, backend=backend.name, status=result.status, reason=result.reason)
        return probe

    async def _ask(self, backend: Backend) -> ProbeResult:
        tuning = self.balancer.tuning
        address = join(backend.api_base_url, tuning.health_probe_endpoint)
        began = self.now()
        try:
            limit = aiohttp.ClientTimeout(total=tuning.health_check_timeout_seconds)
            async with self.session.get(
                address, headers=headers(backend), timeout=limit, allow_redirects=False
            ) as answer:
                return ProbeResult(answer.status, round((self.now() - began) * 1000))
        except TimeoutError:
            return ProbeResult(0, reason=f"No answer within {tuning.health_check_timeout_seconds:g} s.")
        except (aiohttp.ClientError, ValueError, OSError) as error:
            return ProbeResult(0, reason=f"Not reached: {in_words(error)}.")
