"""Signatures: what its owner signed is let in, and nothing else is."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.kernel.errors import Invalid, Misconfigured
from quarterdeck.kernel.inbox_model import DEEPEST, json_object
from quarterdeck.kernel.signatures import TOLERANCE, is_hex_hmac, is_recent, is_standard, same

texts = st.text(max_size=40)
bodies = st.binary(max_size=100)
keys = st.binary(min_size=24, max_size=64)
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def whsec(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def signed(key: bytes, number: str, timestamp: str, body: bytes) -> str:
    message = number.encode() + b"." + timestamp.encode() + b"." + body
    return "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()


def test_the_example_of_standard_webhooks_is_let_in():
    """Key, id, time, body and signature as the published libraries have them in their tests."""
    secret, number, timestamp = (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
    )
    body, signature = b'{"test": 2432232314}', "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert is_standard(secret, number, timestamp, body, signature)


@given(secret=st.text(min_size=1, max_size=40), body=st.binary(max_size=200))
def test_a_hexadecimal_signature_fits_its_own_secret(secret: str, body: bytes):
    good = hmac.new(secret.encode("utf-8", "surrogatepass"), body, hashlib.sha256).hexdigest()
    assert is_hex_hmac(secret, body, good)


@given(
    secret=texts, other=texts, body=st.binary(max_size=50), changed=st.binary(max_size=50), presented=texts
)
def test_no_other_secret_body_or_text_fits(secret, other, body, changed, presented):
    good = hmac.new(secret.encode("utf-8", "surrogatepass"), body, hashlib.sha256).hexdigest()
    assert not is_hex_hmac(secret, body, presented)
    if other != secret:
        assert not is_hex_hmac(other, body, good)
    if changed != body:
        assert not is_hex_hmac(secret, changed, good)


def test_nothing_is_never_a_proof():
    empty = hmac.new(b"", b"body", hashlib.sha256).hexdigest()
    assert not is_hex_hmac("", b"body", empty)
    assert not is_hex_hmac("secret", b"body", "")
    assert not same("", "")
    assert not is_standard("", "id", "1", b"{}", signed(b"", "id", "1", b"{}"))
    assert not is_standard("whsec_", "id", "1", b"{}", signed(b"", "id", "1", b"{}"))


@given(
    key=keys, number=texts, timestamp=texts, body=st.binary(max_size=100), before=st.lists(texts, max_size=3)
)
def test_one_good_signature_among_others_is_enough(key, number, timestamp, body, before):
    number, timestamp = (text.encode("utf-8", "ignore").decode() for text in (number, timestamp))
    others = ["".join(text.split()) for text in before]
    presented = " ".join([*others, "v1a,AAAA", signed(key, number, timestamp, body)])
    assert is_standard(whsec(key), number, timestamp, body, presented)
    assert is_standard(
        f"{whsec(b'another key of many, many bytes')} {whsec(key)}", number, timestamp, body, presented
    )


@given(
    key=keys,
    other=keys,
    number=st.text("abc123_-", min_size=1, max_size=20),
    timestamp=st.integers(0, 2**33).map(str),
    body=st.binary(max_size=50),
    what=st.sampled_from(["key", "number", "timestamp", "body"]),
    change=st.binary(min_size=1, max_size=5),
)
def test_a_signature_fits_only_the_id_time_and_body_that_it_was_made_for(
    key, other, number, timestamp, body, what, change
):
    presented = signed(key, number, timestamp, body)
    if what == "key" and other.rstrip(b"\0") != key.rstrip(b"\0"):  # HMAC itself fills keys up with zeros
        assert not is_standard(whsec(other), number, timestamp, body, presented)
    if what == "number":
        assert not is_standard(whsec(key), number + "x", timestamp, body, presented)
    if what == "timestamp":
        assert not is_standard(whsec(key), number, timestamp + "0", body, presented)
    if what == "body":
        assert not is_standard(whsec(key), number, timestamp, body + change, presented)


def test_a_secret_may_be_plain_text_but_not_broken_base64():
    presented = signed(b"a long text without that beginning", "id", "1", b"{}")
    with pytest.raises(Misconfigured, match="whsec_"):
        is_standard("whsec_ключ", "id", "1", b"{}", presented)
    plain = "a-long-text-without-that-beginning"
    assert is_standard(plain, "id", "1", b"{}", signed(plain.encode(), "id", "1", b"{}"))


@given(seconds=st.integers(-1000, 1000))
def test_a_time_counts_within_five_minutes_of_ours(seconds: int):
    at = NOW + timedelta(seconds=seconds)
    assert is_recent(str(int(at.timestamp())), NOW) == (abs(seconds) <= TOLERANCE.total_seconds())


@given(text=texts)
def test_what_is_no_time_never_counts(text: str):
    assert not is_recent(text, datetime(1999, 1, 1, tzinfo=UTC))


# What is inside

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(payload=st.dictionaries(st.text(max_size=8), values, max_size=5), is_ascii=st.booleans())
def test_a_payload_is_read_as_it_was_written_except_for_what_no_table_takes(payload, is_ascii):
    body = json.dumps(payload, ensure_ascii=is_ascii)
    if not is_ascii:
        body = body.encode("utf-8", "replace").decode()
    found = json_object(body.encode())
    clean = json.dumps(found, ensure_ascii=False)
    clean.encode("utf-8")
    assert "\\u0000" not in clean.replace("\\\\", "")
    if "\\u0000" not in body and "\\ud" not in body:
        assert found == json.loads(body)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'{"a": "x\u0000y"}', "x\ufffdy"),
        (r'{"a": "x\\u0000y"}', r"x\u0000y"),
        (r'{"a": "x\\\u0000y"}', "x\\\ufffdy"),
        (r'{"a": "\ud83d\ude00"}', "😀"),
        (r'{"a": "\ud83d"}', "?"),
    ],
)
def test_letters_that_no_table_takes_are_replaced(written: str, read: str):
    assert json_object(written.encode()) == {"a": read}


@given(body=st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_rubbish_is_refused_and_nothing_else_is_raised(body: bytes):
    try:
        assert isinstance(json_object(body), dict)
    except Invalid as refusal:
        assert refusal.instruction


def test_depth_has_an_end():
    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert json_object(nested(DEEPEST - 1))
    with pytest.raises(Invalid, match="levels"):
        json_object(nested(DEEPEST + 1))
