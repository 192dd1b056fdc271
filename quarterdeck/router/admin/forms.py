"""What may be entered about backends, prices and clients: checked whole, unknown fields refused.

The limits are those of the dashboard's form (provider-router specification, section 3).
"""

import json
import re
import secrets
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    field_validator,
)

from quarterdeck.router.backend import OPENAI, PICO, Mapping, Pool, Prices, Source, Status
from quarterdeck.router.door.ask import AGENT
from quarterdeck.router.ways import dialects

_HOST = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


def _absolute(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or _port(value) is None:
        raise ValueError("must be an absolute http or https address")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("must be an address without user, password or fragment")
    if ":" not in parts.hostname and not _is_name(parts.hostname):
        raise ValueError("must have the name of a host that can be looked up")
    if " " in value:
        raise ValueError("must not have spaces")
    return value


def _is_name(host: str) -> bool:
    """Whether it can be a host's name (RFC 1035, and RFC 3490 for letters beyond ASCII)."""
    try:
        return len(host) < 255 and _HOST.fullmatch(host.encode("idna")) is not None
    except UnicodeError:  # a label that is empty, or longer than 63 bytes
        return False


def _port(value: str) -> int | None:
    try:
        return urlsplit(value).port or 0
    except ValueError:
        return None


def _no_control(value: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not have control characters")
    return value


def _plain(value: Any) -> Any:
    """The same where it is a text; one that ends in a line break is none the worse."""
    return _no_control(value.strip()) if isinstance(value, str) else value


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, allow_nan=False)
        orjson.dumps([[[[value]]]])  # as deep as it will lie in a list of backends
    except (ValueError, RecursionError, orjson.JSONEncodeError):
        raise ValueError("must be plain JSON, not nested too deeply, its numbers of 64 bits") from None
    if "\\u0000" in text or len(text) > LARGEST_DOCUMENT:
        raise ValueError(f"must be JSON of at most {LARGEST_DOCUMENT} characters, none of them NUL")
    return value


def _spoken(value: str) -> str:
    if value and not dialects.known(value):
        raise ValueError("is no dialect that is spoken here: see the list on the dashboard's form")
    return value


def _agent(value: str) -> str:
    if value and not AGENT.fullmatch(value):
        raise ValueError("must be up to 50 letters, digits, dots, - or _")
    return value


LARGEST_DOCUMENT = 100_000
"""Characters of a free JSON object."""

Document = Annotated[dict[str, Any], AfterValidator(_storable)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), AfterValidator(_no_control)]
Name = Annotated[Line, Field(min_length=1)]
Agent = Annotated[Line, AfterValidator(_agent)]
Api = Annotated[Name, AfterValidator(_spoken)]
Url = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    AfterValidator(_no_control),
    AfterValidator(_absolute),
]
Secret = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=10_000), AfterValidator(_no_control)
]
Price = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
"""USD per single token."""

Rpm = Annotated[StrictInt, Field(ge=1, le=1000)]
Timeout = Annotated[StrictInt, Field(ge=10, le=600)]
Count = Annotated[StrictInt, Field(ge=1, le=100_000_000)]
Budget = Annotated[StrictInt, Field(ge=0, le=10**15)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False, strict=True)]


class Form(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Cost(Form):
    """USD per single token, named as the dashboard names them."""

    input: Price = 0.0
    output: Price = 0.0
    cacheRead: Price = 0.0  # noqa: N815  the specification's name
    cacheWrite: Price = 0.0  # noqa: N815

    def prices(self) -> Prices:
        return Prices(*map(pico, (self.input, self.output, self.cacheRead, self.cacheWrite)))


class MappingForm(Form):
    """How one canonical model is called at a backend. Without `cost` the price table is asked."""

    native_id: Name
    reasoning: StrictBool = False
    reasoning_effort: StrictBool = False
    input_modalities: Annotated[list[Line], Field(max_length=20)] = ["text"]
    cost: Cost | None = None
    context_window: Count = 128_000
    max_tokens: Count = 65_536
    compat: Document = {}

    def mapping(self, model: str, prices: Prices) -> Mapping:
        """For routing; `prices` are those of the table, used where no cost was entered."""
        return Mapping(
            model=model,
            native_id=self.native_id,
            prices=self.cost.prices() if self.cost else prices,
            context_window=self.context_window,
            max_tokens=self.max_tokens,
            reasoning=self.reasoning,
            reasoning_effort=self.reasoning_effort,
            input_modalities=tuple(self.input_modalities),
            compat=self.compat,
        )


Mappings = Annotated[dict[Name, MappingForm], Field(max_length=1000)]


class BackendForm(Form):
    """A new backend. Either `api_key` or `key_connection` (the name of a `provider_key` connection)."""

    name: Name
    api_base_url: Url
    api_key: Secret = Field(default="", repr=False)
    key_connection: Line = ""
    label: Line = ""
    api: Api = OPENAI
    timeout_seconds: Timeout | None = None
    rpm_limit: Rpm | None = None
    pool: Pool = Pool.PRIMARY
    enabled: StrictBool = True
    model_mappings: Mappings = {}
    source: Source = Source.WEBUI
    metadata: Document = {}


class BackendChange(Form):
    """What is to change of a backend: only the fields that are there. A blank key keeps the old one.

    Of the fields that routing keeps itself, `status` can be set to `healthy` or `disabled`, the cooldown
    to null, and the count to 0: that is a reset, and nothing else is possible.
    """

    name: Name = ""
    api_base_url: Url = ""
    api_key: Secret = Field(default="", repr=False)
    key_connection: Line = ""
    label: Line = ""
    api: Api = ""
    timeout_seconds: Timeout = 120
    rpm_limit: Rpm = 40
    pool: Pool = Pool.PRIMARY
    enabled: StrictBool = True
    model_mappings: Mappings = {}
    source: Source = Source.WEBUI
    metadata: Document = {}
    status: Status = Status.HEALTHY
    cooldown_until: datetime | None = None
    consecutive_429_count: StrictInt = 0

    @field_validator("status")
    @classmethod
    def _can_be_set(cls, value: Status) -> Status:
        if value not in (Status.HEALTHY, Status.DISABLED):
            raise ValueError("can only be reset to 'healthy', or set to 'disabled'")
        return value

    @field_validator("cooldown_until")
    @classmethod
    def _can_be_ended(cls, value: datetime | None) -> None:
        if value is not None:
            raise ValueError("can only be reset to null")

    @field_validator("consecutive_429_count")
    @classmethod
    def _can_be_forgotten(cls, value: int) -> int:
        if value != 0:
            raise ValueError("can only be reset to 0")
        return value

    @property
    def resets(self) -> bool:
        """Whether the backend shall be usable again now."""
        asked = self.model_fields_set
        return bool(asked & {"cooldown_until", "consecutive_429_count"}) or (
            "status" in asked and self.status is Status.HEALTHY
        )


class ClientForm(Form):
    """A new client. Budgets are per UTC day; null = none; money in USD."""

    name: Name
    agent: Agent = ""
    enabled: StrictBool = True
    tokens_per_day: Budget | None = None
    cost_per_day: Dollars | None = None


class ClientChange(Form):
    """What is to change of a client: only the fields that are there."""

    name: Name = ""
    agent: Agent = ""
    enabled: StrictBool = True
    tokens_per_day: Budget | None = None
    cost_per_day: Dollars | None = None


class SettingForm(Form):
    """One row of the configuration. A description that is left out stays."""

    value: Annotated[str | StrictBool | StrictInt | float, AfterValidator(_plain)]
    description: Annotated[str, Field(max_length=1000), AfterValidator(_plain)] | None = None

    @property
    def text(self) -> str:
        """As rows keep it: booleans as `true` and `false`."""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)


def pico(dollars: float) -> int:
    """Pico-dollars of an amount in USD, as it is written: 0.1 is exactly a tenth."""
    return round(Decimal(str(dollars)) * PICO)


def usd(amount: int) -> float:
    """USD of pico-dollars."""
    return float(Decimal(amount) / PICO)


def new_id(prefix: str) -> str:
    """The specification's identities: a prefix and 12 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(6)}"
