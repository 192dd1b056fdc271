"""The client of the `model` runtime waits for as long as the router asks for, and not beyond its run."""

import pytest

from quarterdeck.crew.model_client import pause


@pytest.mark.parametrize(
    ("told", "tries", "left", "wait"),
    [
        (None, 1, 1800, 2),
        (None, 3, 1800, 8),
        (0, 1, 1800, 2),
        (7, 1, 1800, 7),
        (300, 1, 1800, 300),
        (300, 1, 300, None),
        (None, 3, 5, None),
    ],
)
def test_whoever_asks_for_peace_gets_it_unless_the_run_would_be_over(
    told: float | None, tries: int, left: float, wait: float | None
) -> None:
    assert pause(told, tries, left) == wait
