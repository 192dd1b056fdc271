"""Decisions of the forge: which names are safe, what CI results mean together, what may be merged."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import yaml

from quarterdeck.forge.protocol import CIState, ReviewInfo, Verdict
from quarterdeck.kernel.errors import Conflict, Invalid, Stale

FILE_LIMIT = 1_000_000
"""Bytes of a file that is read as text."""

COMMAND_FILES = (".quarterdeck.yaml", ".ci/run", "GNUmakefile", "makefile", "Makefile")
"""Where a repository may name its test command, in the order of asking (makefiles in make's own order)."""

ITEMS = "item"
"""Below which the branches of items are."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NOT_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAKE_TARGETS = re.compile(r"^([^\s#:=][^#:=\n]*?)[ \t]*::?(?!=)", re.MULTILINE)


@dataclass(frozen=True)
class SourceFile:
    """A file of a commit, as far as a test command can be found in it."""

    text: str
    executable: bool = False


@dataclass(frozen=True)
class Address:
    """Which repository is meant: `name` is what tables and events call it, `source` where it came from."""

    name: str
    source: PurePosixPath | None = None


def address(repository: str) -> Address:
    """A plain name, an absolute path or a `file:` URL of an existing repository. Raises `Invalid`."""
    path = unquote(urlsplit(repository).path) if repository.startswith("file://") else repository
    if path.strip("/") and path.startswith("/") and not _CONTROL.search(path) and ".." not in path.split("/"):
        source = PurePosixPath("/" + path.strip("/"))
        return Address(str(source), source)
    if _REPOSITORY.fullmatch(repository) and not repository.endswith((".git", ".lock", ".")):
        return Address(repository)
    raise Invalid(
        f"{_shown(repository)} cannot be the name of a repository.",
        "Use letters, digits, '.', '_' and '-', or give the absolute path of an existing repository.",
        field="repository",
    )


def branch_name(branch: str) -> str:
    """The branch, if git and a command line can both bear it (git-check-ref-format). Raises `Invalid`."""
    bad = (
        not 0 < len(branch) <= 250
        or branch in ("@", "HEAD")
        or branch.startswith(("-", "/", "."))
        or branch.endswith(("/", ".", ".lock"))
        or _NOT_IN_BRANCH.search(branch)
        or not branch.isprintable()
    )
    if bad:
        raise Invalid(
            f"{_shown(branch)} cannot be the name of a branch.",
            "Use letters, digits, '-', '_' and '/', such as item/ET-007.",
            field="branch",
        )
    return branch


def default_branch(branch: str) -> str:
    """The branch, if a project can live on it beside the branches of its items. Raises `Invalid`."""
    try:
        branch_name(branch)
    except Invalid as error:
        raise Invalid(error.detail, error.instruction, field="default_branch") from None
    if branch == ITEMS or branch.startswith(f"{ITEMS}/"):
        raise Invalid(
            f"{_shown(branch)} is where the branches of items are.",
            "Choose another name, such as main.",
            field="default_branch",
        )
    return branch


def check_room(branch: str, existing: Iterable[str]) -> None:
    """Raise `Conflict` if git cannot have `branch` beside those: `a` and `a/b` exclude each other."""
    for other in existing:
        if branch.startswith(f"{other}/") or other.startswith(f"{branch}/"):
            raise Conflict(
                f"There cannot be a branch {branch} while there is {other}.",
                "Choose a name that is not below another branch.",
                code="branch_in_the_way",
            )


def is_commit_id(text: str) -> bool:
    """Can this be the full hexadecimal id of a commit?"""
    return _COMMIT.fullmatch(text) is not None


def commit_id(commit: str) -> str:
    """The full hexadecimal id of a commit. Raises `Invalid`: abbreviations are not exact enough."""
    if not is_commit_id(commit):
        raise Invalid(
            f"{_shown(commit)} is not the full id of a commit.", "Give all 40 digits.", field="commit"
        )
    return commit


def file_path(path: str) -> str:
    """A path inside a repository. Raises `Invalid` if it could leave it."""
    parts = path.split("/")
    if (
        _CONTROL.search(path)
        or path.startswith("-")
        or any(p.lower() in ("", ".", "..", ".git") for p in parts)
    ):
        raise Invalid(
            f"{_shown(path)} is not a path inside a repository.",
            "Give it relative to the repository's folder, such as docs/readme.md.",
            field="path",
        )
    return path


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def combined(states: Iterable[CIState]) -> CIState:
    """One state for many, as Gitea combines them: any bad one is a failure, none at all is pending."""
    seen = set(states)
    if seen & {CIState.FAILURE, CIState.ERROR}:
        return CIState.FAILURE
    return CIState.SUCCESS if seen == {CIState.SUCCESS} else CIState.PENDING


def check_review(author: str, reviewer: str, verdict: Verdict) -> None:
    """Raise `Conflict` if this reviewer may not say this: an author has no vote on the own work."""
    if reviewer == author and verdict is not Verdict.COMMENT:
        raise Conflict(
            f"{reviewer} opened this pull request and may only comment on it.",
            "Let somebody else review it.",
            code="own_pull_request",
        )


def check_merge(
    number: int, is_open: bool, current: str | None, head: str, reviews: Iterable[ReviewInfo]
) -> None:
    """Raise `Stale` unless `head` is the branch's newest commit, `Conflict` if it may not be merged."""
    if not is_open or current is None:
        raise Conflict(
            f"Pull request {number} is closed.", "Open a new one for this branch.", code="pull_request_closed"
        )
    if current != head:
        raise Stale(
            f"The branch moved on: it is at {current[:10]}, not at {head[:10]}.",
            "Have the newest commit tested and reviewed, then merge that.",
            code="branch_moved",
        )
    against = sorted(r.reviewer for r in reviews if r.commit == head and r.verdict is Verdict.REJECTED)
    if against:
        raise Conflict(
            f"Pull request {number} was rejected by {', '.join(against)}.",
            "Mend what the review names, push it, have it reviewed again.",
            code="rejected",
        )


def test_command(files: Mapping[str, SourceFile]) -> str | None:
    """The shell text that tests a commit, from those of `COMMAND_FILES` that it has; None = no CI.

    Raises `Invalid` if `.quarterdeck.yaml` names it in a way nobody can run.
    """
    if (settings := files.get(".quarterdeck.yaml")) and (command := _command_of(settings.text)):
        return command
    if (script := files.get(".ci/run")) and script.executable:
        return "./.ci/run"
    for name in COMMAND_FILES[2:]:
        if makefile := files.get(name):
            return "make test" if "test" in _targets(makefile.text) else None
    return None


def _command_of(text: str) -> str | None:
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise Invalid(f".quarterdeck.yaml{line} is not YAML.", "Correct the file.", field="test") from None
    if not isinstance(settings, dict) or "test" not in settings:
        return None
    test = settings["test"]
    lines = [test] if isinstance(test, str) else test
    if not (isinstance(lines, list) and lines and all(isinstance(x, str) and x.strip() for x in lines)):
        raise Invalid(
            "In .quarterdeck.yaml `test` is neither a command nor a list of commands.",
            'Write it as `test: "make check"`, or one command per list entry.',
            field="test",
        )
    return "\n".join(lines)


def _targets(makefile: str) -> set[str]:
    return {target for match in _MAKE_TARGETS.finditer(makefile) for target in match[1].split()}


def outcome(
    command: str, exit_code: int | None, timed_out: bool, error: str, last_line: str
) -> tuple[CIState, str]:
    """State and summary of an ended run; only a run that never was one is an `error`."""
    name = command.splitlines()[0] + (" …" if "\n" in command else "")
    if timed_out:
        return CIState.FAILURE, f"`{name}` was stopped at its time limit"
    if error or exit_code is None:
        return CIState.ERROR, f"`{name}` could not be run: {error or 'it left no exit code'}"
    if exit_code == 0:
        return CIState.SUCCESS, f"`{name}` passed"
    why = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return CIState.FAILURE, f"`{name}` failed with {why}" + (f": {last_line}" if last_line else "")


def summary(parts: Sequence[tuple[str, str]]) -> str:
    """One line out of (context, summary) pairs."""
    return "; ".join(f"{context}: {text}" if text else context for context, text in parts)


def one_line(text: str, limit: int = 300) -> str:
    """The text as a single line of at most `limit` characters, without control characters."""
    words = " ".join(_CONTROL.sub(" ", text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
