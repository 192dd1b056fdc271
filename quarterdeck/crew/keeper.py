"""The keeper: a small process of its own that runs one agent's program and outlives whoever started it.

    python -I -S keeper.py <folder>

It starts the program of `<folder>/order.json` once and never again, follows its output into `agent.log`,
ends it with its whole group at the limit or when the file `stop` appears, and writes `exit.json`. Its own
environment is the program's. It may import only the standard library, and little of it: an agent waits
for this file to load. Linux and macOS; a program that leaves its group is found again on Linux only.

    keeper.lock    held as long as the keeper lives
    started.json   {"pid", "born", "at"}, written before the program's first instruction
    launched       there once the program runs; never, if it cannot be launched
    exit.json      {"exit_code", "timed_out", "cancelled", "error", "at"}, the last thing written
"""
# pathlib takes as long to load as all the rest:
# ruff: noqa: PTH105, PTH109, PTH110, PTH112, PTH118, PTH123, PTH208

import errno
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import Any

ORDER, LOCK, STOP = "order.json", "keeper.lock", "stop"
STARTED, LAUNCHED, EXIT, LOG = "started.json", "launched", "exit.json", "agent.log"
MARK = "QUARTERDECK_KEEPER"
"""The variable that holds the run's folder; every process of the run inherits it."""

KILLED = -9
"""The exit code of a program that overran its limit, however it died."""

LOOK = 0.2
"""Seconds between looks for the file `stop`."""

LAST_WORDS = 65536
"""Bytes kept of the end of an output that is longer than the log may be."""

DEAF_TO = (signal.SIGINT, signal.SIGHUP)
"""Signals that end the desk but not its runs."""

CAN_PEEK = hasattr(os, "waitid")
"""Can a dead process be seen without being let go of? Not on older versions of macOS's Python."""

PATIENCE = 5.0
"""Seconds for what was killed to be gone, and for its output to end."""


def born(pid: int) -> str | None:
    """When a process began, as a word that no later process with the same id has; None = no such process."""
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                return f"{_boot()}-{stat.read().rpartition(b') ')[2].split()[19].decode()}"
        except OSError:
            return None
    with os.popen(f"LC_ALL=C ps -o lstart= -p {int(pid)}") as answer:  # noqa: S605
        return answer.read().strip() or None


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot:
            return boot.read(8)
    except OSError:
        return ""


def save(name: str, facts: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all, even after a power cut."""
    part = f"{name}.part"
    file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        text = json.dumps(facts).encode()
        os.write(file, text.ljust(os.fstat(file).st_size))
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(part, name)


def reserve() -> None:
    """Take the room that the end will need, so that a full disk cannot keep it from being written."""
    for name, size in ((LAUNCHED, 0), (EXIT, 4096)):
        with open(f"{name}.part", "wb") as file:
            file.write(b" " * size)


class Log:
    """The output as it came: the first `most` bytes at once, of the rest only the end. Never raises."""

    def __init__(self, most: int) -> None:
        self._file = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._left = most
        self._lost = 0
        self._end = bytearray()

    def write(self, output: bytes) -> None:
        done = self._put(output[: self._left])
        self._left -= done
        if rest := output[done:]:
            if not self._lost:
                self._put(b"\n[quarterdeck: the log is full; only the end of the output will follow]\n")
            self._lost += len(rest)
            self._end += rest
            if len(self._end) > 2 * LAST_WORDS:
                del self._end[:-LAST_WORDS]

    def close(self) -> None:
        if self._lost:
            last = bytes(self._end[-LAST_WORDS:])
            self._put(b"[quarterdeck: %d bytes were left out here]\n" % (self._lost - len(last)) + last)

    def _put(self, output: bytes) -> int:
        done = 0
        while done < len(output):
            try:
                done += os.write(self._file, output[done:])
            except OSError:  # the disk is full: the run goes on without this piece
                break
        return done


class Program:
    """The agent's program: a process group of its own, and whatever escapes from it."""

    def __init__(self, pid: int, output: int, exec_error: int) -> None:
        self.pid = pid
        self.output = output
        self._exec_error = exec_error

    def launch_error(self) -> int:
        """Wait until the program runs; the error number if it never will."""
        answer = os.read(self._exec_error, 16)
        os.close(self._exec_error)
        return int(answer or b"0")

    def signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except OSError:  # nobody is left in the group
            return

    def ended(self) -> int | None:
        """The exit code, or None while it runs. What is left of its group is dead by then.

        A signal counts as 128 + its number, so that -9 can mean nothing but the limit.
        """
        if CAN_PEEK:
            if not self._is_dead():
                return None
            self.signal(signal.SIGKILL)  # while the id of the group is still its own
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        if not CAN_PEEK:
            self.signal(signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _is_dead(self) -> bool:
        """Has the program exited? Adopted orphans that did are let go of."""
        while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if dead.si_pid == self.pid:
                return True
            os.waitpid(dead.si_pid, 0)
        return False

    def kill_escaped(self) -> None:
        """Kill the descendants that left the group; Linux hands them to the keeper when they are orphans."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                for child in _children():
                    _kill(child)
                time.sleep(0.002)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:  # it may have become another user's
        return


def _children() -> list[int]:
    """Orphans that were handed over among them; elsewhere than on Linux nobody hands over any."""
    if sys.platform != "linux":
        return []
    found, me = [], str(os.getpid()).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                if stat.read().rpartition(b") ")[2].split()[1] == me:
                    found.append(int(pid))
        except OSError:
            continue
    return found


def adopt_orphans() -> None:
    """Become the parent of every orphan among the descendants (Linux)."""
    if sys.platform == "linux":
        import ctypes  # only here: loading it takes time

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def launch(order: dict[str, Any]) -> Program:
    """Start the program, which waits to be recorded before its first instruction.

    If the keeper dies before it has written `started.json`, the program never runs.
    """
    output, its_output = os.pipe()
    recorded, record = os.pipe()
    exec_error, its_error = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(record)
        _become(order, its_output, recorded, its_error)
    for end in (its_output, recorded, its_error):
        os.close(end)
    save(STARTED, {"pid": pid, "born": born(pid), "at": time.time()})
    os.write(record, b"!")
    os.close(record)
    os.set_blocking(output, False)
    return Program(pid, output, exec_error)


def _become(order: dict[str, Any], output: int, recorded: int, error: int) -> None:
    """Turn this forked process into the program; never returns."""
    try:
        os.setsid()
        for number in (*DEAF_TO, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if os.read(recorded, 1):
            os.chdir(order["cwd"])
            os.execvp(order["argv"][0], order["argv"])
    except (OSError, ValueError) as problem:
        os.write(error, str(getattr(problem, "errno", errno.EINVAL)).encode())
    finally:
        os._exit(127)


def explain(number: int, order: dict[str, Any]) -> str:
    """Why the program could not be launched, for the person who wrote the roster."""
    program, cwd = order["argv"][0], order["cwd"]
    if not os.path.isdir(cwd):
        return f"the work tree {cwd} is not there"
    if not os.access(cwd, os.X_OK):
        return f"the work tree {cwd} may not be entered"
    is_there = "/" in program and os.path.exists(os.path.join(cwd, program))
    if number == errno.ENOENT:
        missing = "names an interpreter that is not there" if is_there else "is not there"
        return f"the program {program} {missing}"
    if number == errno.EACCES:
        return f"the program {program} is not executable"
    if number == errno.ENOEXEC:
        return f"the program {program} is neither a binary for this machine nor a script that begins with #!"
    return f"the program {program} cannot be started: {os.strerror(number)}"


class Keeper:
    """Watches one program: its output, its limit, and requests to stop."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._log = Log(order["log_bytes"])
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        for number in DEAF_TO:
            signal.signal(number, signal.SIG_IGN)
        self._stop = os.path.exists(STOP)
        self._timed_out = self._cancelled = False

    def _on_term(self, *_: Any) -> None:
        self._stop = True

    def keep(self) -> dict[str, Any]:
        """Run the program to its end; what `exit.json` has to say about it."""
        if self._stop:
            return self._facts(None, cancelled=True, error="it was cancelled before it was launched")
        began = time.monotonic()
        program = launch(self._order)
        if number := program.launch_error():
            os.waitpid(program.pid, 0)
            return self._facts(None, error=explain(number, self._order))
        os.replace(f"{LAUNCHED}.part", LAUNCHED)
        code = self._watch(program, began)
        program.kill_escaped()
        self._drain(program)
        self._log.close()
        return self._facts(KILLED if self._timed_out else code, self._timed_out, self._cancelled)

    def _watch(self, program: Program, began: float) -> int:
        poll = select.poll()
        poll.register(program.output, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        due, look = began + self._order["limit_seconds"], 0.0
        while (code := program.ended()) is None:
            now = time.monotonic()
            if now >= look:
                look = now + LOOK
                self._stop = self._stop or os.path.exists(STOP)
            if now >= due or (self._stop and not self._is_ending):
                due = now + self._end(program)
            for ready, _ in poll.poll(max(0.0, min(look, due) - now) * 1000 + 1):
                if ready == self._wake:
                    os.read(self._wake, 4096)
                elif not self._pass_on(program):
                    poll.unregister(program.output)
        return code

    def _end(self, program: Program) -> float:
        """Ask the group to end; when that was asked before, make it. Returns seconds to wait."""
        if self._is_ending:
            program.signal(signal.SIGKILL)
            return 1.0
        self._cancelled, self._timed_out = self._stop, not self._stop
        program.signal(signal.SIGTERM)
        return float(self._order["grace_seconds"])

    @property
    def _is_ending(self) -> bool:
        return self._cancelled or self._timed_out

    def _pass_on(self, program: Program) -> bool:
        """Take what the program said into the log; False when it can say no more."""
        try:
            output = os.read(program.output, LAST_WORDS)
        except BlockingIOError:
            return True
        self._log.write(output)
        return bool(output)

    def _drain(self, program: Program) -> None:
        """What was said last. An escaped process that could not be killed may hold the pipe open."""
        until = time.monotonic() + PATIENCE
        poll = select.poll()
        poll.register(program.output, select.POLLIN)
        while time.monotonic() < until and poll.poll(100):
            if not self._pass_on(program):
                return

    def _facts(
        self, code: int | None, timed_out: bool = False, cancelled: bool = False, error: str = ""
    ) -> dict[str, Any]:
        return {
            "exit_code": code,
            "timed_out": timed_out,
            "cancelled": cancelled,
            "error": error,
            "at": time.time(),
        }


def locked() -> bool:
    """Take this folder for the life of this process. Waits a second: somebody may only be looking."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(100):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if os.path.exists(STARTED):
                return False
            time.sleep(0.01)
    return False


def main(folder: str) -> None:
    os.chdir(folder)
    if not locked() or os.path.exists(STARTED) or os.path.exists(EXIT):
        return
    with open(ORDER, "rb") as file:
        order = json.load(file)
    os.environ[MARK] = os.getcwd()
    reserve()
    adopt_orphans()
    facts = Keeper(order).keep()
    while os.path.exists(LOCK):  # a folder that was removed needs no record
        try:
            save(EXIT, facts)
            break
        except OSError:
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1])
