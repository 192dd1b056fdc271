"""Jobs whose agent is a script of the shell."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.runtime import Job, Outcome

MakeJob = Callable[..., Job]


def shell_jobs(tmp_path: Path) -> MakeJob:
    """Makes jobs whose agent is a shell script; `limit` in seconds."""
    work_tree = tmp_path / "tree"
    work_tree.mkdir()

    def make(script: str = "true", *, limit: float = 20, **changes: Any) -> Job:
        facts: dict[str, Any] = {
            "run_id": 26,
            "item_key": "ET-007",
            "title": "Count; rm -rf / $(reboot)",
            "description": "Проверить «кавычки»",
            "stage": "development",
            "round": 2,
            "agent": "developer",
            "folder": tmp_path / "runs" / "26",
            "work_tree": work_tree,
            "branch": "item/ET-007",
            "limit": timedelta(seconds=limit),
            "note": "CI is red",
            "parameters": {"program": "/bin/sh", "args": ["-c", script]},
        }
        return Job(**(facts | changes))

    return make


async def run(runtime: CommandRuntime, job: Job) -> Outcome:
    await runtime.start(job)
    return await runtime.wait(job.folder)


def log(job: Job) -> bytes:
    return (job.folder / "agent.log").read_bytes()
