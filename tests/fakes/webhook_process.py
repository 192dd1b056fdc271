"""A process that takes in deliveries, or works on them, for tests that kill it.

    python -m tests.fakes.webhook_process accept <database url> <id>...
    python -m tests.fakes.webhook_process work <database url> <file>

The handler appends a line to `file` for each delivery: that is its effect.
"""

import asyncio
import sys
from pathlib import Path

from quarterdeck.kernel import crash
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.inbox import Delivery, Inbox


async def accept(url: str, *numbers: str) -> None:
    database = Database(url)
    for number in numbers:
        body = b'{"number": %d}' % int(number)
        print(number, await Inbox(database).accept("plane", number, "issue", {}, body), flush=True)
    await database.close()


async def work(url: str, file: str) -> None:
    async def note(delivery: Delivery) -> str:
        crash.point("before the effect")
        with Path(file).open("a", encoding="utf-8") as notes:
            notes.write(f"{delivery.delivery_id}\n")
        crash.point("after the effect")
        return "noted"

    database = Database(url)
    await Inbox(database).work_off({"plane": note})
    await database.close()


if __name__ == "__main__":
    asyncio.run({"accept": accept, "work": work}[sys.argv[1]](*sys.argv[2:]))
