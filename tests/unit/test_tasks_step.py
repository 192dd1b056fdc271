"""A step that something outside kept from its end is asked again at once, or left to whoever called it."""

from typing import Any

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from quarterdeck.kernel.errors import Conflict, QuarterdeckError, Unavailable
from tasks.step import step


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unavailable("It is down."), True),
        (Unavailable("It is busy.", retry_after=None), True),
        (Unavailable("It is busy.", retry_after=1), True),
        (Unavailable("It is busy.", retry_after=30), False),
        (Conflict("It says no."), False),
    ],
)
async def test_who_asked_for_peace_is_not_asked_again_within_the_step(
    error: QuarterdeckError, again: bool
) -> None:
    @step("ask", seconds=1, retries=3)
    async def ask() -> None: ...

    task: Any = ask
    run = TaskRun.model_construct()
    assert await task.retry_condition_fn(task, run, Failed(data=error)) is again
