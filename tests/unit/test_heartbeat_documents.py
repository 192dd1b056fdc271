"""To-do documents: lines with boxes that move, are written by others, and are changed in place."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.heartbeat.sources import documents
from quarterdeck.heartbeat.sources.boxes import boxes, rewritten
from quarterdeck.heartbeat.sources.documents import Documents
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.polling import GLANCE_OFF, Glance
from quarterdeck.heartbeat.work import Status, Trouble, Watched
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import NotFound
from tests.fakes.clock import ManualClock


class Cards:
    """A place where cards are made."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    async def create(self, title: str, text: str, agent: str) -> str:
        self.made.append((agent, title))
        return f"card-{len(self.made)}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def cards() -> Cards:
    return Cards()


@pytest.fixture
def source(database: Database, cards: Cards) -> Documents:
    database.clock = clock = ManualClock()
    return Documents(Glance(database, GLANCE_OFF), Notes(database, "documents"), clock, cards)


def agents(folder: Path) -> tuple[Watched, ...]:
    return (Watched("dev", "", str(folder)),)


async def test_every_unticked_box_is_found_with_its_file_and_line(source: Documents, folder: Path) -> None:
    (folder / "TODO.md").write_text("# Do\n- [ ] First\n- [x] Done\n  * [ ] Second\n1. [ ] Third\n[ ]\n")
    (folder / "AGENTS.md").write_text("Text\n- [ ] Pay #approval\n")
    answer = await source.look(agents(folder))
    assert answer.trouble is None
    assert [(f.shown, f.title) for f in answer.found] == [
        ("TODO.md:2", "First"), ("TODO.md:4", "Second"), ("TODO.md:5", "Third"), ("TODO.md:6", "(no title)"),
        ("AGENTS.md:2", "Pay #approval"),
    ]  # fmt: skip
    assert [f.requires_approval for f in answer.found] == [False] * 4 + [True]


async def test_absent_files_are_no_work_and_no_trouble(source: Documents, folder: Path) -> None:
    answer = await source.look(agents(folder / "nowhere"))
    assert (answer.found, answer.trouble) == ((), None)


async def test_a_file_that_is_too_large_or_none_is_trouble(source: Documents, folder: Path) -> None:
    (folder / "TODO.md").write_bytes(b"- [ ] x\n" * 200_000)
    (folder / "AGENTS.md").mkdir()
    assert (await source.look(agents(folder))).trouble is Trouble.TOO_LARGE


def make_a_folder(path: Path) -> None:
    path.mkdir()


def write_utf_16(path: Path) -> None:
    path.write_bytes("- [ ] Work\n".encode("utf-16"))


def lead_it_in_a_circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("spoil", [make_a_folder, write_utf_16, lead_it_in_a_circle])
async def test_a_file_that_cannot_be_read_concerns_its_own_agent_alone_and_is_named(
    source: Documents, folder: Path, spoil: Callable[[Path], None]
) -> None:
    for slug in ("dev", "ops"):
        (folder / slug).mkdir()
        (folder / slug / "TODO.md").write_text("- [ ] Work\n")
    spoil(folder / "dev" / "AGENTS.md")
    answer = await source.look([Watched(slug, "", str(folder / slug)) for slug in ("dev", "ops")])
    assert [f.agent for f in answer.found] == ["dev", "ops"]
    assert (answer.seen_by("ops").trouble, answer.seen_by("ops").detail) == (None, "")
    own = answer.seen_by("dev")
    assert own.trouble is not None and str(folder / "dev" / "AGENTS.md") in own.detail
    assert answer.trouble is not None, "whoever looks for all sees it"


async def test_a_line_that_moved_is_ticked_where_it_is_now(source: Documents, folder: Path) -> None:
    todo = folder / "TODO.md"
    todo.write_text("- [ ] First\r\n- [ ] Second\r\n", newline="")
    second = (await source.look(agents(folder))).found[1].ref
    todo.write_text("# New\r\n- [ ] Other\r\n- [ ] Second\r\n- [ ] First", newline="")
    await source.finish(second, "Done.", is_reviewed=True)
    text = todo.read_bytes().decode()
    assert text.startswith("# New\r\n- [ ] Other\r\n- [x] Second") and text.endswith("\r\n- [ ] First")


async def test_a_line_is_changed_by_a_process_that_never_looked(
    source: Documents, database: Database, folder: Path
) -> None:
    """What is owed to a line outlives whoever decided on it."""
    (folder / "TODO.md").write_text("- [ ] First\n")
    [line] = (await source.look(agents(folder))).found

    async def roster() -> tuple[Watched, ...]:
        return agents(folder)

    notes = Notes(database, "documents")
    another = Documents(Glance(database, GLANCE_OFF), notes, database.clock, roster=roster)
    await another.finish(line.ref, "Done.", is_reviewed=True)
    assert (folder / "TODO.md").read_text().startswith("- [x] First")


async def test_of_equal_lines_the_one_that_is_meant_is_ticked(source: Documents, folder: Path) -> None:
    (folder / "TODO.md").write_text("- [ ] Same\n- [ ] Same\n")
    one, two = (found.ref for found in (await source.look(agents(folder))).found)
    assert one != two
    await source.finish(two, "", is_reviewed=True)
    lines = (folder / "TODO.md").read_text().splitlines()
    assert lines[0] == "- [ ] Same" and lines[1].startswith("- [x] Same")


async def test_a_line_that_is_gone_is_told(source: Documents, folder: Path) -> None:
    (folder / "TODO.md").write_text("- [ ] First\n")
    [found] = (await source.look(agents(folder))).found
    (folder / "TODO.md").write_text("- [ ] Something else\n")
    assert await source.read(found.ref) is None
    with pytest.raises(NotFound):
        await source.block(found.ref, "too long")


async def test_a_line_that_timed_out_is_marked_in_place_and_becomes_one_card(
    source: Documents, folder: Path, cards: Cards
) -> None:
    (folder / "TODO.md").write_text("- [ ] First\n")
    (folder / "TODO.md").chmod(0o640)
    [found] = (await source.look(agents(folder))).found
    for _ in range(2):
        await source.block(found.ref, "silent for 50 min --> [ ] <b>")
    text = (folder / "TODO.md").read_text()
    assert text.startswith("- [ ] First <!-- quarterdeck") and text.count("-->") == 1 and "card-1" in text
    assert cards.made == [("dev", "First")]
    [now] = (await source.look(agents(folder))).found
    assert (now.ref, now.status, now.title) == (found.ref, Status.BLOCKED, "First")
    assert (folder / "TODO.md").stat().st_mode & 0o777 == 0o640
    assert [p.name for p in folder.iterdir()] == ["TODO.md"], "no draft is left"


async def test_what_somebody_writes_in_between_is_not_lost(
    source: Documents, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = folder / "TODO.md"
    todo.write_text("- [ ] First\n")
    [found] = (await source.look(agents(folder))).found
    read = documents._text
    wrote = []

    def read_and_be_overtaken(path: Path) -> str:
        text = read(path)
        if not wrote:
            wrote.append(path)
            todo.write_text(text + "- [ ] Written meanwhile\n")
        return text

    monkeypatch.setattr(documents, "_text", read_and_be_overtaken)
    await source.start(found.ref, "dev")
    text = todo.read_text()
    assert "state=in_progress" in text and "- [ ] Written meanwhile\n" in text


lines = st.lists(st.text(alphabet='ab []xX-*<>!"=\\\u00e9', max_size=30), max_size=8)


@settings(max_examples=60)
@given(lines, st.integers(0, 7), st.text(max_size=30))
def test_marking_a_line_changes_no_other_and_not_what_it_says(texts: list[str], at: int, why: str) -> None:
    text = "\n".join(texts)
    found = boxes(text)
    if not found:
        return
    box = found[at % len(found)]
    changed = rewritten(text, box.identity, {"state": "blocked", "why": why})
    assert changed is not None
    after = boxes(changed)
    assert [(b.identity, b.title, b.is_ticked) for b in after] == [
        (b.identity, b.title, b.is_ticked) for b in found
    ]
    old, new = text.splitlines(), changed.splitlines()
    assert [a for n, a in enumerate(new, 1) if n != box.line] == [
        b for n, b in enumerate(old, 1) if n != box.line
    ]
