"""A thing has one word in each language, whichever room speaks of it."""

import re
from pathlib import Path

import pytest

import quarterdeck

OTHER_WORDS = {
    "zh": "代理|所有者|您|名单|«|»|(agent|sources?)\\}: ",
    "uk": "(?i)задач|список: handles|до списку: handles",
    "ru": "в список: handles",
}


@pytest.mark.parametrize("language", OTHER_WORDS)
def test_a_thing_has_one_word(language: str) -> None:
    catalogues = sorted(Path(quarterdeck.__file__).parent.glob(f"**/catalogues/{language}.yaml"))
    assert len(catalogues) >= 3
    found = [
        f"{catalogue.parent.parent.name}: {line}"
        for catalogue in catalogues
        for line in catalogue.read_text(encoding="utf-8").splitlines()
        if re.search(OTHER_WORDS[language], line)
    ]
    assert not found
