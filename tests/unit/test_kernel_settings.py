"""Settings: each is documented, each counts, and a wrong one is named without its value."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from deployments import generated
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.settings import Settings, load, variable

VARIABLES = {variable(name): name for name in Settings.model_fields}
PAGE = (generated.REFERENCE / "settings.md").read_text("utf-8")
TABLE = PAGE.partition(generated.BEGIN)[2].partition(generated.END)[0]
SAMPLES = {
    "blocks": "off",
    "documents_to_cards": "on",
    "language": "en",
    "stages": "deployment",
    "log_level": "debug",
    "log_format": "json",
    "telegram_guests": "talk",
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_every_setting_is_documented_with_its_default_and_nothing_else_is() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TABLE, re.MULTILINE) == list(VARIABLES)
    assert TABLE.strip() == generated.settings()


def test_every_setting_has_a_meaning() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("key", VARIABLES)
def test_the_documented_variable_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    name = VARIABLES[key]
    monkeypatch.setenv(key, SAMPLES.get(name, "77"))
    value = getattr(load(), name)
    assert value != Settings.model_fields[name].default
    if isinstance(value, SecretStr):
        assert "77" not in repr(load())


@pytest.mark.parametrize("key", VARIABLES)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    name = VARIABLES[key]
    monkeypatch.setenv(key, "")
    assert getattr(load(), name) == Settings.model_fields[name].default


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("QUARTERDECK_HTTP_PORT", "canary"),
        ("QUARTERDECK_CONCURRENCY", "0"),
        ("QUARTERDECK_LANGUAGE", "canary"),
    ],
)
def test_a_wrong_value_stops_the_start_and_names_the_variable_only(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(Misconfigured) as caught:
        load()
    assert key in caught.value.detail
    assert "canary" not in str(caught.value)


def test_the_home_is_absolute_wherever_we_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUARTERDECK_HOME", "here")
    assert load().folder == tmp_path / "here"
    assert load().crew_file == tmp_path / "here" / "crew.yaml"
