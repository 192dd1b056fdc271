"""One JSON file that several processes change in turn. Standard library only, for fast programs."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def opened(path: Path, empty: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The state, alone; what was changed in it is kept, also when the block ends with an error."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        state: dict[str, Any] = json.loads(text) if text else json.loads(json.dumps(empty))
        try:
            yield state
        finally:
            file.seek(0)
            file.truncate()
            file.write(json.dumps(state))
