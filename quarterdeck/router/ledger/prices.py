"""What models cost, from the table that comes with LiteLLM, which is not imported for it."""

import json
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from quarterdeck.router.backend import OPENAI, PICO, Prices
from quarterdeck.router.ways.dialects import litellm_folder, provider

TABLE = "model_prices_and_context_window_backup.json"

_ROUTES = ("converse/", "invoke/", "responses/", "converse_like/")
"""What native ids may begin with to tell LiteLLM how to call them; it is no part of the name."""


class PriceTable:
    """Prices of a thousand models, read when one is first asked for; about 1 MB from then on.

    It knows one price per kind of token. Prices that rise with the length of the prompt, or are per
    second, picture or search, are not in it: set them at the mapping as they suit.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, tuple[str, Prices]] | None = None

    def of(self, api: str, native_id: str) -> Prices | None:
        """What a model costs at a provider of that dialect; None where the table has no price per token.

        For `openai-completions`, which many companies speak, the model's bare name decides.
        """
        if self._known is None:
            self._known = dict(_read(self._path or litellm_folder() / TABLE))
        for name in _names(provider(api), native_id):
            owner, prices = self._known.get(name, ("", None))
            if prices and (api == OPENAI or "/" in name or _belongs(owner, provider(api))):
                return prices
        return None


def _names(owner: str, native_id: str) -> Iterator[str]:
    """How the table may call it, the most exact first."""
    bare = native_id.removeprefix(f"{owner}/")
    for route in _ROUTES:
        bare = bare.removeprefix(route)
    yield f"{owner}/{bare}"
    yield bare


def _belongs(owner: str, wanted: str) -> bool:
    """The table splits some providers (`bedrock_converse`, `vertex_ai-language-models`)."""
    return owner.startswith(wanted.removesuffix("_chat"))


def _read(path: Path) -> Iterator[tuple[str, tuple[str, Prices]]]:
    """One entry after the other, so that the whole table is never there as objects."""
    text = path.read_text()
    decoder = json.JSONDecoder(parse_float=Decimal)
    place = text.index("{") + 1
    shared = lru_cache(maxsize=None)(_prices)
    owners: dict[str, str] = {}
    while (start := text.find('"', place)) >= 0:
        name, place = decoder.raw_decode(text, start)
        entry, place = decoder.raw_decode(text, text.index("{", place))
        told = tuple(entry.get(key) for key in _KEYS)
        if any(isinstance(price, (int, Decimal)) for price in told):
            owner = str(entry.get("litellm_provider", ""))
            yield name, (owners.setdefault(owner, owner), shared(*told))


_KEYS = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
)


def _prices(*told: Any) -> Prices:
    return Prices(*map(_pico, told))


def _pico(dollars: Any) -> int:
    """Exact, but for the few entries with more than twelve decimals, which are noise of their makers."""
    if not isinstance(dollars, (int, Decimal)):
        return 0
    return int((Decimal(dollars) * PICO).to_integral_value(ROUND_HALF_EVEN))
