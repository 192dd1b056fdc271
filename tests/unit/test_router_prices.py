"""What models cost, from LiteLLM's table, and which dialects there are; without importing LiteLLM."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from quarterdeck.router.backend import PICO, Prices, Usage
from quarterdeck.router.ledger.prices import TABLE, PriceTable
from quarterdeck.router.ways import dialects

MEMORY = """
import sys
from quarterdeck.router.ledger.prices import PriceTable
def resident():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])
before = resident()
table = PriceTable()
assert table.of("openai-completions", "gpt-4o")
print(resident() - before, "litellm" in sys.modules)
"""


@pytest.fixture
def table(tmp_path: Path) -> PriceTable:
    path = tmp_path / "prices.json"
    path.write_text(
        """{
        "gpt-x": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06,
            "output_cost_per_token": 1e-05},
        "claude-x": {"litellm_provider": "anthropic", "input_cost_per_token": 3e-06,
            "output_cost_per_token": 0.000015, "cache_read_input_token_cost": 3e-07,
            "cache_creation_input_token_cost": 3.75e-06, "tiers": [{"input_cost_per_token": 9}]},
        "anthropic.claude-x-v1:0": {"litellm_provider": "bedrock_converse", "input_cost_per_token": 4e-06},
        "groq/llama-x": {"litellm_provider": "groq", "input_cost_per_token": 1e-07},
        "noisy": {"litellm_provider": "openai", "input_cost_per_token": 0.0000029999900000000002},
        "free": {"litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_token": 0.0},
        "picture": {"litellm_provider": "openai", "output_cost_per_image": 0.04}
        }"""
    )
    return PriceTable(path)


def test_a_price_is_the_text_of_the_table_in_whole_pico_dollars(table: PriceTable) -> None:
    assert table.of("anthropic-messages", "claude-x") == Prices(3_000_000, 15_000_000, 300_000, 3_750_000)
    assert table.of("openai-completions", "gpt-x") == Prices(2_500_000, 10_000_000)


def test_a_price_finer_than_a_pico_dollar_is_rounded(table: PriceTable) -> None:
    assert table.of("openai-completions", "noisy") == Prices(2_999_990)


def test_a_model_without_a_price_per_token_has_none(table: PriceTable) -> None:
    assert table.of("openai-completions", "picture") is None
    assert table.of("openai-completions", "unheard-of") is None


def test_a_free_model_costs_nothing(table: PriceTable) -> None:
    assert table.of("openai-completions", "free") == Prices()


@pytest.mark.parametrize(
    ("api", "native_id"),
    [
        ("groq", "llama-x"),
        ("groq", "groq/llama-x"),
        ("bedrock-converse-stream", "anthropic.claude-x-v1:0"),
        ("bedrock-converse-stream", "converse/anthropic.claude-x-v1:0"),
        ("anthropic", "claude-x"),
        ("openai-responses", "gpt-x"),
    ],
)
def test_models_are_found_under_the_names_of_their_provider(
    table: PriceTable, api: str, native_id: str
) -> None:
    assert table.of(api, native_id)


def test_a_name_of_another_provider_gives_no_price(table: PriceTable) -> None:
    assert table.of("anthropic-messages", "gpt-x") is None


def test_every_price_of_the_bundled_table_is_read() -> None:
    text = (dialects.litellm_folder() / TABLE).read_text()
    table = PriceTable()
    compared = 0
    for name, entry in json.loads(text, parse_float=Decimal).items():
        price = entry.get("input_cost_per_token")
        if isinstance(price, (int, Decimal)) and "/" not in name and price * PICO == int(price * PICO):
            prices = table.of("openai-completions", name)
            assert prices is not None and prices.input == price * PICO, name
            compared += 1
    assert compared > 500


def test_the_table_costs_little_memory_and_no_import_of_litellm() -> None:
    told = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    kilobytes, imported = told.stdout.split()
    assert int(kilobytes) < 8_000
    assert imported == "False"


def test_cached_tokens_are_charged_at_the_prices_of_the_table(table: PriceTable) -> None:
    prices = table.of("anthropic-messages", "claude-x")
    assert prices is not None
    usage = Usage(prompt=16, completion=4, cache_read=5, cache_write=2)
    assert usage.cost(prices) == 9 * 3_000_000 + 5 * 300_000 + 2 * 3_750_000 + 4 * 15_000_000


@pytest.mark.parametrize(
    ("api", "provider"),
    [
        ("openai-completions", "openai"),
        ("openai-responses", "openai"),
        ("anthropic-messages", "anthropic"),
        ("google-generative-ai", "gemini"),
        ("bedrock-converse-stream", "bedrock"),
        ("groq", "groq"),
    ],
)
def test_openclaws_dialects_and_litellms_providers_are_known(api: str, provider: str) -> None:
    assert dialects.known(api)
    assert dialects.provider(api) == provider
    assert api in dialects.names()


@pytest.mark.parametrize("api", ["", "smoke-signals", "custom", "github_copilot"])
def test_what_nobody_speaks_is_not_known(api: str) -> None:
    assert not dialects.known(api)
    assert api not in dialects.names()
