"""The same desk without Prefect as in `tests/flows`."""

from tests.flows.conftest import open_desk, plain_tasks, surroundings

__all__ = ["open_desk", "plain_tasks", "surroundings"]
