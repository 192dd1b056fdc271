#!/usr/bin/env python3
"""A scripted agent: plays every role of the default pipeline without any model.

It shows the whole contract of the `command` runtime (docs/reference/command-agents.md) with Python's
standard library alone: read the job, change the work tree, report a result. Replace it, agent by agent,
by programs that think. `--fail-in`, `--overrun-in` and `--break-in` name rounds in which it misbehaves.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DOCUMENTS = {
    "analysis": {
        "brd.md": "# {title}\n\nWhy: {description}\n",
        "specification.md": "# Specification of {key}\n\n`greet(name)` returns `Hello, <name>!`.\n",
        "acceptance.md": "# Acceptance of {key}\n\n- `greet('Ada')` is `Hello, Ada!`.\n- The tests pass.\n",
    },
    "architecture": {
        "architecture.md": "# Decision for {key}\n\nOne pure function in `greeting.py`, tested beside it.\n",
    },
}
CODE = 'def greet(name: str) -> str:\n    """Greet somebody by name."""\n    return f"Hello, {name}!"\n'
TEST = """import unittest

from greeting import greet


class Greeting(unittest.TestCase):
    def test_it_names_whom_it_greets(self) -> None:
        self.assertEqual(greet("Ada"), "Hello, Ada!")


if __name__ == "__main__":
    unittest.main()
"""


def main() -> int:
    job = json.loads(Path(os.environ["QUARTERDECK_JOB"]).read_text(encoding="utf-8"))
    trouble = arguments()
    say(f"round {job['round']} of {job['stage']} for {job['item']['key']}: {job['item']['title']}")
    if job["note"]:
        say(f"sent back because: {job['note']}")
    if job["round"] in trouble.fail_in:
        say("this round is scripted to fail")
        return 1
    if job["round"] in trouble.overrun_in:
        overrun()
    result = act(job, broken=job["round"] in trouble.break_in)
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--fail-in", "--overrun-in", "--break-in"):
        parser.add_argument(name, type=int, nargs="*", default=[], metavar="ROUND")
    return parser.parse_args()


def act(job: dict[str, Any], *, broken: bool) -> dict[str, Any]:
    """Do what the stage asks for; returns the report."""
    if job["stage"] == "development":
        return develop(job, broken=broken)
    if job["stage"] == "review":
        return review()
    for name, template in DOCUMENTS.get(job["stage"], {}).items():
        write(Path(job["documents"]) / name, template.format(**job["item"]))
    return {"summary": f"wrote the documents of {job['stage']}"}


def develop(job: dict[str, Any], *, broken: bool) -> dict[str, Any]:
    write(Path("greeting.py"), CODE.replace("Hello", "Goodbye") if broken else CODE)
    write(Path("test_greeting.py"), TEST)
    if not any(Path(name).exists() for name in (".quarterdeck.yaml", ".ci/run", "Makefile")):
        write(Path(".quarterdeck.yaml"), "test: python3 -m unittest\n")  # how CI is told what to run
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "-m", f"{job['item']['key']}: greet by name")
    say("committed greeting.py and its test" + (" (with a bug, as scripted)" if broken else ""))
    return {
        "summary": "implemented",
        "pull_request": {"title": f"{job['item']['key']}: {job['item']['title']}"},
    }


def review() -> dict[str, Any]:
    passed = subprocess.run([sys.executable, "-m", "unittest", "-q"], check=False).returncode == 0
    say("the tests pass here too" if passed else "the tests fail here")
    verdict = "approved" if passed else "rejected"
    return {"review": {"verdict": verdict, "comment": "ran the tests"}}


def overrun() -> None:
    """Outlive the limit, with a child that must be killed as well."""
    say("this round is scripted to overrun its limit, together with a child")
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    time.sleep(3600)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def git(*arguments: str) -> None:
    who = ["-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@localhost"]
    subprocess.run(["git", *who, *arguments], check=True)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
