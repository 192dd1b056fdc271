"""The words of the desk's doors: one YAML file per language."""

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from quarterdeck.surfaces.commands import prefix
from quarterdeck.surfaces.texts import DEFAULT, LANGUAGES


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All entries of one language."""
    file = resources.files("quarterdeck.surfaces.desk") / "catalogues" / f"{language}.yaml"
    entries: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return entries


def say(language: str, entry: str, platform: str, **facts: object) -> str:
    """A text in a language (an unknown one is the default); `{p}` in it is the messenger's prefix."""
    words = catalogue(language if language in LANGUAGES else DEFAULT)
    return words[entry].format(p=prefix(platform), **facts)
