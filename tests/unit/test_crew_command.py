"""Agents that are programs: how they start, what they are told, what they print, and what they report."""

import json
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.crew.command import CommandRuntime
from tests.fakes.shell_jobs import MakeJob, log, run, shell_jobs


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    return shell_jobs(tmp_path)


@pytest.fixture
async def runtime() -> AsyncIterator[CommandRuntime]:
    yield CommandRuntime(grace=0.2, log_bytes=100_000)


async def test_a_program_that_ends_well_has_exit_code_0(runtime: CommandRuntime, make_job: MakeJob) -> None:
    outcome = await run(runtime, make_job("echo done"))
    assert outcome.succeeded
    assert outcome.exit_code == 0
    assert outcome.started_at and outcome.ended_at and outcome.started_at <= outcome.ended_at


async def test_a_program_that_exits_at_once_with_a_code_has_failed_with_it(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    outcome = await run(runtime, make_job("exit 3"))
    assert (outcome.exit_code, outcome.succeeded, outcome.timed_out) == (3, False, False)


async def test_a_program_starts_and_its_end_is_known_within_a_fifth_of_a_second(
    runtime: CommandRuntime, make_job: MakeJob, tmp_path: Path
) -> None:
    starts, ends = [], []
    for number in range(5):  # the best of five: other tests keep the machine busy
        asked = time.time()
        outcome = await run(runtime, make_job(folder=tmp_path / str(number)))
        assert outcome.started_at and outcome.ended_at
        starts.append(outcome.started_at.timestamp() - asked)
        ends.append(time.time() - outcome.ended_at.timestamp())
    assert min(starts) < 0.2
    assert min(ends) < 0.2


async def test_the_agent_learns_its_job_from_a_file_and_from_its_environment(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job('cat "$QUARTERDECK_JOB"; env > told; pwd -P >> told')
    assert (await run(runtime, job)).succeeded
    told = json.loads(log(job))
    assert told["item"] == {
        "key": "ET-007",
        "title": "Count; rm -rf / $(reboot)",
        "description": "Проверить «кавычки»",
    }
    assert (told["note"], told["documents"]) == ("CI is red", "docs/items/ET-007/")
    lines = (job.work_tree / "told").read_text().splitlines()
    assert {
        "QUARTERDECK_ITEM=ET-007",
        "QUARTERDECK_STAGE=development",
        "QUARTERDECK_ROUND=2",
        "QUARTERDECK_RUN_ID=26",
        "QUARTERDECK_AGENT=developer",
        f"QUARTERDECK_WORK_TREE={job.work_tree}",
        "QUARTERDECK_BRANCH=item/ET-007",
        f"QUARTERDECK_RESULT={told['result']}",
        str(job.work_tree.resolve()),
    } <= set(lines)


async def test_the_agent_sees_nothing_of_the_desks_environment_but_what_it_was_given(
    make_job: MakeJob,
) -> None:
    desk = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/desk",
        "QUARTERDECK_TOKEN": "canary",
        "PREFECT_API_AUTH_STRING": "canary",
        "ORCH_TELEGRAM_BOT_TOKEN": "canary",
        "SOME_DATABASE_URL": "canary",
        "MODEL_KEY": "for the agent",
        "OTHER_KEY": "canary",
    }
    env = {"MODEL_KEY": None, "ABSENT": None, "COLOUR": "blue"}
    job = make_job(parameters={"program": "env", "env": env})
    assert (await run(CommandRuntime(environ=desk), job)).succeeded
    seen = dict(line.split("=", 1) for line in log(job).decode().splitlines())
    assert (seen["MODEL_KEY"], seen["COLOUR"], seen["HOME"]) == ("for the agent", "blue", "/home/desk")
    assert "ABSENT" not in seen
    assert "canary" not in "".join(seen.values())


async def test_the_run_leaves_no_secret_on_the_disk_and_nothing_for_other_users(make_job: MakeJob) -> None:
    job = make_job(parameters={"program": "true", "env": {"MODEL_KEY": None}})
    await run(CommandRuntime(environ={"MODEL_KEY": "canary", "PATH": os.environ["PATH"]}), job)
    assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700
    assert all(b"canary" not in path.read_bytes() for path in job.folder.iterdir())


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/nowhere/agent", "the program /nowhere/agent is not there"),
        ("no-such-agent", "the program no-such-agent is not there"),
        ("./notes.txt", "the program ./notes.txt is not executable"),
        ("./headless", "neither a binary for this machine nor a script"),
        ("./orphan", "names an interpreter that is not there"),
    ],
)
async def test_a_program_that_cannot_be_launched_is_explained(
    runtime: CommandRuntime, make_job: MakeJob, program: str, reason: str
) -> None:
    job = make_job(parameters={"program": program})
    (job.work_tree / "notes.txt").write_text("hello")
    for name, text in {"headless": "hello", "orphan": "#!/nowhere/python\n"}.items():
        (job.work_tree / name).write_text(text)
        (job.work_tree / name).chmod(0o755)
    assert not await runtime.start(job)
    outcome = await runtime.wait(job.folder)
    assert reason in outcome.error
    assert (outcome.exit_code, outcome.started_at, outcome.succeeded) == (None, None, False)


async def test_a_work_tree_that_is_not_there_is_explained(runtime: CommandRuntime, make_job: MakeJob) -> None:
    outcome = await run(runtime, make_job(work_tree=Path("/nowhere/tree")))
    assert outcome.error == "the work tree /nowhere/tree is not there"
    assert outcome.exit_code is None


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "program: Field required"),
        ({"program": "true", "argv": []}, "argv: Extra inputs are not permitted"),
        ({"program": "true", "env": {"QUARTERDECK_TOKEN": None}}, "belongs to the desk"),
        ({"program": "a\ud800"}, "the parameters of agent developer are wrong"),
    ],
)
async def test_wrong_parameters_are_a_launch_that_failed(
    runtime: CommandRuntime, make_job: MakeJob, parameters: dict[str, Any], reason: str
) -> None:
    outcome = await run(runtime, make_job(parameters=parameters))
    assert reason in outcome.error
    assert outcome.started_at is None


async def test_a_program_may_print_a_hundred_megabytes(runtime: CommandRuntime, make_job: MakeJob) -> None:
    script = "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo the very end"
    job = make_job(script)
    outcome = await run(runtime, job)
    assert outcome.succeeded
    kept = log(job)
    assert len(kept) < 200_000
    assert kept.startswith(b"x" * 100_000 + b"\n[quarterdeck: the log is full")
    assert kept.endswith(b"x\nthe very end\n")
    assert b"bytes were left out here]" in kept


async def test_output_that_is_not_utf8_is_kept_as_it_is(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job("printf 'caf\\351 \\377\\376'; printf err >&2")
    assert (await run(runtime, job)).succeeded
    assert log(job) == b"caf\xe9 \xff\xfeerr"


async def test_the_log_can_be_followed_while_the_program_runs(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("echo one; while [ ! -e go ]; do sleep 0.01; done; echo two")
    await runtime.start(job)
    said = b""
    async for piece in runtime.follow(job.folder):
        said += piece
        if said == b"one\n":
            (job.work_tree / "go").touch()
    assert said == b"one\ntwo\n"


async def test_a_full_disk_under_the_log_does_not_end_the_run(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("echo lost; exit 6")
    job.folder.mkdir(parents=True)
    (job.folder / "agent.log").symlink_to("/dev/full")
    assert (await run(runtime, job)).exit_code == 6


REPORT = {
    "summary": "Added counting",
    "pull_request": {"title": "Count", "body": "…"},
    "review": {"verdict": "approved", "comment": "fine"},
    "tokens": 1200,
    "cost_usd": 0.0123455,
}


async def test_the_agents_report_becomes_the_result(runtime: CommandRuntime, make_job: MakeJob) -> None:
    job = make_job(f"cat > $QUARTERDECK_RESULT <<'END'\n{json.dumps(REPORT)}\nEND")
    outcome = await run(runtime, job)
    assert outcome.succeeded
    assert outcome.result == {key: REPORT[key] for key in ("summary", "pull_request", "review")}
    assert (outcome.tokens, outcome.cost_micro_usd) == (1200, 12346)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("printf rubbish", "not JSON"),
        ("printf '[1]'", "the whole: Input should be"),
        ("""printf '{"review": {"verdict": "maybe"}}'""", "review.verdict"),
        ("""printf '{"tokens": -1}'""", "tokens"),
        ("""printf '{"cost_usd": NaN}'""", "cost_usd"),
        ("printf '\\377'", "not JSON"),
        ("head -c 100000 /dev/zero | tr '\\0' '['", "not JSON"),
        ("head -c 1000001 /dev/zero", "larger than 1000000 bytes"),
    ],
)
async def test_a_report_that_is_rubbish_is_an_error_of_the_run(
    runtime: CommandRuntime, make_job: MakeJob, report: str, reason: str
) -> None:
    outcome = await run(runtime, make_job(f"({report}) > $QUARTERDECK_RESULT"))
    assert reason in outcome.error
    assert (outcome.exit_code, outcome.result, outcome.succeeded) == (0, None, False)


@pytest.mark.parametrize("make", ["mkfifo", "mkdir", "echo '{}' > other; ln -s $PWD/other"])
async def test_a_report_that_is_no_file_is_not_read(
    runtime: CommandRuntime, make_job: MakeJob, make: str
) -> None:
    outcome = await run(runtime, make_job(f"{make} $QUARTERDECK_RESULT"))
    assert outcome.error.startswith("The agent's result")


async def test_text_that_the_database_cannot_keep_is_made_harmless(
    runtime: CommandRuntime, make_job: MakeJob
) -> None:
    job = make_job("""printf '%s' '{"summary": "a\\u0000b\\ud800"}' > $QUARTERDECK_RESULT""")
    assert (await run(runtime, job)).result == {"summary": "a\ufffdb?"}
