"""A desk that only delivers: one round, in a process of its own that a test can kill.

python -m tests.fakes.delivering_desk <database url> <folder of the home> <address of the Bot API>
"""

import asyncio
import sys
from pathlib import Path

from quarterdeck.kernel.database import Database
from tests.fakes.notifying import notify_of
from tests.fakes.telegram_gateway import TelegramRoom


async def main(url: str, folder: str, base: str) -> None:
    database = Database(url)
    await notify_of(TelegramRoom(database, Path(folder), base)).deliver_round()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
