"""The nightly backup in a process of its own: what it needs for a moment, the router would keep for ever.

python -m quarterdeck.router.upkeep.backing_up     reads an order as JSON, and answers with what it did
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from quarterdeck.kernel import children
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.kernel.words import counted

log = structlog.get_logger(__name__)


async def back_up(url: str, folder: Path, now: datetime, days: int) -> str:
    """Write a verified backup, retire those older than so many days, and say so in a few words.

    `now`: what the file is named after. Raises `Unavailable` with the reason when there is no new backup.
    """
    done = await _told({"url": url, "folder": str(folder), "now": now.isoformat(), "days": days})
    log.info("db_backup_created", path=done["path"], rows=done["rows"])
    for path in done["retired"]:
        log.info("db_backup_retired", path=path)
    retired = counted(len(done["retired"]), "old one")
    return f"{Path(done['path']).name} with {counted(done['rows'], 'row')}; {retired} retired"


async def _told(order: dict[str, Any]) -> dict[str, Any]:
    """The order goes in by a pipe, for it holds a password."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__), stdin=PIPE, stdout=PIPE, start_new_session=True
    )
    try:
        answer, _ = await process.communicate(json.dumps(order).encode())
    finally:
        await children.end(process)
    told: dict[str, Any] = json.loads(answer) if answer else {}
    if reason := told.get("failed") or ("" if told else f"its process ended with code {process.returncode}"):
        raise Unavailable(f"The backup was not written: {reason}", "The router tries again by itself.")
    return told


# In the process


def obeyed(order: dict[str, Any]) -> dict[str, Any]:
    """Do it: where the backup is, its rows, what was retired; or why it failed."""
    from quarterdeck.router.storage import backup  # with SQLite, 2 MB

    folder, now = Path(order["folder"]), datetime.fromisoformat(order["now"])
    try:
        made = backup.make(order["url"], folder, now)
        retired = backup.retire(folder, order["days"], now)
    except QuarterdeckError as error:
        return {"failed": error.detail}
    except DBAPIError as error:
        return {"failed": str(error.orig).partition("\n")[0]}
    except OSError as error:
        return {"failed": f"{error.strerror or type(error).__name__} ({folder})."}
    rows = sum(made.rows.values())
    return {"path": str(made.path), "rows": rows, "retired": [str(path) for path in retired]}


if __name__ == "__main__":
    print(json.dumps(obeyed(json.load(sys.stdin))))
