"""Files both ways between Telegram and the agents' workspaces."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.surfaces.protocol import Attachment
from quarterdeck.surfaces.telegram.files import (
    FileRefused,
    candidates,
    fetch,
    kind_of,
    name_of,
    place,
    sanitised,
)
from tests.fakes.chatting import ChatDesk, chatting, greeted

desk = greeted


def document(desk: ChatDesk, content: bytes = b"content", **more: Any) -> dict[str, Any]:
    file_id = f"file-{len(desk.bots.contents)}"
    desk.bots.contents[file_id] = content
    return {"file_id": file_id, "file_unique_id": "u", "file_size": len(content), **more}


# Names


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("../../quarterly: status?.pdf", "quarterly_ status_.pdf"),
        ("quarterly status.pdf", "quarterly status.pdf"),
        ("C:\\temp\\отчёт.docx", "отчёт.docx"),
        ("...", "attachment.bin"),
        ("", "attachment.bin"),
        ("a\x00b\x1f\x7f.txt", "a_b_.txt"),
        ("/etc/passwd", "passwd"),
        ("..", "attachment.bin"),
    ],
)
def test_a_name_is_only_a_name(name: str, wanted: str) -> None:
    assert sanitised(name) == wanted


@given(st.text(max_size=400))
def test_no_name_leads_anywhere(name: str) -> None:
    safe = sanitised(name)
    assert safe and "/" not in safe and "\\" not in safe and safe not in (".", "..")
    assert len(safe.encode()) <= 200 and not any(ord(c) < 32 or ord(c) == 127 for c in safe)
    assert sanitised(safe) == safe


def test_a_taken_name_gets_the_next_free_number(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"new")
    room = tmp_path / "room"
    assert [place(source, room, "report.pdf") for _ in range(3)] == [
        "report.pdf",
        "report (1).pdf",
        "report (2).pdf",
    ]
    names = candidates("README")
    assert [next(names), next(names)] == ["README", "README (1)"]


def test_uploads_at_once_never_share_a_name(tmp_path: Path) -> None:
    room, placed = tmp_path / "room", []
    for number in range(8):
        (tmp_path / str(number)).write_text(str(number))

    def upload(number: int) -> None:
        placed.append((number, place(tmp_path / str(number), room, "a.txt")))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((room / name).read_text() == str(number) for number, name in placed)
    assert len({name for _, name in placed}) == 8


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    room, outside = tmp_path / "room", tmp_path / "outside"
    room.mkdir()
    outside.write_bytes(b"old")
    (room / "a.txt").symlink_to(outside)
    assert place(tmp_path / "source", room, "a.txt") == "a (1).txt" and outside.read_bytes() == b"old"


# From an agent


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../secret.txt", "why_outside"),
        ("link.txt", "why_outside"),
        ("folder-link/secret.txt", "why_outside"),
        ("/etc/passwd", "why_outside"),
        ("missing.txt", "why_missing"),
        ("folder", "why_unreadable"),
        ("pipe", "why_unreadable"),
        ("empty.txt", "why_unreadable"),
        ("loop", "why_outside"),
        ("large.bin", "why_too_large"),
        ("a\x00b", "why_unreadable"),
    ],
)
def test_what_is_no_file_of_the_workspace_is_refused(tmp_path: Path, path: str, why: str) -> None:
    room = tmp_path / "room"
    (room / "folder").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (room / "link.txt").symlink_to(tmp_path / "secret.txt")
    (room / "folder-link").symlink_to(tmp_path)
    (room / "loop").symlink_to("loop")
    (room / "empty.txt").touch()
    (room / "large.bin").write_bytes(b"x" * 101)
    os.mkfifo(room / "pipe")
    with pytest.raises(FileRefused) as refused:
        fetch(room, path, tmp_path / "copy", 100)
    assert refused.value.why == why


def test_a_file_and_a_link_inside_the_workspace_are_copied(tmp_path: Path) -> None:
    room = tmp_path / "room"
    (room / "output").mkdir(parents=True)
    (room / "output" / "report.pdf").write_bytes(b"report")
    (room / "latest.pdf").symlink_to("output/report.pdf")
    for path in ("output/report.pdf", "latest.pdf"):
        assert fetch(room, path, tmp_path / "copy" / "x", 100) == 6
        assert (tmp_path / "copy" / "x").read_bytes() == b"report"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "photo"), ("a.mp3", "audio"), ("a.mp4", "video"), ("a.pdf", "document"), ("a", "document")],
)
def test_a_file_is_shown_as_what_it_is(name: str, kind: str) -> None:
    assert kind_of(Attachment(workspace_path=name), 1000)[0] == kind


def test_an_image_that_is_too_large_for_a_photo_is_a_document() -> None:
    image = Attachment(workspace_path="a.png")
    assert [kind_of(image, size)[0] for size in (10_000_000, 10_000_001)] == ["photo", "document"]


async def test_files_of_an_answer_arrive_and_one_that_cannot_is_named(desk: ChatDesk) -> None:
    room = desk.folder / "agents" / "helm"
    (room / "output").mkdir(parents=True)
    (room / "output" / "report.pdf").write_bytes(b"report")
    (room / "evil.txt").symlink_to("/etc/passwd")
    paths = ("output/report.pdf", "gone.pdf", "evil.txt")
    desk.agents.clients["helm"].files = [Attachment(workspace_path=path) for path in paths]
    await desk.writes("the report, please")
    [sent] = [send for send in desk.bots.sent if send.attachments]
    assert sent.attachments[0].name == "report.pdf"
    assert Path(sent.attachments[0].path).read_bytes() == b"report"
    told = "\n".join(desk.said())
    assert "You said: the report" in told and "gone.pdf" in told and "evil.txt" in told
    assert "passwd" not in told


async def test_a_file_that_telegram_does_not_take_is_told(desk: ChatDesk) -> None:
    room = desk.folder / "agents" / "helm"
    room.mkdir(parents=True)
    (room / "report.pdf").write_bytes(b"report")
    desk.bots.refused = {"report.pdf"}
    desk.agents.clients["helm"].files = [Attachment(workspace_path="report.pdf")]
    await desk.writes("the report, please")
    assert "report.pdf could not be delivered" in desk.said()[-1]


# From a person


async def test_a_file_with_words_goes_to_the_agent_at_once(desk: ChatDesk) -> None:
    await desk.writes("look", document=document(desk, b"bytes", file_name="../plan.pdf"))
    [asked] = desk.agents.clients["helm"].asked
    assert [file.workspace_path for file in asked.attachments] == ["plan.pdf"]
    assert (desk.folder / "agents" / "helm" / "plan.pdf").read_bytes() == b"bytes"
    assert not any((desk.folder / "telegram" / "arriving").iterdir())


async def test_files_without_words_wait_for_the_next_message(desk: ChatDesk) -> None:
    await desk.writes(document=document(desk, file_name="a.pdf"))
    await desk.writes(document=document(desk, file_name="a.pdf"))
    assert "number 2" in desk.said()[-1] and desk.asked() == []
    await desk.writes("/list")
    assert desk.said()[-1].splitlines()[1:] == ["1. a.pdf", "2. a (1).pdf"]
    await desk.writes("/remove 3")
    assert "no file 3" in desk.said()[-1]
    await desk.writes("/remove x")
    assert "/remove" in desk.said()[-1]
    await desk.writes("/remove 1")
    await desk.writes("other user", user=778)
    assert desk.agents.clients["galley"].asked[0].attachments == []
    await desk.writes("now")
    [asked] = desk.agents.clients["helm"].asked
    assert [file.workspace_path for file in asked.attachments] == ["a (1).pdf"]
    await desk.writes("/list")
    assert "No files" in desk.said()[-1]


async def test_files_that_wait_stay_when_the_agent_fails(desk: ChatDesk) -> None:
    await desk.writes(document=document(desk, file_name="a.pdf"))
    desk.agents.clients["helm"].broken = "AWAY"
    await desk.writes("now")
    desk.agents.clients["helm"].broken = ""
    await desk.writes("again")
    assert [file.workspace_path for file in desk.agents.clients["helm"].asked[-1].attachments] == ["a.pdf"]
    await desk.writes("/remove all")
    assert "No files" in desk.said()[-1]


async def test_a_voice_message_does_not_wait_for_words(desk: ChatDesk) -> None:
    await desk.writes(voice=document(desk, b"ogg", duration=3, mime_type="audio/ogg"))
    [asked] = desk.agents.clients["helm"].asked
    assert [(file.type, file.workspace_path) for file in asked.attachments] == [("audio", "audio.ogg")]


async def test_an_album_is_one_question(database: Database, tmp_path: Path) -> None:
    all_there = asyncio.Event()

    async def until_all_are_there(_: float) -> None:
        await all_there.wait()

    async with chatting(database, tmp_path, sleep=until_all_are_there) as desk:
        first = [document(desk, width=9, height=9)]
        await desk.writes("two pictures", photo=first, media_group_id="m", waits=False)
        second = [document(desk, b"x"), document(desk, b"largest")]
        await desk.writes(photo=second, media_group_id="m", waits=False)
        all_there.set()
        await desk.surface.idle()
    [asked] = desk.agents.clients["helm"].asked
    assert asked.text == "two pictures"
    assert [file.workspace_path for file in asked.attachments] == ["image.jpg", "image (1).jpg"]
    assert (desk.folder / "agents" / "helm" / "image (1).jpg").read_bytes() == b"largest"


async def test_a_file_that_cannot_be_taken_is_told_and_the_words_go_on(desk: ChatDesk) -> None:
    desk.bots.down = Unavailable("Telegram is away.")
    await desk.writes("look", document=document(desk, file_name="a.pdf"))
    assert any("a.pdf could not be taken" in text for text in desk.said())
    [asked] = desk.agents.clients["helm"].asked
    assert (asked.text, asked.attachments) == ("look", [])
    await desk.writes(document=document(desk, file_name="b.pdf"))
    await desk.writes("/list")
    assert "No files" in desk.said()[-1]


async def test_a_file_above_the_limit_is_refused_before_it_is_fetched(
    database: Database, tmp_path: Path
) -> None:
    async with chatting(database, tmp_path, largest_download=1_000_000) as desk:
        await desk.writes("look", document={"file_id": "big", "file_size": 2_000_000, "file_name": "big.iso"})
        assert "larger than 1 MB" in "\n".join(desk.said())


def test_a_file_without_a_name_gets_one_of_its_type() -> None:
    assert name_of(Attachment("image", mime_type="image/jpeg")) == "image.jpg"
    assert name_of(Attachment("document")) == "file.bin"
