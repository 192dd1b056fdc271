"""What is worth another try."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from quarterdeck.kernel.errors import Unavailable


async def is_passing(task: "Task[..., Any]", task_run: TaskRun, state: "State[Any]") -> bool:
    """Only a part that is down is asked again; a refusal stays one."""
    failure = await state.aresult(raise_on_failure=False)
    return isinstance(failure, Unavailable)
