"""One PostgreSQL and one Prefect server for the tests that kill a whole desk; the crew notes every start."""

from pathlib import Path

import pytest

from tests.fakes.counted_crew import hire
from tests.services.one_prefect.conftest import client_of_prefect, house, prefect

__all__ = ["client_of_prefect", "home", "house", "prefect"]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose crew breaks the tests once, so that a repair and a wait are on the way."""
    home = tmp_path_factory.mktemp("chaos") / "home"
    hire(home, home / "starts", developer=["--break-in", "1"])
    return home
