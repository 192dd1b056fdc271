"""The heavy Bot API library is imported by the listener and by nobody else."""

import subprocess
import sys

import pytest

from deployments.supervisor import ROOT


@pytest.mark.parametrize(
    "module", ["deployments.web", "deployments.desk", "deployments.runner", "deployments.cli", "flows.listen"]
)
def test_no_other_process_imports_aiogram(module: str) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {"aiogram", "nats"} & set(done.stdout.split()) == set()
