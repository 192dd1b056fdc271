"""A desk that only delivers: one round, in a process of its own that a test can kill.

python -m tests.fakes.delivering_desk <database url> [<address of the Bot API>]

Without an address it has no bot, and delivers what waits for the log.
"""

import asyncio
import sys

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.service import Notify
from tests.fakes.notifying import FixedConnections
from tests.fakes.telegram import CHAT, TOKEN


async def main(url: str, base: str = "") -> None:
    database = Database(url)
    telegram = {"bot_token": TOKEN, "chat_id": CHAT, "api_base": base} if base else {}
    notify = Notify(database, FixedConnections(telegram=telegram), Settings.model_validate({}))
    await notify.deliver_round()
    await notify.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
