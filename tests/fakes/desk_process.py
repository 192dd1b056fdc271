"""The desk, for tests that kill it again and again.

    forks.begin("tests.fakes.desk_process", QUARTERDECK_CRASH_AT="after claim")

What Prefect imports only when the first flow runs is imported at once: every desk is forked from a process
that has its imports done.
"""

import fastapi  # noqa: F401
import prefect.concurrency.v1.context
import prefect.flow_engine
import prefect.task_engine
import prefect.telemetry.run_telemetry
import prefect.utilities.visualization  # noqa: F401

from deployments import desk, process

if __name__ == "__main__":
    process.run(desk.main)
