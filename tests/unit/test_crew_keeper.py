"""A program under its keeper: limited, stopped, started once, survived, whatever else a bad one does."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from quarterdeck.crew import keeper
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.runtime import Job
from quarterdeck.kernel.errors import Unavailable
from tests.fakes.forking import Forks
from tests.fakes.shell_jobs import MakeJob, log, run, shell_jobs
from tests.processes import is_alive
from tests.waiting import until


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    return shell_jobs(tmp_path)


@pytest.fixture
async def runtime() -> AsyncIterator[CommandRuntime]:
    yield CommandRuntime(grace=0.2, log_bytes=100_000)


def numbers(path: Path, count: int = 1) -> list[int]:
    """The process ids that an agent wrote, once all are there."""
    found = [int(word) for word in path.read_text().split()] if path.exists() else []
    return found if len(found) >= count else []


def keeper_of(job: Job) -> psutil.Process:
    started = json.loads((job.folder / "started.json").read_bytes())
    parent = psutil.Process(started["pid"]).parent()
    assert parent is not None
    return parent


async def test_children_do_not_outlive_the_program(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job("sleep 60 & echo $! > pids; exit 0")
    assert (await run(runtime, job)).succeeded
    (pid,) = numbers(job.work_tree / "pids")
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the keeper")
async def test_daemons_do_not_outlive_the_program(runtime: CommandRuntime, make_job: MakeJob) -> None:
    daemon = "(setsid sh -c 'sleep 61 & echo $! $$ >> pids; wait' >/dev/null 2>&1 &)"
    job = make_job(f"{daemon}; while [ ! -s pids ]; do sleep 0.01; done")
    assert (await run(runtime, job)).succeeded
    assert not any(is_alive(pid) for pid in numbers(job.work_tree / "pids", 2))


async def test_a_program_that_overruns_its_limit_is_killed_with_its_children(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("sleep 62 & echo $! > pids; wait", limit=0.3)
    outcome = await run(runtime, job)
    assert (outcome.exit_code, outcome.timed_out, outcome.cancelled) == (-9, True, False)
    assert not is_alive(numbers(job.work_tree / "pids")[0])


async def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("trap '' TERM; echo $$ > pids; while :; do sleep 0.05; done", limit=0.2)
    outcome = await run(runtime, job)
    assert (outcome.exit_code, outcome.timed_out) == (-9, True)
    assert not is_alive(numbers(job.work_tree / "pids")[0])


async def test_a_program_that_ends_politely_at_its_limit_still_counts_as_killed(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("trap 'echo saved; exit 0' TERM; while :; do sleep 0.02; done", limit=0.2)
    outcome = await run(runtime, job)
    assert (outcome.exit_code, outcome.timed_out, outcome.succeeded) == (-9, True, False)
    assert b"saved" in log(job)


async def test_a_program_killed_by_somebody_else_is_not_taken_for_a_time_out(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    outcome = await run(runtime, make_job("kill -KILL $$"))
    assert (outcome.exit_code, outcome.timed_out) == (137, False)


async def test_a_run_can_be_stopped(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job("sleep 63 & echo $! > pids; wait")
    await runtime.start(job)
    (child,) = await until(lambda: numbers(job.work_tree / "pids"))
    outcome = await runtime.stop(job.folder, "cancelled by anna")
    assert (outcome.cancelled, outcome.timed_out, outcome.error) == (True, False, "cancelled by anna")
    assert outcome.started_at is not None
    assert not is_alive(child)


async def test_a_run_stopped_before_it_started_never_starts(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("touch ran")
    await runtime.stop(job.folder, "not needed")
    outcome = await run(runtime, job)
    assert (outcome.cancelled, outcome.exit_code, outcome.started_at) == (True, None, None)
    assert not (job.work_tree / "ran").exists()


async def test_cancelling_a_wait_leaves_the_run_alone(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job("while [ ! -e go ]; do sleep 0.01; done")
    assert await runtime.start(job)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.wait(job.folder), 0.1)
    (job.work_tree / "go").touch()
    assert (await runtime.wait(job.folder)).succeeded


async def test_many_starts_at_once_start_one_program(make_job: MakeJob) -> None:
    job = make_job("echo x >> starts; sleep 0.2")
    outcomes = await asyncio.gather(*(run(CommandRuntime(), job) for _ in range(6)))
    assert (job.work_tree / "starts").read_text() == "x\n"
    assert len(set(map(str, outcomes))) == 1


async def test_a_finished_run_is_not_started_again(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job("echo x >> starts; exit 4")
    first = await run(runtime, job)
    assert await run(CommandRuntime(), job) == first
    assert (job.work_tree / "starts").read_text() == "x\n"


async def test_when_the_keeper_is_killed_the_program_dies_and_the_run_has_failed(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("setsid sleep 64 & echo $! > pids; echo $$ >> pids; exec sleep 65")
    await runtime.start(job)
    pids = await until(lambda: numbers(job.work_tree / "pids", 2))
    keeper_of(job).kill()
    outcome = await runtime.wait(job.folder)
    assert "keeper was killed" in outcome.error
    assert (outcome.exit_code, outcome.succeeded) == (137, False)
    await until(lambda: not any(is_alive(pid) for pid in pids))
    assert await run(runtime, job) == outcome


async def test_a_keeper_does_not_start_again_what_a_dead_keeper_had_started(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("echo x >> starts; exec sleep 68")
    await runtime.start(job)
    await until((job.work_tree / "starts").exists)
    keeper_of(job).kill()
    second = [sys.executable, "-I", "-S", keeper.__file__, str(job.folder)]
    await asyncio.to_thread(subprocess.run, second, check=True, timeout=10)
    assert (job.work_tree / "starts").read_text() == "x\n"
    assert "keeper was killed" in (await runtime.wait(job.folder)).error


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "66"], start_new_session=True) as process:
        yield process
        process.kill()


async def test_a_process_that_got_the_dead_programs_id_is_left_alone(
    runtime: CommandRuntime, make_job: MakeJob, bystander: subprocess.Popen[bytes]
) -> None:
    job = make_job()
    job.folder.mkdir(parents=True)
    (job.folder / "started.json").write_text(
        json.dumps({"pid": bystander.pid, "born": "long-ago", "at": 1.0})
    )
    assert "keeper was killed" in (await runtime.wait(job.folder)).error
    assert bystander.poll() is None


async def test_a_run_survives_its_starter_and_is_adopted(
    forks: Forks, runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("echo x >> starts; while [ ! -e go ]; do sleep 0.01; done; exit 5")
    starter = f"""
import asyncio, os, signal
from datetime import timedelta
from pathlib import PosixPath
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.runtime import Job
job = {job!r}
object.__setattr__(job, "parameters", {dict(job.parameters)!r})
asyncio.run(CommandRuntime().start(job))
os.kill(os.getpid(), signal.SIGKILL)
""".replace("datetime.timedelta", "timedelta")
    ended = await forks.run(starter)
    assert ended.code == -signal.SIGKILL
    await runtime.start(job)
    (job.work_tree / "go").touch()
    assert (await runtime.wait(job.folder)).exit_code == 5
    assert (job.work_tree / "starts").read_text() == "x\n"


async def test_following_ends_when_the_keeper_is_gone(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job("echo one; exec sleep 67")
    await runtime.start(job)
    async for _ in runtime.follow(job.folder):
        keeper_of(job).kill()
    await runtime.wait(job.folder)


async def test_a_run_folder_that_cannot_be_made_is_this_hosts_trouble(
    runtime: CommandRuntime, make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    job = make_job(folder=tmp_path / "file" / "26")
    with pytest.raises(Unavailable, match="cannot be looked after"):
        await runtime.start(job)


async def test_a_keeper_that_cannot_work_is_this_hosts_trouble(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job()
    (job.folder / "exit.json.part").mkdir(parents=True)
    with pytest.raises(Unavailable, match="directory"):
        await runtime.start(job)
