"""Running the `git` program: no shell, no foreign configuration, no hooks, never longer than its limit.

Repositories are worked on by agents, so nothing that they can write may make git start a program: hooks are
off on the command line (which beats every file), only local paths are spoken to, and the folder of the
repository is always named, so that git never looks for one further up.
"""

import asyncio
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from quarterdeck.forge.rules import one_line
from quarterdeck.kernel import children, disk
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unavailable

_OVER_ALL = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")

# git hands the command line's settings to no program it starts for another repository (upload-pack,
# receive-pack); this file reaches those too. Git packs nothing by itself: a copy that is made at that moment
# would lack what was moved (see `packing`).
_CONFIG = """\
[safe]
	directory = *
[core]
	hooksPath = /dev/null
[receive]
	autogc = false
[maintenance]
	auto = false
"""


@dataclass(frozen=True)
class Identity:
    """Who a commit is by."""

    name: str
    email: str


DESK = Identity("Quarterdeck", "desk@quarterdeck.invalid")
"""Author of commits that nobody else made: first commits, leftovers, merges."""


@dataclass(frozen=True)
class Output:
    """What git said; `code` is its exit code."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace").strip()

    @property
    def names(self) -> list[str]:
        """The parts of a NUL-separated answer."""
        return [name for name in self.out.decode(errors="replace").split("\0") if name]

    @property
    def reason(self) -> str:
        """Git's own last line of complaint."""
        lines = self.err.decode(errors="replace").strip().splitlines() or self.text.splitlines()
        fatal = [line for line in lines if line.startswith(("fatal:", "error:", " ! "))]
        return one_line((fatal or lines or [f"exit code {self.code}"])[-1])


class Git:
    """The program. `config` is a file of ours that takes the place of the user's configuration."""

    def __init__(self, config: Path, *, program: str = "git", limit_seconds: float = 120.0) -> None:
        self._config = config
        self._program = program
        self._limit = limit_seconds

    async def run(
        self,
        *arguments: str,
        at: Path | None = None,
        tree: Path | None = None,
        identity: Identity = DESK,
        stdin: bytes = b"",
        accept: Collection[int] = (0,),
        limit_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        """Run git on the repository `at` (its git folder) and its work `tree`.

        An exit code outside `accept` raises `Unavailable` (code `git_failed`) with git's own last line; so
        does the time limit (`git_timed_out`), and a full disk (`disk_full`) whatever is accepted: that is
        no answer. No usable git is `Misconfigured`. `environment` adds to what git sees, for a command that
        speaks to another machine.
        """
        limit = limit_seconds or self._limit
        process = await self._start([*_OVER_ALL, *arguments], at, tree, identity, environment or {})
        try:
            async with asyncio.timeout(limit):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise Unavailable(
                f"git {arguments[0]} took longer than {limit:g} s.",
                "It is tried again; look for a slow disk if it stays.",
                code="git_timed_out",
            ) from None
        finally:
            await children.end(process)
        output = Output(process.returncode or 0, out, err)
        if output.code and _had_no_room(output, tree or at or self._config.parent):
            raise disk.full(tree or at or self._config.parent)
        if output.code not in accept:
            raise failed(arguments[0], output)
        return output

    async def _start(
        self,
        arguments: list[str],
        at: Path | None,
        tree: Path | None,
        identity: Identity,
        environment: Mapping[str, str],
    ) -> asyncio.subprocess.Process:
        self._write_config()
        try:
            return await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                cwd=tree or at or self._config.parent,
                env={**self._environment(at, tree, identity), **environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise self._not_started(error) from error

    def _environment(self, at: Path | None, tree: Path | None, identity: Identity) -> dict[str, str]:
        # No HOME: below it git would find ignore and attribute files of the user.
        places = {"GIT_DIR": at, "GIT_WORK_TREE": tree}
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self._config),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "file",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_AUTHOR_NAME": identity.name,
            "GIT_AUTHOR_EMAIL": identity.email,
            "GIT_COMMITTER_NAME": identity.name,
            "GIT_COMMITTER_EMAIL": identity.email,
            **{name: str(place) for name, place in places.items() if place},
        }

    def _write_config(self) -> None:
        if self._config.is_file() and self._config.read_text() == _CONFIG:
            return
        try:
            self._config.parent.mkdir(parents=True, exist_ok=True)
            draft = self._config.with_name(f"{self._config.name}.{os.getpid()}")
            draft.write_text(_CONFIG)
            draft.replace(self._config)
        except OSError as error:
            raise self._not_started(error) from error

    def _not_started(self, error: OSError) -> QuarterdeckError:
        if shutil.which(self._program) is None:
            return Misconfigured(
                f"There is no program {self._program!r} on this machine.",
                "Install git 2.32 or newer and try again.",
                code="git_missing",
            )
        return Unavailable(
            f"git could not be started: {error}.", "It is tried again by itself.", code="git_failed"
        )


def failed(command: str, output: Output) -> Unavailable:
    """The error for an answer that nobody expected."""
    return Unavailable(
        f"git {command} failed: {output.reason}.",
        "It is tried again by itself; if it stays, look at the repository with git.",
        code="git_failed",
    )


def _had_no_room(output: Output, place: Path) -> bool:
    """Git does not always say why it cannot write; it dies with a code above 1 then."""
    return disk.was_full(output.err.decode(errors="replace")) or (output.code > 1 and disk.is_short(place))
