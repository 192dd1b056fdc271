"""The router process stays below 120 MB: what calls do not need is not imported."""

import subprocess
import sys

import pytest

from deployments.supervisor import ROOT

HEAVY = (
    *("litellm", "prefect", "fastapi", "typer", "httpx", "openai", "anthropic", "alembic", "numpy"),
    *("rich", "watchfiles"),  # for what is installed beside the router, see deployments/lean.py
)


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """The packages that the router process has before its first call."""
    script = "import sys, deployments.router; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", HEAVY)
def test_the_router_process_does_not_import(imported: set[str], package: str) -> None:
    assert "quarterdeck" in imported
    assert package not in imported
