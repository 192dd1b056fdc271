"""The keyring: what is sealed opens for its own row only, whole or not at all, and rotation loses nothing."""

import asyncio
import base64
import secrets
import stat
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.kernel.errors import Conflict, Misconfigured
from quarterdeck.kernel.keyring import OLD_VARIABLE, VARIABLE, Keyring


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


FIXED = Keyring(Path("/nowhere"), {VARIABLE: new_key()})
names = st.text(max_size=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys"


@pytest.fixture
def keyring(folder: Path) -> Keyring:
    return Keyring(folder, {})


@given(purpose=names, identity=names, content=st.binary())
def test_what_is_sealed_opens_again(purpose: str, identity: str, content: bytes) -> None:
    sealed = FIXED.seal(purpose, identity, content)
    assert FIXED.open(purpose, identity, sealed) == content
    assert FIXED.seal(purpose, identity, content) != sealed


@given(sealed_for=st.tuples(names, names), opened_for=st.tuples(names, names))
def test_a_value_opens_only_for_the_row_and_purpose_it_was_sealed_for(
    sealed_for: tuple[str, str], opened_for: tuple[str, str]
) -> None:
    sealed = FIXED.seal(*sealed_for, b"canary")
    if sealed_for == opened_for:
        assert FIXED.open(*opened_for, sealed) == b"canary"
    else:
        with pytest.raises(Misconfigured):
            FIXED.open(*opened_for, sealed)


@given(content=st.binary(max_size=40), data=st.data())
def test_any_changed_character_is_detected(content: bytes, data: st.DataObject) -> None:
    sealed = FIXED.seal("p", "row", content)
    place = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.characters().filter(lambda c: c != sealed[place]))
    with pytest.raises(Misconfigured) as caught:
        FIXED.open("p", "row", sealed[:place] + other + sealed[place + 1 :])
    assert "canary" not in str(caught.value)


def test_a_text_that_means_the_same_bytes_is_another_text() -> None:
    sealed = FIXED.seal("p", "row", b"1")  # 29 bytes: the last character has bits that mean nothing
    others = set(string.ascii_letters + string.digits + "-_") - {sealed[-1]}
    for other in others:
        with pytest.raises(Misconfigured):
            FIXED.open("p", "row", sealed[:-1] + other)


@given(content=st.binary(max_size=40), data=st.data())
def test_any_cut_or_lengthened_value_is_detected(content: bytes, data: st.DataObject) -> None:
    sealed = FIXED.seal("p", "row", content)
    shorter = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    longer = sealed + data.draw(st.text(min_size=1, max_size=5))
    for changed in (shorter, longer):
        with pytest.raises(Misconfigured):
            FIXED.open("p", "row", changed)


@given(text=st.text())
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured):
        FIXED.open("p", "row", text)


def test_the_first_use_makes_a_key_that_only_we_can_read(keyring: Keyring, folder: Path) -> None:
    (path,) = folder.iterdir()
    assert path.name == "master-0001.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert Keyring(folder, {}).ids == keyring.ids


def test_those_who_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(folder: Path) -> str:
        together.wait()
        return Keyring(folder, {}).current

    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            folder = tmp_path / str(number)
            assert len(set(threads.map(start, [folder] * 8))) == 1
            assert [path.name for path in folder.iterdir()] == ["master-0001.key"]


def test_a_rotation_seals_with_a_new_key_and_still_opens_with_the_old(keyring: Keyring) -> None:
    before, sealed = keyring.current, keyring.seal("p", "row", b"content")

    assert keyring.rotate() == keyring.current != before
    assert keyring.ids == (keyring.current, before)
    assert keyring.open("p", "row", sealed) == b"content"
    assert not keyring.is_current(sealed)
    assert keyring.is_current(keyring.seal("p", "row", b"content"))


def test_a_running_process_learns_of_a_rotation_by_another(keyring: Keyring, folder: Path) -> None:
    other = Keyring(folder, {})
    new = other.rotate()

    assert keyring.current == new
    assert keyring.open("p", "row", other.seal("p", "row", b"x")) == b"x"


async def test_a_rotation_reaches_every_owner_of_sealed_rows(keyring: Keyring) -> None:
    rows = {str(n): keyring.seal("rows", str(n), b"content %d" % n) for n in range(3)}

    async def reencrypt() -> int:
        await asyncio.sleep(0)
        old = [name for name, sealed in rows.items() if not keyring.is_current(sealed)]
        for name in old:
            rows[name] = keyring.seal("rows", name, keyring.open("rows", name, rows[name]))
        return len(old)

    keyring.protect("rows", reencrypt)
    keyring.rotate()

    assert await keyring.reencrypt() == {"rows": 3}
    assert await keyring.reencrypt() == {"rows": 0}
    assert [keyring.open("rows", name, sealed) for name, sealed in rows.items()] == [
        b"content 0",
        b"content 1",
        b"content 2",
    ]


def test_a_missing_key_is_named_and_its_loss_is_explained(keyring: Keyring, folder: Path) -> None:
    old, sealed = keyring.current, keyring.seal("connections", "telegram/default", b"canary")
    keyring.rotate()
    (folder / "master-0001.key").unlink()

    with pytest.raises(Misconfigured) as caught:
        Keyring(folder, {}).open("connections", "telegram/default", sealed)
    assert caught.value.code == "key_missing"
    assert old in caught.value.detail
    assert "connections telegram/default" in caught.value.detail
    assert "canary" not in str(caught.value)


def test_a_folder_that_vanishes_takes_nothing_from_a_running_process(keyring: Keyring, folder: Path) -> None:
    sealed = keyring.seal("p", "row", b"x")
    folder.rename(folder.with_name("elsewhere"))

    assert keyring.open("p", "row", sealed) == b"x"
    assert keyring.is_current(keyring.seal("p", "row", b"x"))


def test_a_key_that_others_can_read_is_closed_to_them(keyring: Keyring, folder: Path) -> None:
    path = folder / "master-0001.key"
    path.chmod(0o644)

    assert Keyring(folder, {}).ids == keyring.ids
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "canary", "canary" * 20, "\xff", "A" * 42])
def test_a_key_file_that_is_none_is_named_without_its_content(
    keyring: Keyring, folder: Path, content: str
) -> None:
    path = folder / "master-0001.key"
    path.write_text(content, "latin-1")

    with pytest.raises(Misconfigured) as caught:
        Keyring(folder, {})
    assert str(path) in caught.value.detail
    assert "canary" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(Misconfigured) as caught:
        Keyring(tmp_path / "home" / "keys", {})
    assert str(tmp_path / "home") in caught.value.detail


def test_a_key_from_the_environment_wins_and_touches_no_file(keyring: Keyring, folder: Path) -> None:
    sealed, key = keyring.seal("p", "row", b"x"), new_key()
    given_key = Keyring(folder, {VARIABLE: key})

    assert given_key.open("p", "row", sealed) == b"x"
    assert not given_key.is_current(sealed)
    assert given_key.rotate() == given_key.current
    assert [path.name for path in folder.iterdir()] == ["master-0001.key"]
    alone = Keyring(Path("/nowhere"), {VARIABLE: key})
    assert alone.current == given_key.current
    with pytest.raises(Conflict):
        alone.rotate()


def test_older_keys_from_the_environment_only_open() -> None:
    first, second = new_key(), new_key()
    sealed = Keyring(Path("/nowhere"), {VARIABLE: first}).seal("p", "row", b"x")
    later = Keyring(Path("/nowhere"), {VARIABLE: second, OLD_VARIABLE: f" {first} , {new_key()}"})

    assert later.open("p", "row", sealed) == b"x"
    assert not later.is_current(sealed)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({VARIABLE: "canary"}, VARIABLE),
        ({OLD_VARIABLE: new_key()}, VARIABLE),
        ({VARIABLE: new_key(), OLD_VARIABLE: "canary"}, OLD_VARIABLE),
    ],
)
def test_a_wrong_variable_is_named_without_its_value(
    folder: Path, environ: dict[str, str], named: str
) -> None:
    with pytest.raises(Misconfigured) as caught:
        Keyring(folder, environ)
    assert named in caught.value.detail
    assert "canary" not in str(caught.value)


def test_no_key_shows_itself_in_a_repr(keyring: Keyring, folder: Path) -> None:
    key = (folder / "master-0001.key").read_text().strip()
    assert key not in repr(keyring) + repr(vars(keyring))
    assert base64.b64decode(key).hex() not in repr(vars(keyring))
