"""Programs under supervision: real processes that die, hang, and leave children behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from deployments import leash, process, supervisor
from deployments.supervisor import ROOT, Ended, Program, Supervised, end_group, rotate, tail
from tests.processes import is_alive
from tests.waiting import until

Start = Callable[..., Supervised]


@pytest.fixture
def ends() -> list[Ended]:
    return []


@pytest.fixture
async def start(tmp_path: Path, ends: list[Ended]) -> AsyncIterator[Start]:
    started: list[Supervised] = []

    def begin(*arguments: str) -> Supervised:
        program = Program("resident", ("tests.fakes.resident", *arguments), os.environ)
        part = Supervised(program, tmp_path, ends.append)
        started.append(part)
        part.start()
        return part

    yield begin
    for part in started:
        await part.stop(0)


async def test_a_program_counts_as_healthy_when_it_says_so(start: Start) -> None:
    part = start()
    await asyncio.wait_for(part.healthy.wait(), 20)
    assert part.pid is not None
    assert is_alive(part.pid)


async def test_a_killed_program_comes_back_and_is_told_of(start: Start, ends: list[Ended]) -> None:
    part = start()
    await asyncio.wait_for(part.healthy.wait(), 20)
    first = part.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: part.pid not in (None, first) and part.healthy.is_set())
    assert [(end.exit_code, end.failures) for end in ends] == [(-signal.SIGKILL, 1)]


async def test_a_program_that_ends_takes_its_children_with_it(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "child"
    part = start("parent", str(file))
    await asyncio.wait_for(part.healthy.wait(), 20)
    child, first = int(file.read_text()), part.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: part.pid != first)
    assert not is_alive(child)


async def test_stop_ends_a_program_that_will_not_hear(start: Start, ends: list[Ended]) -> None:
    part = start("stubborn")
    await asyncio.wait_for(part.healthy.wait(), 20)
    pid = part.pid
    assert pid is not None
    async with asyncio.timeout(20):
        await part.stop(0.2)
    assert not is_alive(pid)
    assert ends == []


async def test_a_crash_loop_slows_down_and_shows_the_log(start: Start, ends: list[Ended]) -> None:
    start("fails")
    await until(lambda: len(ends) == 3)
    assert [(end.failures, end.pause) for end in ends] == [(1, 0.5), (2, 1.0), (3, 2.0)]
    assert "no coal" in ends[-1].last_lines[-1]


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("misconfigured", process.MISCONFIGURED, "The bunker is locked. Unlock it."),
        ("waits", process.TRY_AGAIN, "There is no coal yet."),
        ("fails", 1, ""),
    ],
)
async def test_a_program_that_cannot_go_on_says_why_and_whether_a_person_must_act(
    start: Start, ends: list[Ended], how: str, code: int, said: str
) -> None:
    start(how)
    await until(lambda: ends)
    assert (ends[0].exit_code, ends[0].reason) == (code, said)


async def test_a_program_in_its_pause_can_be_stopped(start: Start, ends: list[Ended]) -> None:
    part = start("fails")
    await until(lambda: ends)
    async with asyncio.timeout(20):
        await part.stop(1)


async def test_children_stop_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """The supervisor here is a process of its own, so that it can be killed without a word."""
    file = tmp_path / "child"
    script = f"""
import asyncio, os
from pathlib import Path
from deployments.supervisor import Program, Supervised
async def main():
    arguments = ("tests.fakes.resident", "parent", {str(file)!r})
    part = Supervised(Program("r", arguments, os.environ), Path({str(tmp_path)!r}), print)
    part.start()
    await part.healthy.wait()
    print(part.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    boss = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert boss.stdout is not None
    with boss.stdout:
        pid = int(await asyncio.to_thread(boss.stdout.readline))
    child = int(file.read_text())
    boss.kill()
    boss.wait()
    await until(lambda: not is_alive(pid) and not is_alive(child), leash.GRACE)


async def test_a_child_stops_whose_supervisor_died_before_it_heard_that_it_is_ready() -> None:
    ours, its = socket.socketpair()
    with its:
        command = (sys.executable, "-m", leash.__name__, str(its.fileno()), "tests.fakes.resident")
        child = subprocess.Popen(command, cwd=ROOT, pass_fds=[its.fileno()], start_new_session=True)
    with ours:
        assert await asyncio.to_thread(ours.recv, 64, socket.MSG_PEEK)
    try:
        await until(lambda: child.poll() is not None, leash.GRACE)
    finally:
        child.kill()
        child.wait()


async def test_ending_a_group_that_is_gone_is_no_error() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    done.wait()
    await end_group(done.pid)


def test_a_log_that_grew_too_large_is_set_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "web.log"
    with file.open("ab") as writer:
        writer.write(b"old\n" * 100)
        writer.flush()
        rotate(file, largest=50)
        writer.write(b"new\n")
    assert file.read_bytes() == b"new\n"
    assert (tmp_path / "web.log.1").read_bytes() == b"old\n" * 100


def test_a_log_that_cannot_be_set_aside_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_bytes(b"line\n" * 100)
    (tmp_path / "web.log.1").symlink_to("/dev/full")
    rotate(tmp_path / "web.log", largest=50)
    assert [file.name for file in tmp_path.iterdir()] == ["web.log"], "and half a copy is not left"
    assert (tmp_path / "web.log").read_bytes() == b"line\n" * 100


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_text("few words\n")
    rotate(tmp_path / "web.log")
    assert [file.name for file in tmp_path.iterdir()] == ["web.log"]


def test_the_end_of_a_log_is_whole_lines_even_if_they_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"one\ntwo \xff\nthree\n")
    assert tail(tmp_path / "x.log", 2) == ("two \ufffd", "three")
    assert supervisor.tail(tmp_path / "none.log") == ()


async def test_a_program_that_cannot_be_started_now_is_tried_again(tmp_path: Path) -> None:
    ends: list[Ended] = []
    logs = tmp_path / "logs"
    program = Program("resident", ("tests.fakes.resident",), os.environ)
    part = Supervised(program, logs, ends.append)
    part.start()
    await until(lambda: ends)
    assert ends[0].exit_code == os.EX_OSERR
    logs.mkdir()
    await asyncio.wait_for(part.healthy.wait(), 20)
    await part.stop(1)
