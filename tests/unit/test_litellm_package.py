"""LiteLLM was attacked through its packages: what is installed here is looked at before it is trusted."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BAD = ("1.82.7", "1.82.8", "1.107.0")
PIN = re.compile(r"^litellm==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)

OFFLINE = """
import socket, sys

def refuse(*_, **__):
    raise SystemExit("a connection was tried")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
import quarterdeck.router.ways.litellm_library
print("imported", "litellm" in sys.modules)
"""


def locked() -> tuple[str, str]:
    """The version in the lock, and its hashes."""
    found = PIN.search((ROOT / "requirements.lock").read_text())
    assert found, "requirements.lock pins no LiteLLM with hashes"
    return found[1], found[2]


def test_the_version_is_pinned_exactly_and_is_the_installed_one() -> None:
    (wanted,) = re.findall(r"^litellm\b(\S*)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    version, _ = locked()
    pin, *excluded = wanted.split(",")
    assert pin == f"=={version}"
    assert excluded == [f"!={bad}" for bad in BAD]
    assert distribution("litellm").version == version


def test_the_lock_names_the_hashes_of_the_package() -> None:
    _, hashes = locked()
    assert hashes.count("--hash=sha256:") >= 1


@pytest.mark.parametrize("version", BAD)
def test_no_version_known_to_be_bad_is_locked(version: str) -> None:
    assert locked()[0] != version


def test_nothing_in_the_package_runs_before_it_is_imported() -> None:
    files = distribution("litellm").files
    assert files
    names = [Path(str(file)).name for file in files]
    assert [name for name in names if name.endswith(".pth")] == []
    assert [name for name in names if name.startswith(("sitecustomize", "usercustomize"))] == []
    assert {str(file).split("/")[0] for file in files if not str(file).startswith("..")} <= {
        "litellm",
        "litellm_cli",
        f"litellm-{distribution('litellm').version}.dist-info",
    }


def test_importing_it_makes_no_connection() -> None:
    told = subprocess.run(
        [sys.executable, "-c", OFFLINE], check=False, capture_output=True, text=True, timeout=110
    )
    assert told.stdout.split() == ["imported", "True"], told.stderr
    assert "price" not in told.stderr and "fetch" not in told.stderr
