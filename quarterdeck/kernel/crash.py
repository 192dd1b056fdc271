"""Points at which a test may kill the process, so that recovery is proved and not believed.

`QUARTERDECK_CRASH_AT="after file item"` kills this process (SIGKILL, nothing is cleaned up) when the
point is first reached; `"after file item#3"` the third time. `QUARTERDECK_CRASH_LOG` names a file to
which every point reached is appended: a test reads there which points a scenario has.
Without these variables a point costs one dictionary look-up.
"""

import os
import signal
from collections import Counter
from pathlib import Path

_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Die here if a test asked for it."""
    wanted, log = os.environ.get("QUARTERDECK_CRASH_AT"), os.environ.get("QUARTERDECK_CRASH_LOG")
    if not wanted and not log:
        return
    _passed[name] += 1
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    if wanted in (f"{name}#{_passed[name]}", name):
        os.kill(os.getpid(), signal.SIGKILL)
