"""What makes a function a step: one Prefect task, without cache or stored result (our tables have both)."""

from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from quarterdeck.kernel.errors import Unavailable

PAUSE = 2
"""Seconds before a step is asked again."""


async def _is_passing(_task: "Task[..., Any]", _run: TaskRun, state: "State[Any]") -> bool:
    """Only a part that is down is asked again; a refusal stays one.

    Who wants more peace than our pause is not asked again in this run: whoever called it decides when.
    """
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, Unavailable) and (error.data.get("retry_after") or 0) <= PAUSE


def step(
    name: str, *, seconds: float | None, retries: int = 0, run_name: str | None = None
) -> Callable[..., Any]:
    """A task with a time limit (None = its own work has one), asked again while something is down.

    `run_name` may name parameters in braces.
    """
    return task(
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        timeout_seconds=seconds,
        retries=retries,
        retry_delay_seconds=PAUSE,
        retry_condition_fn=_is_passing if retries else None,
    )
