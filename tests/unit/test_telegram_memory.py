"""The heavy Bot API library is imported by the listener and by nobody else."""

import subprocess
import sys

from deployments.supervisor import ROOT

OTHERS = ("deployments.cli", "deployments.web", "deployments.desk", "deployments.runner", "flows.listen")
SCRIPT = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
    print(name, *({"aiogram", "nats"} & sys.modules.keys()))
"""


def test_no_other_process_imports_aiogram() -> None:
    command = [sys.executable, "-c", SCRIPT, *OTHERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*OTHERS]
