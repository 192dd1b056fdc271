"""One PostgreSQL and one Prefect server, shared by all crash points; the crew notes every start."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from deployments.setup import EXAMPLES
from tests.services.conftest import client_of_prefect, house, prefect

__all__ = ["client_of_prefect", "home", "house", "prefect"]

COUNTED = """#!/bin/sh
# One line for every time that a program is really started; then be the scripted agent.
echo "$QUARTERDECK_ITEM $QUARTERDECK_STAGE $QUARTERDECK_ROUND" >> "$STARTS"
exec "$PYTHON" "$REHEARSAL" "$@"
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose crew breaks the tests once, so that a repair and a wait are on the way."""
    home = tmp_path_factory.mktemp("chaos") / "home"
    (home / "agents").mkdir(parents=True)
    shutil.copy(EXAMPLES / "agents" / "rehearsal.py", home / "agents")
    program = home / "agents" / "counted"
    program.write_text(COUNTED)
    program.chmod(0o755)
    (home / "crew.yaml").write_text(_roster(home))
    return home


def _roster(home: Path) -> str:
    told = {
        "STARTS": str(home / "starts"),
        "PYTHON": sys.executable,
        "REHEARSAL": str(home / "agents" / "rehearsal.py"),
        "PATH": os.environ["PATH"],
    }
    env = ", ".join(f"{name}: {value!r}" for name, value in told.items())
    agents = ["agents:"]
    for slug in ("analyst", "architect", "developer", "reviewer"):
        args = ["--break-in", "1"] if slug == "developer" else []
        agents.append(
            f"  - {{slug: {slug}, max_concurrent: 8,"
            f" parameters: {{program: agents/counted, args: {args}, env: {{{env}}}}}}}"
        )
    return "\n".join(agents) + "\n"
