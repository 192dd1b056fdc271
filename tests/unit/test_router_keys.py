"""Sealed keys of the router: both keys open, only the present one seals, none opens in another row."""

import base64
import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from structlog.testing import capture_logs

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.router.admin.forms import ClientForm
from quarterdeck.router.config import Tuning
from quarterdeck.router.storage.keys import BACKENDS, CLIENTS, Seals, encryption_key
from tests.fakes.router_parts import PLAIN_KEY, form, hex_key, keyring, store

OLD, NEW = hex_key(), hex_key()
RING = keyring()
names = st.text(max_size=20)


def in_the_old_form(key: str, plain: str) -> str:
    """As Sidecar V2 kept it."""
    nonce = secrets.token_bytes(12)
    return f"{nonce.hex()}:{AESGCM(bytes.fromhex(key)).encrypt(nonce, plain.encode(), None).hex()}"


@given(plain=st.text(), sealed_for=names, opened_for=names)
@pytest.mark.parametrize("seals", [Seals.of(RING, NEW), Seals(RING)], ids=["variable", "keyring"])
def test_a_key_opens_in_its_own_row_and_in_no_other(
    seals: Seals, plain: str, sealed_for: str, opened_for: str
) -> None:
    sealed = seals.seal(BACKENDS, sealed_for, plain)
    assert seals.open(BACKENDS, sealed_for, sealed) == plain
    assert seals.is_current(sealed)
    wrong = (CLIENTS, sealed_for) if sealed_for == opened_for else (BACKENDS, opened_for)
    with pytest.raises(Misconfigured):
        seals.open(*wrong, sealed)


def test_a_sealed_key_names_its_key_and_is_never_twice_the_same() -> None:
    seals = Seals.of(RING, NEW)
    one, two = (seals.seal(BACKENDS, "bkd_1", "x") for _ in range(2))
    assert one.split(".")[:2] == ["sc2", encryption_key(NEW).id]
    assert one != two
    assert NEW not in repr(encryption_key(NEW)) and seals.current == encryption_key(NEW).id


def test_former_keys_open_and_the_present_one_seals() -> None:
    sealed = Seals.of(RING, OLD).seal(BACKENDS, "bkd_1", "plain")
    both = Seals.of(RING, NEW, f" {OLD} ,")
    assert both.open(BACKENDS, "bkd_1", sealed) == "plain"
    assert not both.is_current(sealed)
    with pytest.raises(Misconfigured, match="SIDECAR_ENCRYPTION_KEYS_PREVIOUS"):
        Seals.of(RING, NEW).open(BACKENDS, "bkd_1", sealed)


def test_the_form_of_sidecar_v2_is_still_readable_with_either_key() -> None:
    sealed = in_the_old_form(OLD, "plain")
    assert Seals.of(RING, OLD).open(BACKENDS, "any row", sealed) == "plain"
    assert Seals.of(RING, NEW, OLD).open(BACKENDS, "any row", sealed.upper()) == "plain"
    assert not Seals.of(RING, OLD).is_current(sealed)
    with pytest.raises(Misconfigured):
        Seals.of(RING, NEW).open(BACKENDS, "any row", sealed)


def test_what_the_keyring_sealed_opens_after_a_variable_was_set() -> None:
    sealed = Seals(RING).seal(BACKENDS, "bkd_1", "plain")
    assert Seals.of(RING, NEW).open(BACKENDS, "bkd_1", sealed) == "plain"
    assert not Seals.of(RING, NEW).is_current(sealed)


@pytest.mark.parametrize(
    "text_",
    [
        "",
        "ab" * 31,
        "ab" * 33,
        " ".join(["abc"] * 16),  # 48 digits and 15 spaces
        "0123456789abcdef" * 3 + " " * 16,  # 64 characters, 48 digits: AES-192
        "9f22ad78e6dc10eddc3f8971a08eb98393c1085db8129ecd32fb5c388124a8g0",
        "0" * 64,
        "f" * 64,
        "deadbeef" * 8,
        "0123456789abcdef" * 4,
        "00112233445566778899aabbccddeeff" * 2,
        bytes(range(32)).hex(),
        bytes(range(32, 0, -1)).hex(),
        "603DEB1015CA71BE2B73AEF0857D77811F352C073B6108D72D9810A30914DFF4",
        "3310e9da1e49629a4e4d411b5802314348798aa2199b0c7809604f0e90fc64a0\n",
    ],
)
def test_a_key_that_is_none_or_that_anybody_can_guess_is_refused_and_never_shown(text_: str) -> None:
    with pytest.raises(Misconfigured, match="SIDECAR_ENCRYPTION_KEY ") as error:
        encryption_key(text_)
    assert not text_.strip() or text_.strip() not in str(error.value)


def test_a_wrong_former_key_is_named_by_its_own_variable() -> None:
    with pytest.raises(Misconfigured, match="SIDECAR_ENCRYPTION_KEYS_PREVIOUS"):
        Seals.of(RING, NEW, "0" * 64)


def test_every_random_key_is_accepted() -> None:
    for _ in range(200):
        encryption_key(secrets.token_hex(32))


async def test_a_key_that_does_not_open_is_a_fault_and_never_an_empty_key(database: Database) -> None:
    row = await store(database, Seals.of(RING, OLD)).add_backend(form(), Tuning())
    with capture_logs() as lines:
        without = store(database, Seals.of(RING, NEW))
        (backend,) = (await without.snapshot()).backends
        await without.snapshot()
    assert backend.api_key == "" and "not here" in backend.fault
    assert [line["event"] for line in lines] == ["backend_key_does_not_open"]  # once, not every 5 seconds
    assert without.masked(row) == ""
    assert (await store(database, Seals.of(RING, NEW, OLD)).snapshot()).backends[0].fault == ""


async def test_two_rows_that_swap_their_keys_are_both_refused(database: Database) -> None:
    rooms = store(database, Seals.of(RING, NEW))
    one = await rooms.add_backend(form(name="One"), Tuning())
    two = await rooms.add_backend(form(name="Two", api_key="another-key-0123456789"), Tuning())
    async with database.command("swap them") as unit:
        for target, sealed in ((one.id, two.api_key_encrypted), (two.id, one.api_key_encrypted)):
            await (await unit.session.connection()).execute(
                text("update backends set api_key_encrypted = :sealed where id = :id"),
                {"sealed": sealed, "id": target},
            )
    for backend in (await rooms.snapshot()).backends:
        assert backend.fault and backend.api_key == ""


async def test_a_rotation_seals_every_key_anew_and_the_old_key_can_go(database: Database) -> None:
    before = store(database, Seals.of(RING, OLD))
    await before.add_backend(form(), Tuning())
    _, client_key = await before.clients.add(ClientForm(name="c", agent="developer"))
    assert await store(database, Seals.of(RING, NEW, OLD)).reseal() == 2
    after = store(database, Seals.of(RING, NEW))
    assert (await after.snapshot()).backends[0].api_key == PLAIN_KEY
    assert await after.clients.key_of_agent("developer") == client_key
    assert await after.reseal() == 0
    async with database.read() as session:
        kept = await (await session.connection()).execute(text("select api_key_encrypted from backends"))
        assert kept.scalar_one().startswith(f"sc2.{encryption_key(NEW).id}.")


async def test_a_rotation_without_the_old_key_loses_nothing_and_says_so(database: Database) -> None:
    await store(database, Seals.of(RING, OLD)).add_backend(form(), Tuning())
    await store(database, Seals.of(RING, NEW)).add_backend(form(name="Two"), Tuning())
    with pytest.raises(Misconfigured, match="Bring back the old key"):
        await store(database, Seals.of(RING, NEW)).reseal()
    again = await store(database, Seals.of(RING, NEW, OLD)).snapshot()
    assert [backend.fault for backend in again.backends] == ["", ""]


async def test_a_rotation_that_is_cut_in_the_middle_changes_no_row(database: Database) -> None:
    rooms = store(database, Seals.of(RING, OLD))
    for name in "abc":
        await rooms.add_backend(form(name=name), Tuning())

    class Failing(Seals):
        left = 2

        def seal(self, purpose: str, identity: str, plain: str) -> str:
            self.left -= 1
            if not self.left:
                raise RuntimeError("the power went")
            return super().seal(purpose, identity, plain)

    cut = Failing(RING, encryption_key(NEW), [encryption_key(OLD)])
    with pytest.raises(RuntimeError):
        await store(database, cut).reseal()
    assert [b.fault for b in (await rooms.snapshot()).backends] == ["", "", ""]


async def test_a_new_master_key_of_the_house_reaches_the_routers_keys(
    database: Database, tmp_path: Path
) -> None:
    house = Keyring(tmp_path / "keys", {})
    rooms = store(database, Seals(house))
    rooms.protect(house)
    await rooms.add_backend(form(), Tuning())
    house.rotate()
    assert await house.reencrypt() == {"router": 1}
    (tmp_path / "keys" / "master-0001.key").unlink()
    (backend,) = (await store(database, Seals(Keyring(tmp_path / "keys", {}))).snapshot()).backends
    assert (backend.api_key, backend.fault) == (PLAIN_KEY, "")


def test_a_truncated_or_changed_value_does_not_open() -> None:
    seals = Seals.of(RING, NEW)
    sealed = seals.seal(BACKENDS, "bkd_1", "plain")
    for broken in (sealed[:-4], sealed[:20], "sc2.", "sc2..", "", "nonsense", sealed + "AAAA"):
        with pytest.raises(Misconfigured):
            seals.open(BACKENDS, "bkd_1", broken)
    raw = bytearray(base64.urlsafe_b64decode(sealed.split(".")[2] + "=="))
    raw[15] ^= 1
    changed = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    with pytest.raises(Misconfigured):
        seals.open(BACKENDS, "bkd_1", ".".join([*sealed.split(".")[:2], changed]))
