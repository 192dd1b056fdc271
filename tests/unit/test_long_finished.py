"""What items leave behind goes when they were finished long ago; the journal and what is needed stay."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.forge.tracker_model import PostKind, PostState, TrackerPost
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import NotFound
from quarterdeck.kernel.journal import Delivery, OutboxMessage
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline import long_finished
from tests.fakes.clock import ManualClock
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, finish_run, kinds, taken

KEPT = timedelta(days=90)
LATER = KEPT + timedelta(seconds=1)


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        house.database.clock = ManualClock()
        yield house


def go(house: House, length: timedelta) -> None:
    assert isinstance(house.database.clock, ManualClock)
    house.database.clock.go(length.total_seconds())


async def told(
    house: House, text: str, item: str | None, state: Delivery, replaces: int | None = None
) -> int:
    """A message that stands so; its number."""
    async with house.database.command("tell") as unit:
        message = OutboxMessage(
            kind="note",
            item_key=item,
            channel="log",
            chat="log",
            lane="log:log",
            text=text,
            state=state,
            created_at=unit.now,
            sent_at=unit.now if state is Delivery.SENT else None,
            replaces=replaces,
        )
        unit.session.add(message)
        await unit.session.flush()
        assert message.id is not None
        return message.id


async def left(house: House) -> list[str]:
    """The messages that are left when the old ones were forgotten, two at a time, oldest first."""
    await long_finished.forget_messages(house.database, house.settings.kept, limit=2)
    return [letter.text for letter in reversed((await house.notify.messages()).items)]


async def worked_on(house: House) -> tuple[str, Path]:
    """An item with one run that ended, and the folder of that."""
    key = await filed(house)
    await finish_run(await taken(house, key))
    [card] = await house.crew.runs_of(key)
    folder = house.crew.folder_of(await house.crew.run(card.id))
    (folder / "cache").mkdir(parents=True)
    return key, folder


async def clear_runs(house: House) -> int:
    settings = house.settings
    return await long_finished.clear_runs(
        house.database, settings.runs_folder, house.crew.host, settings.kept
    )


async def test_messages_that_arrived_go_long_after_their_item_was_finished(house: House) -> None:
    finished, open_one = await filed(house), await filed(house)
    await house.engine.cancel(finished, OWNER)
    for number in range(3):
        await told(house, f"of a finished one {number}", finished, Delivery.SENT)
    await told(house, "of an open one", open_one, Delivery.SENT)
    await told(house, "of none", None, Delivery.SENT)
    await told(house, "dismissed", finished, Delivery.DISMISSED)
    await told(house, "dead", finished, Delivery.DEAD)
    await told(house, "waits", finished, Delivery.QUEUED)
    go(house, KEPT - timedelta(seconds=1))
    assert len(await left(house)) == 8
    go(house, timedelta(seconds=2))
    assert await left(house) == ["of an open one", "dead", "waits"]
    assert await kinds(house, finished) == ["item_filed", "item_cancelled"]


async def test_messages_of_an_item_that_was_finished_lately_stay_however_old_they_are(house: House) -> None:
    key = await filed(house)
    await told(house, "old", key, Delivery.SENT)
    go(house, LATER)
    await house.engine.cancel(key, OWNER)
    assert await left(house) == ["old"]
    go(house, LATER)
    assert await left(house) == []


async def test_a_message_stays_while_another_waits_to_stand_in_its_place(house: House) -> None:
    question = await told(house, "question", None, Delivery.SENT)
    await told(house, "answered", None, Delivery.QUEUED, replaces=question)
    go(house, LATER)
    assert await left(house) == ["question", "answered"]


async def test_what_a_tracker_was_told_goes_long_after_the_item_was_finished(house: House) -> None:
    finished, open_one = await filed(house), await filed(house)
    await house.engine.cancel(finished, OWNER)
    async with house.database.command("tell the tracker") as unit:
        unit.session.add_all(
            TrackerPost(item_key=key, kind=PostKind.STATE, our_id=key, state=state, created_at=unit.now)
            for key in (finished, open_one)
            for state in PostState
        )
    go(house, LATER)
    assert await long_finished.forget_posts(house.database, house.settings.kept, limit=1) == 2
    kept = [(post.item_key, post.state) for post in await house.posts.page(limit=20)]
    assert sorted(kept) == sorted(
        [(finished, PostState.QUEUED), (finished, PostState.DEAD), *((open_one, one) for one in PostState)]
    )


async def test_folders_of_runs_go_long_after_their_item_was_finished_and_rows_stay(house: House) -> None:
    (finished, old), (_, used) = await worked_on(house), await worked_on(house)
    (house.settings.runs_folder / "notes").mkdir()
    await house.engine.cancel(finished, OWNER)
    go(house, KEPT - timedelta(seconds=1))
    assert await clear_runs(house) == 0
    go(house, timedelta(seconds=2))
    assert await clear_runs(house) == 1
    assert not old.exists() and used.exists()
    assert (house.settings.runs_folder / "notes").exists() and house.crew.host
    [card] = await house.crew.runs_of(finished)
    with pytest.raises(NotFound, match="is kept for a while"):
        await house.crew.log(card.id)


async def test_an_item_that_is_taken_up_again_keeps_the_folders_of_its_runs(house: House) -> None:
    key, folder = await worked_on(house)
    await house.engine.cancel(key, OWNER)
    go(house, LATER)
    await house.engine.retry(key, OWNER)
    assert await clear_runs(house) == 0
    assert folder.exists()


async def test_prompts_of_runs_go_long_after_their_item_was_finished(house: House) -> None:
    keys = [(await worked_on(house))[0] for _ in range(3)]
    for key in keys:
        await ask_in_words(house, key)
    for key in keys[:2]:
        await house.engine.cancel(key, OWNER)
    go(house, LATER)
    forget = long_finished.forget_prompts
    assert await forget(house.database, house.settings.kept, limit=1) == 2
    assert await forget(house.database, house.settings.kept) == 0
    assert [await prompt_of(house, key) for key in keys] == ["", "", "Look at it again."]


async def ask_in_words(house: House, key: str) -> None:
    [card] = await house.crew.runs_of(key)
    async with house.database.command("ask in words") as unit:
        unit.session.add(run := await house.crew.run(card.id))
        run.prompt = "Look at it again."


async def prompt_of(house: House, key: str) -> str:
    [card] = await house.crew.runs_of(key)
    return (await house.crew.run(card.id)).prompt
