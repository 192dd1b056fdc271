"""What the forge decides without looking at anything but its arguments."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.forge import rules
from quarterdeck.forge.protocol import CIState, ReviewInfo, Verdict
from quarterdeck.forge.rules import SourceFile
from quarterdeck.kernel.errors import Conflict, Invalid, Stale

HEAD, OLD = "a" * 40, "b" * 40
HOSTILE = [
    "",
    "-x",
    "--upload-pack=touch /tmp/x",
    "../x",
    "a/../b",
    "a\nb",
    "a\0b",
    "a b",
    ".hidden",
    "x.lock",
    "a//b",
    "a/",
    "/a",
    "@",
    "HEAD",
    "a@{1}",
    "a:b",
    "a^",
    "a\\b",
    "ü\x85",
    "x" * 251,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_branch_that_could_be_an_option_or_leave_its_place_is_refused(name):
    with pytest.raises(Invalid) as refused:
        rules.branch_name(name)
    assert refused.value.data == {"field": "branch"}


@pytest.mark.parametrize("name", ["main", "item/ET-007", "feature/дело", "v1.2", "a-b_c"])
def test_ordinary_branches_are_taken(name):
    assert rules.branch_name(name) == name


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_every_branch_that_is_taken_is_one_for_git_too(name):
    try:
        rules.branch_name(name)
    except Invalid:
        return
    assert subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "--upload-pack=x", "a\nb", ".git", "a.git", "https://x.y/z", "/", "/a\nb", "/a/../b"],
)
def test_a_repository_that_could_be_an_option_or_leave_the_folder_is_refused(name):
    with pytest.raises(Invalid):
        rules.address(name)


def test_a_path_and_its_url_are_the_same_repository():
    assert rules.address("file:///srv/my%20work/") == rules.address("/srv/my work")
    assert rules.address("/srv/work").name == "/srv/work"
    assert rules.address("work").source is None


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "-x", "a\nb", ".git/config", "a/.GIT/x"]
)
def test_a_path_that_leaves_the_repository_is_refused(path):
    with pytest.raises(Invalid):
        rules.file_path(path)


@pytest.mark.parametrize("commit", ["", "HEAD", "abc123", "A" * 40, "--all", "a" * 41])
def test_only_full_commit_ids_are_exact_enough(commit):
    with pytest.raises(Invalid):
        rules.commit_id(commit)


@given(st.lists(st.sampled_from(CIState)))
def test_many_states_combine_as_gitea_combines_them(states):
    one = rules.combined(states)
    if any(state in (CIState.FAILURE, CIState.ERROR) for state in states):
        assert one is CIState.FAILURE
    elif states and all(state is CIState.SUCCESS for state in states):
        assert one is CIState.SUCCESS
    else:
        assert one is CIState.PENDING
    assert rules.combined(reversed(states)) is one


def test_an_author_may_comment_but_not_vote():
    rules.check_review("developer", "developer", Verdict.COMMENT)
    rules.check_review("developer", "reviewer", Verdict.APPROVED)
    for verdict in (Verdict.APPROVED, Verdict.REJECTED):
        with pytest.raises(Conflict, match="may only comment"):
            rules.check_review("developer", "developer", verdict)


def review(verdict: Verdict, commit: str = HEAD) -> ReviewInfo:
    return ReviewInfo("reviewer", verdict, "", commit)


def test_only_the_newest_commit_of_an_open_branch_is_merged():
    rules.check_merge(1, True, HEAD, HEAD, [review(Verdict.APPROVED), review(Verdict.REJECTED, OLD)])
    with pytest.raises(Stale, match="moved on"):
        rules.check_merge(1, True, HEAD, OLD, [])
    with pytest.raises(Conflict, match="closed"):
        rules.check_merge(1, False, HEAD, HEAD, [])
    with pytest.raises(Conflict, match="closed"):
        rules.check_merge(1, True, None, HEAD, [])
    with pytest.raises(Conflict, match="rejected by reviewer"):
        rules.check_merge(1, True, HEAD, HEAD, [review(Verdict.REJECTED)])


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({}, None),
        ({".quarterdeck.yaml": "test: make check"}, "make check"),
        ({".quarterdeck.yaml": "test: [make lint, make test]"}, "make lint\nmake test"),
        ({".quarterdeck.yaml": "other: 1", "Makefile": "test:\n\ttrue\n"}, "make test"),
        ({".quarterdeck.yaml": "", "Makefile": "test:\n"}, "make test"),
        ({"Makefile": "lint test: deps\n"}, "make test"),
        ({"Makefile": "test::\n"}, "make test"),
        ({"Makefile": ".PHONY: test\n"}, None),
        ({"Makefile": "test := 1\n# test: no\nall:\n\ttest: x\n"}, None),
        ({"Makefile": "all: test\n"}, None),
        ({"makefile": "all:\n", "Makefile": "test:\n"}, None),  # make itself reads only the first
        ({".ci/run": "exit 0"}, None),  # not executable
    ],
)
def test_the_test_command_is_looked_for_where_repositories_have_it(files, command):
    assert rules.test_command({name: SourceFile(text) for name, text in files.items()}) == command


def test_an_executable_script_comes_before_the_makefile_and_after_the_settings():
    script, makefile = SourceFile("exit 0", executable=True), SourceFile("test:\n")
    assert rules.test_command({".ci/run": script, "Makefile": makefile}) == "./.ci/run"
    assert rules.test_command({".ci/run": script, ".quarterdeck.yaml": SourceFile("test: x")}) == "x"


@pytest.mark.parametrize("test", ["''", "[]", "[1]", "{a: b}", "~", "true", "['']"])
def test_a_test_command_that_nobody_can_run_is_refused(test):
    with pytest.raises(Invalid, match="neither a command nor a list"):
        rules.test_command({".quarterdeck.yaml": SourceFile(f"test: {test}")})


@pytest.mark.parametrize("text", ["a: b\ntest: [", "[" * 2000, "a: 2001-99-99"])
def test_settings_that_are_not_yaml_are_refused(text):
    with pytest.raises(Invalid, match="is not YAML"):
        rules.test_command({".quarterdeck.yaml": SourceFile(text)})


def test_the_line_that_is_wrong_is_named():
    with pytest.raises(Invalid, match="line 2"):
        rules.test_command({".quarterdeck.yaml": SourceFile("a: b\ntest: }")})


@pytest.mark.parametrize(
    ("run", "state", "summary"),
    [
        ((0, False, ""), CIState.SUCCESS, "`make test` passed"),
        ((2, False, ""), CIState.FAILURE, "`make test` failed with exit code 2: boom"),
        ((-9, True, ""), CIState.FAILURE, "`make test` was stopped at its time limit"),
        ((-11, False, ""), CIState.FAILURE, "`make test` failed with signal 11: boom"),
        ((None, False, "no sh"), CIState.ERROR, "`make test` could not be run: no sh"),
        ((None, False, ""), CIState.ERROR, "`make test` could not be run: it left no exit code"),
    ],
)
def test_only_a_run_that_never_was_one_is_an_error(run, state, summary):
    assert rules.outcome("make test", *run, "boom") == (state, summary)


@given(st.text(), st.integers(2, 50))
def test_a_line_is_one_line_of_bounded_length(text, limit):
    line = rules.one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line
    assert "\0" not in line
