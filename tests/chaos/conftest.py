"""One PostgreSQL and one Prefect server, shared by all crash points; the crew notes every start."""

from pathlib import Path

import pytest

from tests.fakes.counted_crew import hire
from tests.services.conftest import client_of_prefect, house, prefect

__all__ = ["client_of_prefect", "home", "house", "prefect"]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose crew breaks the tests once, so that a repair and a wait are on the way."""
    home = tmp_path_factory.mktemp("chaos") / "home"
    hire(home, home / "starts", developer=["--break-in", "1"])
    return home
