"""How long a program that ended is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.backoff import LONGEST_PAUSE, STEADY_AFTER, failures_in_a_row, pause


def test_the_pause_doubles_from_half_a_second() -> None:
    assert [pause(n) for n in range(1, 6)] == [0.5, 1.0, 2.0, 4.0, 8.0]


@given(st.integers(1, 10_000))
def test_the_pause_never_shrinks_and_never_passes_the_longest(failures: int) -> None:
    assert 0 < pause(failures) <= pause(failures + 1) <= LONGEST_PAUSE


@given(st.integers(0, 1000), st.floats(0, 1e6))
def test_only_a_long_life_makes_earlier_failures_forgotten(before: int, lived: float) -> None:
    after = failures_in_a_row(before, lived)
    assert after == (1 if lived >= STEADY_AFTER else before + 1)
