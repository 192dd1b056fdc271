"""A listener in a process of its own that a test can kill.

    python -m tests.fakes.listening <database url> <home> <address of the Bot API> <address of NATS, or ->

It serves until it is killed; what its consumer is told it appends to `told` in its home, one id a line.
"""

import asyncio
import sys
from pathlib import Path

from quarterdeck.kernel.database import Database
from quarterdeck.telegram.gateway import Gateway
from quarterdeck.telegram.wire import Update
from tests.fakes.telegram_gateway import TelegramRoom


async def main(url: str, home: str, base: str, nats: str) -> None:
    room = TelegramRoom(Database(url), Path(home), base)
    gateway: Gateway = room.gateway(nats_url="" if nats == "-" else nats)

    async def tell(update: Update) -> None:
        with (Path(home) / "told").open("a") as file:
            file.write(update.event_id + "\n")

    gateway.add("test", tell)
    await gateway.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
