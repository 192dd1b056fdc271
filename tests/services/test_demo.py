"""`quarterdeck demo` as whoever tries Quarterdeck sees it: one item goes all the way, and nothing is left."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.supervisor import ROOT
from quarterdeck.notify.texts import MESSAGES

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def test_the_demo_brings_an_item_to_done_and_shows_every_kind_of_message(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "demo"],
        env=os.environ | {"QUARTERDECK_HOME": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert told.returncode == 0, told.stdout
    assert f"messages of {len(MESSAGES)} kinds delivered." in told.stdout
    assert "Traceback" not in told.stdout
    assert _left_over(tmp_path) == []


def _left_over(home: Path) -> list[str]:
    """Programs that still work in the demo's home."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(home) in part for part in process.info["cmdline"] or ())
    ]
