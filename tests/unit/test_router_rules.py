"""What the router decides from values alone."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.kernel.log import hide
from quarterdeck.router import steady
from quarterdeck.router.backend import Health, Limit
from quarterdeck.router.config import Tuning
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.limits import rules
from quarterdeck.router.limits.rules import DAY, Hint, LimitHint, Probe

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC).timestamp()
TUNING = Tuning()
LINEAR = Tuning(cooldown_exponential_backoff=False)

# -- cooldowns ---------------------------------------------------------------------------------------------


def test_the_back_off_doubles_up_to_its_cap() -> None:
    assert [rules.cooldown_seconds(TUNING, n) for n in range(1, 9)] == [30, 60, 120, 240, 480, 600, 600, 600]


def test_the_linear_back_off_grows_by_its_base_up_to_its_cap() -> None:
    assert [rules.cooldown_seconds(LINEAR, n) for n in (1, 2, 3, 19, 20, 21)] == [30, 60, 90, 570, 600, 600]


@given(st.integers(-5, 10**400), st.booleans())
def test_no_count_is_too_large_for_a_back_off(count: int, exponential: bool) -> None:
    tuning = Tuning(cooldown_exponential_backoff=exponential)
    assert 30 <= rules.cooldown_seconds(tuning, count) <= 600


@pytest.mark.parametrize("seconds", [0.5, 7, 900, DAY])
@pytest.mark.parametrize("kind", Limit)
def test_retry_after_is_obeyed_exactly(seconds: float, kind: Limit) -> None:
    hint = LimitHint(kind, seconds, Hint.RETRY_AFTER)
    assert rules.rest_seconds(TUNING, 4, hint, NOON) == seconds


@pytest.mark.parametrize(("told", "rest"), [(7, 30), (45, 45)])
@pytest.mark.parametrize("source", [Hint.TEXT, Hint.RESET])
def test_a_weaker_hint_never_shortens_the_back_off(told: float, rest: float, source: Hint) -> None:
    assert rules.rest_seconds(TUNING, 1, LimitHint(Limit.RATE, told, source), NOON) == rest


def test_a_quota_without_a_date_rests_until_the_next_midnight_in_utc() -> None:
    assert rules.rest_seconds(TUNING, 1, LimitHint(Limit.QUOTA), NOON) == DAY / 2


def test_a_quota_that_ends_in_a_moment_still_rests_for_the_back_off() -> None:
    assert rules.rest_seconds(TUNING, 2, LimitHint(Limit.QUOTA), NOON + DAY / 2 - 1) == 60


def test_an_empty_account_rests_for_an_hour() -> None:
    assert rules.rest_seconds(TUNING, 1, LimitHint(Limit.ACCOUNT), NOON) == 3600


# -- what a 429 tells --------------------------------------------------------------------------------------


def error(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), (" 7 ", 7.0), ("1.5", 1.5), ("86401", DAY), ("1" + "0" * 400, DAY)],
)
def test_retry_after_in_seconds_counts_up_to_a_day(value: str, seconds: float) -> None:
    hint = rules.retry_after({"Retry-After": value}, b"", NOON)
    assert hint == LimitHint(Limit.RATE, seconds, Hint.RETRY_AFTER)


@pytest.mark.parametrize("value", ["0", "-5", "soon", "", "nan", "inf", "0x10", "1e3", "Thu, 99 Foo"])
def test_a_senseless_retry_after_counts_as_not_said(value: str) -> None:
    assert rules.retry_after({"retry-after": value}, b"", NOON) == LimitHint()


def test_retry_after_may_be_a_date() -> None:
    headers = {"retry-after": http_date(NOON + 90)}
    assert rules.retry_after(headers, b"", NOON).seconds == 90


def test_a_date_is_read_by_the_providers_own_clock() -> None:
    headers = {"retry-after": http_date(NOON + 500), "date": http_date(NOON + 410)}
    assert rules.retry_after(headers, b"", NOON).seconds == 90


def test_a_date_in_the_past_counts_as_not_said() -> None:
    assert rules.retry_after({"retry-after": http_date(NOON - 90)}, b"", NOON) == LimitHint()


def http_date(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)


def test_milliseconds_are_more_exact_than_seconds() -> None:
    assert rules.retry_after({"retry-after": "2", "retry-after-ms": "1250"}, b"", NOON).seconds == 1.25


def test_retry_after_beats_the_text_and_the_text_beats_reset_headers() -> None:
    headers = {"x-ratelimit-reset-requests": "50s"}
    body = error("Please try again in 20s.")
    assert rules.retry_after(headers, body, NOON).seconds == 20
    assert rules.retry_after({**headers, "retry-after": "3"}, body, NOON).seconds == 3
    assert rules.retry_after({**headers, "retry-after": "-1"}, body, NOON).seconds == 20
    assert rules.retry_after(headers, b"", NOON) == LimitHint(Limit.RATE, 50, Hint.RESET)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 9m38.016s. Need more?", 578.016),
        ("Please retry in 36.5s.", 36.5),
        ("Try again in 250ms", 0.25),
        ("try again in 5 minutes and 3 seconds", 303),
        ("Please retry after 12 seconds.", 12),
        ("Please wait 1 hour", 3600),
        ("You will regain access on 2026-03-05 at 18:30 UTC.", 6.5 * 3600),
        ("Available again at 2026-03-05T14:00:00+01:00", 3600),
        ("Resets on 2026-03-06", DAY / 2),
        ("You will regain access on 2027-01-01 at 00:00 UTC.", DAY),
    ],
)
def test_a_text_can_say_how_long(message: str, seconds: float) -> None:
    hint = rules.retry_after({}, error(message), NOON)
    assert (hint.seconds, hint.source) == (pytest.approx(seconds), Hint.TEXT)


def test_a_retry_delay_inside_a_quoted_error_is_found() -> None:
    inner = json.dumps({"details": [{"@type": "RetryInfo", "retryDelay": "36s"}]})
    for body in (inner, json.dumps({"error": inner})):
        assert rules.retry_after({}, body.encode(), NOON).seconds == 36
    assert rules.retry_after({}, b'{"retry_after": 3.5}', NOON).seconds == 3.5


@pytest.mark.parametrize(
    "message",
    ["Rate limit: 60 requests in 1m.", "Please wait 1 month", "You began on 2026-03-05T13:00:00Z", "in 20s"],
)
def test_a_number_that_is_no_advice_is_not_taken_for_one(message: str) -> None:
    assert rules.retry_after({}, error(message), NOON).seconds is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20),
        ("6m0s", 360),
        ("12ms", 0.012),
        (str(int(NOON) + 40), 40),
        (str(int(NOON + 40) * 1000), 40),
        ("2026-03-05T12:00:40Z", 40),
    ],
)
@pytest.mark.parametrize(
    "name", ["x-ratelimit-reset", "X-RateLimit-Reset-Tokens", "anthropic-ratelimit-requests-reset"]
)
def test_reset_headers_are_read_in_all_their_forms(name: str, value: str, seconds: float) -> None:
    hint = rules.retry_after({name: value}, b"", NOON)
    assert (hint.seconds, hint.source) == (pytest.approx(seconds), Hint.RESET)


def test_only_the_limit_that_is_used_up_says_when_it_resets() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "13999",
        "x-ratelimit-reset-requests": "9h",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "7.5s",
    }
    assert rules.retry_after(headers, b"", NOON).seconds == 7.5


@pytest.mark.parametrize("value", ["", "soon", "-3", "2020-13-45"])
def test_a_senseless_reset_header_counts_as_not_said(value: str) -> None:
    assert rules.retry_after({"x-ratelimit-reset": value}, b"", NOON) == LimitHint()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error("Rate limit reached for requests per minute (RPM): Limit 40, Used 40."), Limit.RATE),
        (b"", Limit.RATE),
        (b"\xff\x00 no JSON", Limit.RATE),
        (
            error(
                "You exceeded your current quota, please check your plan and billing details. Retry in 36s."
            ),
            Limit.RATE,
        ),
        (error("Limit reached. Upgrade at https://example.com/settings/billing"), Limit.RATE),
        (error("Rate limit reached on tokens per day (TPD): Limit 100000"), Limit.QUOTA),
        (error("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000"), Limit.QUOTA),
        (error("Quota exceeded", quotaId="GenerateRequestsPerDayPerProjectPerModel-FreeTier"), Limit.QUOTA),
        (error("Too many", limit_source="free_tier_daily"), Limit.QUOTA),
        (error("You have reached your specified API usage limits."), Limit.QUOTA),
        (error("You exceeded your current quota.", code="insufficient_quota"), Limit.ACCOUNT),
        (error("Billing hard limit has been reached"), Limit.ACCOUNT),
        (error("Your credit balance is too low to access the API"), Limit.ACCOUNT),
        (error("Insufficient Balance"), Limit.ACCOUNT),
    ],
)
def test_kinds_of_limits_are_told_apart(body: bytes, kind: Limit) -> None:
    assert rules.retry_after({}, body, NOON).kind is kind


def test_payment_required_is_a_matter_of_the_account() -> None:
    assert rules.retry_after({}, b"", NOON, status=402).kind is Limit.ACCOUNT


@given(st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset", "date"]), st.text()), st.binary())
def test_no_answer_makes_the_reading_of_hints_fail(headers: dict[str, str], body: bytes) -> None:
    hint = rules.retry_after(headers, body, NOON)
    assert hint.seconds is None or 0 < hint.seconds <= DAY


def test_a_summary_is_the_beginning_of_the_body_without_secrets() -> None:
    hide("a-registered-secret")
    body = error("Limit for key key-of-this-backend and a-registered-secret. " + "x" * 500)
    told = rules.summary(body, "key-of-this-backend")
    assert told.startswith('{"error": {"message": "Limit for key *** and ***. xxx')
    assert len(told) == 200


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        ('{"error": {"message": "Wait for \\"20\\" s.", "type": "tokens"}}', 'Wait for "20" s.'),
        ('{"type":"error","error":{"type":"rate_limit_error","message":"Number of req', "Number of req…"),
        ('[{"error": {"code": 429, "message": "Resource exhausted."}}]', "Resource exhausted."),
        ('{"error": {"message": "cut in an escape \\u00', '{"error": {"message": "cut in an escape \\u00'),
        ('{"error": "slow down"}', '{"error": "slow down"}'),
        ('Say "message": "no"', 'Say "message": "no"'),
        ("", ""),
    ],
)
def test_people_are_told_the_sentence_in_an_error_body(summary: str, sentence: str) -> None:
    assert rules.sentence_of(summary) == sentence


def test_a_secret_at_the_edge_of_a_summary_is_not_half_told() -> None:
    told = rules.summary(b"." * 190 + b"key-of-this-backend", "key-of-this-backend")
    assert told == "." * 190 + "***"


# -- outcomes and probes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ((200, 201, 204), Outcome.OK),
        ((429, 402), Outcome.LIMITED),
        ((401, 403), Outcome.BAD_KEY),
        ((408, 500, 502, 503, 504, 529, 302, 0), Outcome.BROKEN),
        ((400, 404, 405, 409, 413, 422, 451), Outcome.REFUSED),
    ],
)
def test_each_status_has_its_outcome(statuses: tuple[int, ...], outcome: Outcome) -> None:
    assert {rules.outcome_of(status) for status in statuses} == {outcome}


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, error("Your credit balance is too low to access the Anthropic API."), Outcome.LIMITED),
        (400, error("messages.0: 'Your credit balance is too low' is no role."), Outcome.REFUSED),
        (400, b"Your credit balance is too low", Outcome.REFUSED),
        (400, b'{"error": "Your credit balance is too low"}', Outcome.REFUSED),
        (404, error("Your credit balance is too low to access the Anthropic API."), Outcome.REFUSED),
    ],
)
def test_an_empty_account_told_with_400_is_no_wrong_request(
    status: int, body: bytes, outcome: Outcome
) -> None:
    assert rules.outcome_of(status, body) is outcome


@pytest.mark.parametrize(
    ("statuses", "probe"),
    [
        ((200, 204), Probe.GOOD),
        ((401, 403), Probe.BAD_KEY),
        ((404, 405, 400, 429, 402, 301), Probe.INCONCLUSIVE),
        ((0, 408, 500, 503, 529), Probe.FAILED),
    ],
)
def test_each_status_of_a_probe_has_its_meaning(statuses: tuple[int, ...], probe: Probe) -> None:
    assert {rules.probe_of(status) for status in statuses} == {probe}


def test_one_failure_degrades_and_three_are_down() -> None:
    states = [rules.health_of(failures) for failures in range(5)]
    assert states == [Health.HEALTHY, *[Health.DEGRADED] * 2, *[Health.DOWN] * 2]


@pytest.mark.parametrize(
    ("rpm", "fraction", "allowed"), [(40, 0.1, 4), (5, 0.1, 1), (100, 0.29, 29), (19, 0.1, 1), (40, 0.0, 0)]
)
def test_the_emergency_channel_has_a_fraction_of_the_backends_own_limit(
    rpm: int, fraction: float, allowed: int
) -> None:
    assert rules.emergency_rpm(Tuning(emergency_rpm_fraction=fraction), rpm) == allowed


# -- addresses, headers, masks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "path", "address"),
    [
        ("https://a.test", "/v1/models", "https://a.test/v1/models"),
        ("https://a.test/", "/v1/models", "https://a.test/v1/models"),
        ("https://a.test/v1", "/v1/models", "https://a.test/v1/models"),
        ("https://a.test/v1/", "/v1/chat/completions", "https://a.test/v1/chat/completions"),
        ("https://a.test/api/paas/v4", "/v1/chat/completions", "https://a.test/api/paas/v4/chat/completions"),
        ("https://a.test/v1beta", "/v1/models", "https://a.test/v1beta/models"),
        ("https://a.test/openai", "/v1/models", "https://a.test/openai/v1/models"),
        ("https://a.test/v1/proxy", "/v1/models", "https://a.test/v1/proxy/v1/models"),
        ("https://a.test/very", "/v1/models", "https://a.test/very/v1/models"),
        ("https://a.test/v1", "/v1beta/models", "https://a.test/v1/v1beta/models"),
        ("http://[::1]:8000/v1", "/v1/models", "http://[::1]:8000/v1/models"),
    ],
)
def test_a_version_is_never_in_an_address_twice(base: str, path: str, address: str) -> None:
    assert rules.join(base, path) == address


def test_queries_of_the_client_and_of_the_base_are_kept() -> None:
    assert rules.join("https://a.test/v1", "/v1/models", "a=b%20c") == "https://a.test/v1/models?a=b%20c"
    base = "https://a.test/v1/?api-version=2"
    assert rules.join(base, "/v1/models") == "https://a.test/v1/models?api-version=2"
    assert rules.join(base, "/v1/models", "a=b") == "https://a.test/v1/models?api-version=2&a=b"


def test_a_provider_sees_only_four_of_the_clients_headers() -> None:
    sent = [
        (b"content-type", b"application/json"),
        (b"accept", b"text/event-stream"),
        (b"user-agent", b"caf\xe9/1"),
        (b"x-request-id", b"r1"),
        (b"authorization", b"Bearer ours"),
        (b"cookie", b"a=b"),
        (b"x-api-key", b"ours"),
        (b"connection", b"close"),
        (b"host", b"router"),
    ]
    assert rules.request_headers(sent) == {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "user-agent": "café/1",
        "x-request-id": "r1",
    }


def test_headers_of_the_hop_and_cookies_do_not_reach_the_client() -> None:
    got = [
        (b"Content-Type", b"application/json"),
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content-Encoding", b"gzip"),
        (b"Content-Length", b"12"),
        (b"Set-Cookie", b"a=b"),
        (b"X-Ratelimit-Remaining", b"3"),
        (b"Warning", b"1"),
        (b"Warning", b"2"),
    ]
    assert rules.response_headers(got) == (
        (b"content-type", b"application/json"),
        (b"x-ratelimit-remaining", b"3"),
        (b"warning", b"1"),
        (b"warning", b"2"),
    )


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("", ""),
        ("abc", "ab****"),
        ("k" * 10, "kk****"),
        ("sk-0123456789abcdef", "sk****"),
        ("sk-0123456789abcdefg", "sk-012****defg"),
    ],
)
def test_a_mask_tells_little_of_a_short_key(key: str, shown: str) -> None:
    assert rules.mask(key) == shown


# -- the clock ---------------------------------------------------------------------------------------------


def test_the_clock_tells_epoch_seconds_that_never_go_back() -> None:
    times = [steady.now() for _ in range(1000)]
    assert times == sorted(times)
    assert abs(times[-1] - datetime.now(UTC).timestamp()) < 60
