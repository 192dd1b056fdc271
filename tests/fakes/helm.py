"""A desk whose one agent answers through a router, and a person who talks to it from Telegram.

async with helm(folder, database_url, "Aye") as desk, opened_gateway(desk.house) as gateway, running(gateway):
    desk.telegram.say("How do we stand?", user=ANNA)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quarterdeck.crew.roster import Roster
from quarterdeck.house import House, open_house
from quarterdeck.telegram.model import DESK
from tests.fakes.company import settings_of
from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import Served, backend
from tests.fakes.telegram import TOKEN, FakeTelegram

ANNA = 42
AGENTS = [{"slug": "helm", "runtime": "model", "model": "gpt", "system_prompt": "You steer."}]
PEOPLE = [{"slug": "anna", "handles": {"telegram": str(ANNA)}}]


@dataclass(frozen=True)
class Helm:
    house: House
    telegram: FakeTelegram
    router: Served
    provider: FakeProvider


@asynccontextmanager
async def helm(folder: Path, database_url: str, answer: str) -> AsyncIterator[Helm]:
    """All of them up, the bot registered, nobody listening yet. The model always says `answer`."""
    with FakeTelegram(TOKEN) as telegram:
        async with FakeProvider() as provider, Served([backend(provider, "gpt")]) as router:
            provider.offer("native-gpt", text=answer)
            told = {"router_url": router.url, "telegram_api_base": telegram.base}
            async with open_house(settings_of(folder, database_url).model_copy(update=told)) as house:
                roster = Roster.model_validate({"agents": AGENTS, "people": PEOPLE})
                await house.crew.import_roster(roster, {})
                await house.bots.register(DESK, TOKEN)
                yield Helm(house, telegram, router, provider)
