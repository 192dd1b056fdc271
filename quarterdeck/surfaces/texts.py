"""The words of surfaces: one YAML file per language. Texts are plain; a surface escapes them as it must."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import get_args

import yaml

from quarterdeck.kernel.settings import Language
from quarterdeck.surfaces.commands import prefix

LANGUAGES: tuple[str, ...] = get_args(Language)
DEFAULT = "ru"

NAMES: Mapping[str, str] = {"ru": "Русский", "en": "English", "uk": "Українська", "zh": "中文"}
"""How each language calls itself."""


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All entries of one of `LANGUAGES`."""
    file = resources.files("quarterdeck.surfaces") / "catalogues" / f"{language}.yaml"
    entries: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return entries


def say(
    language: str, entry: str, *, platform: str = "telegram", new: object = "new", **facts: object
) -> str:
    """A text in a language (an unknown one is the default).

    `{p}` in it is the messenger's prefix, `{new}` the command that begins another chat.
    """
    words = catalogue(language if language in LANGUAGES else DEFAULT)
    return words[entry].format(p=prefix(platform), new=new, **facts)


def closest(code: str, default: str) -> str:
    """The language for an IETF tag such as `en-GB`, or the default for one that we do not speak."""
    told = code.replace("_", "-").partition("-")[0].lower()
    return told if told in LANGUAGES else default
