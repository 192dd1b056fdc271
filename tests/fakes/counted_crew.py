"""The scripted crew, which notes every start of a program: an agent that is started twice is found out.

While there is a file `held` beside the notes (`starts.held`), who was started goes on and does nothing.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployments.setup import EXAMPLES

COUNTED = """#!/bin/sh
# One line for every time that a program is really started; then be the scripted agent.
echo "$QUARTERDECK_ITEM $QUARTERDECK_STAGE $QUARTERDECK_ROUND" >> "$STARTS"
while [ -e "$STARTS.held" ]; do sleep 0.1; done
exec "$PYTHON" "$REHEARSAL" "$@"
"""
CREW = ("analyst", "architect", "developer", "reviewer")


def hire(home: Path, starts: Path, *, known_as: Path | None = None, **args: Sequence[str]) -> None:
    """Put the crew into a new home; `known_as`: what its programs call it. `args`: agent -> arguments."""
    (home / "agents").mkdir(parents=True)
    shutil.copy(EXAMPLES / "agents" / "rehearsal.py", home / "agents")
    program = home / "agents" / "counted"
    program.write_text(COUNTED)
    program.chmod(0o755)
    (home / "crew.yaml").write_text(_roster(known_as or home, starts, args))


def _roster(home: Path, starts: Path, args: Mapping[str, Sequence[str]]) -> str:
    told = {
        "STARTS": str(starts),
        "PYTHON": sys.executable,
        "REHEARSAL": str(home / "agents" / "rehearsal.py"),
        "PATH": os.environ["PATH"],
    }
    env = ", ".join(f"{name}: {value!r}" for name, value in told.items())
    agents = ["agents:"]
    for slug in CREW:
        agents.append(
            f"  - {{slug: {slug}, max_concurrent: 8, parameters:"
            f" {{program: agents/counted, args: {list(args.get(slug, []))}, env: {{{env}}}}}}}"
        )
    return "\n".join(agents) + "\n"
