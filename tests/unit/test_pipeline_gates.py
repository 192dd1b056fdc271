"""A gate says what is wrong with the work in words that its agent can mend it by."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.protocol import Verdict
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.pipeline.definition import Pipeline
from quarterdeck.pipeline.gates import Answer, Asked, ask, check_documents, only_reads
from quarterdeck.pipeline.model import GateVerdict
from tests.fakes.git_hand import git, write

FOLDER = "docs/items/ET-007"
ASKED = Asked("ET-007", "Greet", "demo", "item/ET-007", "main", needs=("brd", "acceptance"))


@pytest.fixture
async def forge(database: Database, tmp_path: Path) -> LocalForge:
    forge = LocalForge(database, tmp_path / "forge")
    await forge.ensure_repository("demo")
    await forge.checkout("demo", ASKED.branch, "main", tmp_path / "work")
    return forge


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("Ziel".encode("utf-16"), f"{FOLDER}/brd.md is not a text: write it as UTF-8 text"),
        (b"x" * 1_000_001, f"{FOLDER}/brd.md is too large: 1,000,001 bytes, the limit is 1,000,000: make"),
        (b" \n", "brd.md is empty"),
    ],
)
async def test_a_document_that_cannot_be_read_is_named_like_one_that_is_missing(
    forge: LocalForge, tmp_path: Path, content: bytes, reason: str
) -> None:
    write(tmp_path / "work", f"{FOLDER}/brd.md", content)
    await forge.publish("demo", ASKED.branch, tmp_path / "work")
    answer = await check_documents(forge, ASKED)
    assert answer.verdict is GateVerdict.FAILED
    assert answer.reason.startswith(reason)
    assert answer.reason.endswith(", acceptance.md is missing")


async def test_documents_that_have_something_in_them_pass(forge: LocalForge, tmp_path: Path) -> None:
    for name in ASKED.needs:
        write(tmp_path / "work", f"{FOLDER}/{name}.md", "Grüße\n".encode("latin-1"))
    await forge.publish("demo", ASKED.branch, tmp_path / "work")
    assert await check_documents(forge, ASKED) == Answer(GateVerdict.PASSED)


async def test_a_pull_request_into_another_branch_is_none(forge: LocalForge, tmp_path: Path) -> None:
    git(tmp_path / "forge" / "demo.git", "branch", "release", "main")
    write(tmp_path / "work", "hello.txt", b"hello")
    await forge.publish("demo", ASKED.branch, tmp_path / "work")
    await forge.open_pull_request("demo", ASKED.branch, "release", "Greet", "", "developer")
    answer = await ask(forge, "check_pr_open", ASKED)
    assert answer == Answer(GateVerdict.FAILED, "no pull request of item/ET-007 into main")


class Slow(LocalForge):
    """Merges, and never says that it has."""

    async def merge(self, repository: str, number: int, head: str, title: str) -> str:
        await super().merge(repository, number, head, title)
        return await asyncio.Future()


async def test_a_code_host_that_comes_to_no_end_is_down_and_asked_again_it_finds_what_it_did(
    database: Database, forge: LocalForge, tmp_path: Path
) -> None:
    write(tmp_path / "work", "hello.txt", b"hello")
    head = await forge.publish("demo", ASKED.branch, tmp_path / "work")
    request = await forge.open_pull_request("demo", ASKED.branch, "main", "Greet", "", "developer")
    await forge.review("demo", request.number, "reviewer", Verdict.APPROVED, "", head)
    slow = Slow(database, tmp_path / "forge")
    with pytest.raises(Unavailable, match="check_merged within 1 s"):
        await ask(slow, "check_merged", ASKED, timedelta(seconds=1))
    assert (await ask(forge, "check_merged", ASKED)).verdict is GateVerdict.PASSED


@pytest.mark.parametrize(
    ("gates", "fails_to", "reads"),
    [
        (["check_review_approved"], "development", True),
        (["check_ci_green", "check_review_approved"], "development", True),
        (["check_review_approved"], "", False),
        ([{"check_documents": ["report"]}, "check_review_approved"], "development", False),
        (["check_pr_open", "check_review_approved"], "development", False),
        (["check_ci_green"], "development", False),
    ],
)
def test_a_stage_from_which_a_review_alone_is_wanted_only_reads(
    gates: list[object], fails_to: str, reads: bool
) -> None:
    stages = [
        {"name": "development", "agent": "developer"},
        {"name": "review", "agent": "reviewer", "gates": gates, "fails_to": fails_to},
    ]
    pipeline = Pipeline.model_validate({"name": "default", "stages": stages})
    assert only_reads(pipeline.stages[1]) is reads
