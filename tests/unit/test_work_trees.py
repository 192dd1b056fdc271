"""Work trees of finished items are taken away after a while; all others stay."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline import work_trees
from tests.fakes.clock import ManualClock
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        house.database.clock = ManualClock()
        yield house


async def trees(house: House) -> list[str]:
    """What is left when the finished ones were cleared away."""
    await work_trees.clear(house.database, house.settings.work_folder)
    return sorted(path.name for path in house.settings.work_folder.iterdir())


async def begun(house: House) -> str:
    """An item in whose work tree somebody worked."""
    key = await filed(house)
    (house.work_tree(key) / "src").mkdir(parents=True)
    return key


async def test_the_tree_of_an_item_that_was_finished_long_ago_is_taken_away(house: House) -> None:
    finished, open_one = await begun(house), await begun(house)
    await house.engine.cancel(finished, OWNER)
    go(house, work_trees.KEPT - timedelta(seconds=1))
    assert await trees(house) == [finished, open_one]
    go(house, timedelta(seconds=2))
    assert await trees(house) == [open_one]


async def test_an_item_that_is_taken_up_again_keeps_its_tree(house: House) -> None:
    key = await begun(house)
    await house.engine.cancel(key, OWNER)
    go(house, work_trees.KEPT + timedelta(seconds=1))
    await house.engine.retry(key, OWNER)
    assert await trees(house) == [key]


async def test_what_a_process_that_died_set_aside_is_removed_and_what_is_no_items_stays(house: House) -> None:
    (house.settings.work_folder / ".ET-001.gone" / "src").mkdir(parents=True)
    (house.settings.work_folder / "notes").mkdir()
    assert await trees(house) == ["notes"]


def go(house: House, length: timedelta) -> None:
    assert isinstance(house.database.clock, ManualClock)
    house.database.clock.go(length.total_seconds())
