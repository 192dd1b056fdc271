"""Single processes that cannot go on: each says why in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.supervisor import ROOT


def ends(module: str, **environment: str) -> str:
    """What it says; it fails."""
    done = subprocess.run(
        [sys.executable, "-m", f"deployments.{module}"],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("module", ["web", "desk", "router"])
def test_a_wrong_setting_is_named(module: str, tmp_path: Path) -> None:
    said = ends(
        module, QUARTERDECK_HOME=str(tmp_path), QUARTERDECK_DATABASE_URL="postgresql://anna:x@db:port/d"
    )
    assert "QUARTERDECK_DATABASE_URL cannot be used: its port is not a number." in said
    assert "Traceback" not in said


def test_a_desk_that_was_not_told_where_prefect_is_says_so(tmp_path: Path) -> None:
    said = ends("desk", QUARTERDECK_HOME=str(tmp_path))
    assert "The desk does not know where Prefect's server is. Start both with `quarterdeck up`" in said
    assert "Traceback" not in said


def test_a_runner_without_prefects_server_says_so(tmp_path: Path) -> None:
    told = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    said = ends("runner", QUARTERDECK_HOME=str(tmp_path), **told)
    assert "Prefect's server does not answer: ConnectError. Start it with `quarterdeck up`" in said
    assert "Traceback" not in said
