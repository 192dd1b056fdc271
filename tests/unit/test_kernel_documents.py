"""Files that people write: every complaint names the file and the line, and no value."""

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from quarterdeck.kernel.documents import MOST_BYTES, load_yaml
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.outside import NAME


class Member(BaseModel):
    model_config = ConfigDict(extra="forbid")

    slug: str
    age: int = 0
    token: SecretStr = SecretStr("")

    @field_validator("token")
    @classmethod
    def long_enough(cls, token: SecretStr) -> SecretStr:
        if 0 < len(token.get_secret_value()) < 8:
            raise ValueError("is too short")
        return token


class Crew(BaseModel):
    model_config = ConfigDict(extra="forbid")

    agents: list[Member]


CREW = """\
# a comment
agents:
  - slug: analyst
    age: 3
  - slug: developer
    token: longenough
  -
    slug: reviewer
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "crew.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def complaint(path: Path) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load_yaml(path).validate(Crew)
    return caught.value


def test_a_good_file_becomes_a_model_and_knows_its_lines(tmp_path: Path) -> None:
    document = load_yaml(written(tmp_path, CREW))

    assert [m.slug for m in document.validate(Crew).agents] == ["analyst", "developer", "reviewer"]
    assert document.line_of(("agents", 1, "token")) == 6
    assert document.line_of(("agents", 2, "slug")) == 8
    assert document.line_of(()) == 2


def test_a_place_that_is_not_there_has_the_line_of_what_is_around_it(tmp_path: Path) -> None:
    document = load_yaml(written(tmp_path, CREW))

    assert document.line_of(("agents", 1, "age")) == 5
    assert document.line_of(("agents", 1, "a union member", "token")) == 6
    assert document.line_of(("agents", 9, "slug")) == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("agents:\n  - slug: a\n    slug: b\n", 3, "line 2"),
        ("agents: [\n", 2, "not YAML"),
        ("agents:\n\t- slug: a\n", 2, "not YAML"),
        ("agents: !!python/object:os.system {}\n", 1, "not YAML"),
        ("agents: *nobody\n", 1, "nobody"),
        ("agents: []\n---\nagents: []\n", 2, "not YAML"),
        ("? [a, b]\n: {}\n", 1, "not YAML"),
        ("agents:\n  - slug: a\n    age: 2026-13-45\n", 3, "quotes"),
        ("agents: \x00\n", 1, "not YAML"),
        (b"agents:\n  - slug: \xff\n", 2, "not UTF-8"),
        ("[" * 5000, 1, "deep"),
        ("agents:\n  - age: 3\n", 2, "agents.0.slug: is missing"),
        ("agents:\n  - slug: a\n    agee: 3\n", 3, "agents.0.agee: is not known here"),
        ("agents:\n  - slug: a\n    age: old\n", 3, "agents.0.age"),
        ("- a\n", 1, "valid dictionary"),
        ("", 1, "valid dictionary"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, text: str | bytes, line: int, words: str
) -> None:
    path = written(tmp_path, text)
    error = complaint(path)

    assert error.detail.startswith(f"{path}:{line}: ")
    assert words in error.detail
    assert (error.data["file"], error.data["line"]) == (str(path), line)
    assert error.instruction


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    error = complaint(written(tmp_path, "agents:\n  - age: 3\n  - slug: b\n    age: old\n"))

    assert "agents.0.slug: is missing" in error.detail
    assert "line 4: agents.1.age" in error.detail


def test_a_flood_of_mistakes_is_cut_short(tmp_path: Path) -> None:
    error = complaint(written(tmp_path, "agents:\n" + "  - age: 3\n" * 50))

    assert error.detail.count("is missing") == 10
    assert "and 40 more" in error.detail


def test_no_complaint_repeats_a_value(tmp_path: Path) -> None:
    for line in ("    token: canary", "    age: canary1", "    age: !!int canary", "    canary_of: [canary]"):
        error = complaint(written(tmp_path, f"agents:\n  - slug: a\n{line}\n"))
        assert "canary" not in str(error).replace("canary_of", "")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        error = complaint(path)
        assert str(path) in error.detail
        assert "cannot be read" in error.detail


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    assert "larger" in complaint(written(tmp_path, "#" * (MOST_BYTES + 1))).detail


def test_merged_keys_keep_their_own_lines(tmp_path: Path) -> None:
    text = "base: &base\n  slug: a\n  age: 1\nother:\n  <<: *base\n  age: 2\n"
    document = load_yaml(written(tmp_path, text))

    assert document.data["other"] == {"slug": "a", "age": 2}
    assert document.line_of(("other", "age")) == 6
    assert document.line_of(("other", "slug")) == 2


def test_a_file_that_contains_itself_does_not_hang(tmp_path: Path) -> None:
    document = load_yaml(written(tmp_path, "agents: &a\n  - *a\n"))

    assert document.line_of(("agents", 0, 0, 0)) == 1
    assert "agents" in complaint(document.path).detail


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.getbasetemp(), text)
    try:
        load_yaml(path)
    except Misconfigured as error:
        assert error.detail.startswith(str(path))


def test_complaints_of_our_own_checks_are_told_without_the_librarys_words(tmp_path: Path) -> None:
    class Named(BaseModel):
        name: Annotated[str, NAME]

    file = tmp_path / "named.yaml"
    file.write_text("\nname: Not so\n")
    with pytest.raises(Misconfigured, match=r"named\.yaml:2: name: must be small letters") as error:
        load_yaml(file).validate(Named)
    assert "Value error" not in error.value.detail
