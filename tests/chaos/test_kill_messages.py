"""A listener or a desk is killed (kill -9) at every point between hearing, answering, sending, recording."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from quarterdeck.board.cards import ProjectDraft, Wanted
from quarterdeck.crew.roster import Roster
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.identity import owner
from quarterdeck.listener import opened_gateway
from quarterdeck.telegram import store as telegram_store
from quarterdeck.telegram.model import DESK
from tests.fakes.company import company
from tests.fakes.forking import Forks
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram
from tests.fakes.telegram_gateway import running
from tests.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

OWNER = owner("test")
ANNA = 42
_EXPIRE = text("update telegram_bots set leased_until = now()")


@asynccontextmanager
async def opened(tmp_path: Path, url: str, telegram: FakeTelegram) -> AsyncIterator[House]:
    """A company whose desk has a bot, and a person who may talk to it."""
    async with company(tmp_path / "home", url) as house:
        value = {"bot_token": TOKEN, "chat_id": str(CHAT), "api_base": telegram.base}
        people = [{"slug": "anna", "may_approve": True, "handles": {"telegram": str(ANNA)}}]
        agents = [{"slug": "analyst", "parameters": {"program": "true"}}]
        await house.crew.import_roster(Roster.model_validate({"agents": agents, "people": people}), {})
        await house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
        async with house.database.command("connect") as unit:
            await house.connections.put(unit, "telegram", "default", value, Source.API)
        async with opened_gateway(house) as gateway, running(gateway):  # so that its consumer is known
            await until(lambda: gateway.agents == [DESK])
        yield house


async def dies(forks: Forks, point: str, *program: str) -> None:
    ended = await forks.run(*program, QUARTERDECK_CRASH_AT=point)
    assert ended.code == -signal.SIGKILL, ended.complained[-2000:]


async def told_once_more(house: House, telegram: FakeTelegram) -> tuple[int, bool]:
    """Another goes on; how often the chat has the message, and whether that is said of it."""
    await another_goes_on(house, telegram, "all hands")
    [letter] = (await house.notify.messages()).items
    return len(telegram.texts()), letter.possibly_twice


async def tell(house: House) -> None:
    """Something happens of which the chat is told."""
    async with house.database.command("tell") as unit:
        unit.record("error", reason="all hands")


async def another_goes_on(house: House, telegram: FakeTelegram, said: str) -> None:
    """The lease is over; a listener and a desk work until the chat has heard it."""
    async with house.database.command("the lease is over") as unit:
        await (await unit.session.connection()).execute(_EXPIRE)
    async with opened_gateway(house) as gateway, running(gateway), asyncio.timeout(60):
        while not any(said in text for text in telegram.texts()):
            await house.notify.deliver_round()
            await asyncio.sleep(0.02)
        while (await house.notify.deliver_round()).next_at is not None or await waits(house):
            await asyncio.sleep(0.02)


async def waits(house: House) -> bool:
    """Whether anything is still to be sent."""
    async with house.database.read() as session:
        return bool(await telegram_store.queue_lengths(session))


HEARD = (
    "after receiving updates",
    "before store updates",
    "after store updates",
    "after storing updates",
    "before take a turn",
    "after take a turn",
    "before file item",
    "after file item",
    "before answer in telegram",
    "after answer in telegram",
    "after telling a consumer",
    "before move cursors",
    "after move cursors",
    "before begin sends",
    "after begin sends",
    "before sending a message",
    "before record sends",
)


@pytest.mark.parametrize("point", HEARD)
async def test_what_was_written_is_filed_once_and_answered(
    tmp_path: Path, database_url: str, forks: Forks, point: str
) -> None:
    with FakeTelegram(TOKEN) as telegram:
        async with opened(tmp_path, database_url, telegram) as house:
            telegram.say("/new Greet the user", user=ANNA, chat=CHAT)
            await dies(forks, point, "tests.fakes.serving", database_url, str(tmp_path / "home"))
            await another_goes_on(house, telegram, "Greet the user")
            items = await house.board.items(Wanted(), limit=10)
        assert [card.key for card in items.items] == ["ET-001"]
        answers = [text for text in telegram.texts() if "ET-001" in text]
        assert len(answers) == (2 if point == "before record sends" else 1)


TOLD = {
    "before sending a message": (1, True),
    "after sending a message": (2, True),
    "before record sends": (2, True),
    "after record sends": (1, False),
}
"""How often the message is there, and whether it is marked as possibly there twice."""


@pytest.mark.parametrize("point", TOLD)
async def test_a_notification_is_there_and_marked_where_it_may_be_there_twice(
    tmp_path: Path, database_url: str, forks: Forks, point: str
) -> None:
    with FakeTelegram(TOKEN) as telegram:
        async with opened(tmp_path, database_url, telegram) as house:
            await tell(house)
            await house.notify.deliver_round()
            await dies(forks, point, "tests.fakes.serving", database_url, str(tmp_path / "home"))
            assert await told_once_more(house, telegram) == TOLD[point]


HANDED = (
    "before hand over messages",
    "before handing over messages",
    "after hand over messages",
    "after handing over messages",
)


@pytest.mark.parametrize("point", HANDED)
async def test_a_desk_that_dies_while_handing_over_doubles_nothing(
    tmp_path: Path, database_url: str, forks: Forks, point: str
) -> None:
    with FakeTelegram(TOKEN) as telegram:
        async with opened(tmp_path, database_url, telegram) as house:
            await tell(house)
            desk = ("tests.fakes.delivering_desk", database_url, str(tmp_path / "home"), telegram.base)
            await dies(forks, point, *desk)
            assert await told_once_more(house, telegram) == (1, False)
