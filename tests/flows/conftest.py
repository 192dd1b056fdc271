"""A desk without Prefect: the same flow bodies and tasks, called as plain functions."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

from flows import stage
from quarterdeck.kernel.database import Database
from tests.fakes.homes import furnished
from tests.fakes.quiet_desk import OpenDesk, QuietDesk, Surroundings
from tests.fakes.repositories import make_repository


@pytest.fixture
def plain_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of a stage run without Prefect around them."""
    for name in ("run_agent", "publish", "ask_gate"):
        monkeypatch.setattr(stage, name, getattr(stage, name).fn)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A git repository with a test command."""
    return make_repository(tmp_path / "sample")


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[Surroundings]:
    (tmp_path / "home").mkdir()
    return Surroundings(tmp_path / "home")


@pytest.fixture
async def open_desk(
    database: Database, surroundings: Surroundings, plain_tasks: None
) -> AsyncIterator[OpenDesk]:
    """Opens the house when the test has prepared its surroundings."""
    async with AsyncExitStack() as stack:

        async def open_it() -> QuietDesk:
            house = furnished(
                database,
                surroundings.settings,
                pipeline=yaml.safe_dump(surroundings.pipeline),
                roster=yaml.safe_dump(surroundings.crew),
            )
            return QuietDesk(await stack.enter_async_context(house))

        yield open_it
