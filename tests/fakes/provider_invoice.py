"""What the fake provider counts and charges.

Its tokenizer is made so that anybody can count the same: a word is a token, a message costs three more and
one for its role, an answer three more. The words of `WORDS` are single tokens for real tokenizers too.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import cycle, islice
from typing import Any

WORDS = ("the", "ship", "is", "at", "sea", "with", "all", "hands", "on", "deck", "and", "fair", "wind")

PICO = 10**12


@dataclass(frozen=True)
class Prices:
    """US dollars per single token."""

    input: Decimal = Decimal("0.0000025")
    output: Decimal = Decimal("0.00001")
    cache_read: Decimal = Decimal("0.00000125")
    cache_write: Decimal = Decimal("0.000003125")


@dataclass(frozen=True)
class Tokens:
    """What one request is charged for. `prompt` contains both kinds of cached tokens."""

    prompt: int = 0
    completion: int = 0
    cached_read: int = 0
    cached_write: int = 0

    @property
    def fresh(self) -> int:
        """Prompt tokens at the full price."""
        return self.prompt - self.cached_read - self.cached_write

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached_read + other.cached_read,
            self.cached_write + other.cached_write,
        )


@dataclass
class Charge:
    """One line of the invoice. Its tokens grow while a stream is sent."""

    model: str
    tokens: Tokens
    prices: Prices

    @property
    def dollars(self) -> Decimal:
        tokens, prices = self.tokens, self.prices
        return (
            tokens.fresh * prices.input
            + tokens.completion * prices.output
            + tokens.cached_read * prices.cache_read
            + tokens.cached_write * prices.cache_write
        )

    @property
    def picodollars(self) -> int:
        """Raises `ValueError` when the prices do not give a whole number."""
        exact = self.dollars * PICO
        if exact != int(exact):
            raise ValueError(f"{self.dollars} dollars are no whole number of pico-dollars")
        return int(exact)


@dataclass
class Invoice:
    """All charges, by the provider's own name of the model."""

    lines: dict[str, list[Charge]] = field(default_factory=lambda: defaultdict(list))

    def __getitem__(self, model: str) -> list[Charge]:
        return self.lines.get(model, [])

    def __iter__(self) -> Iterator[Charge]:
        for charges in self.lines.values():
            yield from charges

    def add(self, charge: Charge) -> Charge:
        self.lines[charge.model].append(charge)
        return charge

    def tokens(self, model: str | None = None) -> Tokens:
        """What was counted in all, or for one model."""
        return sum((charge.tokens for charge in self._of(model)), Tokens())

    def dollars(self, model: str | None = None) -> Decimal:
        """What is to be paid in all, or for one model."""
        return sum((charge.dollars for charge in self._of(model)), Decimal())

    def picodollars(self, model: str | None = None) -> int:
        return sum(charge.picodollars for charge in self._of(model))

    def _of(self, model: str | None) -> Iterable[Charge]:
        return self if model is None else self[model]


def prose(tokens: int) -> tuple[str, ...]:
    """An answer of that many tokens, one piece each."""
    words = islice(cycle(WORDS), tokens)
    return tuple(word if place == 0 else f" {word}" for place, word in enumerate(words))


def prompt_tokens(body: dict[str, Any]) -> int:
    """The tokens of a request in any of the dialects."""
    messages = list(body.get("messages", ()))
    if "messages" not in body:
        return _words(body.get("prompt", body.get("input", "")))
    if body.get("system"):
        messages.insert(0, {"role": "system", "content": body["system"]})
    return 3 + sum(4 + _words(message.get("content")) for message in messages)


def _words(content: Any) -> int:
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, dict):
        return _words(content.get("text", content.get("content", "")))
    if isinstance(content, list):
        return sum(1 if isinstance(part, int) else _words(part) for part in content)
    return 0
