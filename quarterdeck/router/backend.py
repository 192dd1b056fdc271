"""What a backend is while calls are routed: plain frozen values, made from rows and configuration.

Money is counted in whole pico-dollars (1e-12 USD): a price per token of one dollar per million tokens is
1,000,000 of them, so that no price in use has a fraction, and sums are exact.
"""

from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PICO = 1_000_000_000_000
"""Pico-dollars in a dollar."""

MOST_TOKENS = 10**12
"""Of one call. A provider that tells more tells nonsense."""

MOST_COST = 10**17
"""Pico-dollars of one call: 100,000 USD. More is a wrong price."""

OPENAI = "openai-completions"
"""The dialect that needs no translation: the short way."""

REHEARSAL = "rehearsal"
"""The built-in backend that answers by itself, and only while there is no real one."""


class Pool(StrEnum):
    """Where a backend stands in line."""

    PRIMARY = "primary"
    FALLBACK = "fallback"


POOLS = (Pool.PRIMARY, Pool.FALLBACK)
"""In the order in which they are tried."""


class Status(StrEnum):
    """What routing thinks of a backend; `error` needs a person or a successful probe."""

    HEALTHY = "healthy"
    COOLING = "cooling"
    ERROR = "error"
    DISABLED = "disabled"


class Health(StrEnum):
    """What the probes and failures say: `degraded` goes last, `down` not at all."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"


class Limit(StrEnum):
    """Why a provider said 429, or why a backend cools."""

    RATE = "rate"  # too many per minute: soon again
    QUOTA = "quota"  # used up until a date
    ACCOUNT = "account"  # needs a person: billing, credit


class Source(StrEnum):
    """Where a backend came from."""

    WEBUI = "webui"
    ENV = "env"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Prices:
    """Pico-dollars per single token."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def is_known(self) -> bool:
        return any((self.input, self.output, self.cache_read, self.cache_write))


@dataclass(slots=True)  # frozen ones take five times as long to make, and each call makes one
class Usage:
    """Tokens of one attempt. `prompt` includes the cached ones; `total` may be all a provider tells.

    `is_estimate`: the provider reported nothing, and we counted.
    """

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    is_estimate: bool = False

    def cost(self, prices: Prices) -> int:
        """Pico-dollars, `MOST_COST` at most. Cached tokens have their own price where the mapping has one."""
        read = self.cache_read if prices.cache_read else 0
        write = self.cache_write if prices.cache_write else 0
        cost = (
            max(self.prompt - read - write, 0) * prices.input
            + read * prices.cache_read
            + write * prices.cache_write
            + self.completion * prices.output
        )
        return min(cost, MOST_COST)


@dataclass(frozen=True, slots=True)
class Mapping:
    """How one canonical model is called and charged at one backend."""

    model: str
    native_id: str
    prices: Prices = Prices()
    context_window: int = 128_000
    max_tokens: int = 65_536
    reasoning: bool = False
    reasoning_effort: bool = False
    input_modalities: tuple[str, ...] = ("text",)
    compat: Map[str, Any] = field(default_factory=dict)

    @property
    def reports_stream_usage(self) -> bool:
        """Whether usage may be asked for in streams (`compat` can forbid it)."""
        return self.compat.get("supports_usage_in_streaming", True) is not False


@dataclass(frozen=True, slots=True)
class Backend:
    """One key at one base URL. `fault` says why it cannot be used (its key does not open); '' = it can."""

    id: str
    name: str
    api_base_url: str
    api_key: str = field(default="", repr=False)
    api: str = OPENAI
    pool: Pool = Pool.PRIMARY
    label: str = ""
    enabled: bool = True
    timeout_seconds: int = 120
    rpm_limit: int = 40
    mappings: Map[str, Mapping] = field(default_factory=dict)
    fault: str = ""

    @property
    def speaks_openai(self) -> bool:
        return self.api == OPENAI
