"""Files of bots, both ways: to Telegram's own server and to a local one on this host."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quarterdeck.kernel.errors import Conflict, Invalid, Misconfigured, Unavailable
from quarterdeck.telegram import bot_api
from quarterdeck.telegram.bot_api import BotApi
from quarterdeck.telegram.rules import Done, Failed, Refused
from quarterdeck.telegram.wire import File
from tests.fakes.telegram import CHAT, TOKEN, FakeTelegram

HERE = {"chat_id": CHAT}


@pytest.fixture
def telegram() -> Iterator[FakeTelegram]:
    with FakeTelegram() as server:
        yield server


@asynccontextmanager
async def bot_of(server: FakeTelegram) -> AsyncIterator[BotApi]:
    api = BotApi(TOKEN, server.base)
    try:
        yield api
    finally:
        await api.close()


def kept(server: FakeTelegram) -> bytes:
    return list(server.state.files.values())[-1].content


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("a\r\nContent-Type: text/html\r\n\r\n", "a__Content-Type: text_html____"),
        ('quote".txt', "quote_.txt"),
        ("отчёт за май.txt", "отчёт за май.txt"),
        ("x" * 500, "x" * 200),
    ],
)
async def test_a_file_arrives_whole_and_its_name_leads_nowhere(
    telegram: FakeTelegram, tmp_path: Path, name: str, shown: str
) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 300)
    async with bot_of(telegram) as bot:
        sent = await bot.call("sendDocument", HERE, file=File(str(tmp_path / "file"), name=name))
    assert isinstance(sent, Done)
    assert sent.result["document"]["file_name"] == shown
    assert kept(telegram) == bytes(range(256)) * 300


async def test_what_cannot_be_sent_is_refused_before_anything_leaves(
    telegram: FakeTelegram, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(bot_api.LARGEST_LOCAL + 1)  # takes no room on disk
    async with bot_of(telegram) as bot:
        for name in ("empty", "huge", "gone"):
            answer = await bot.call("sendDocument", HERE, file=File(str(tmp_path / name)))
            assert isinstance(answer, Refused), name
            assert (answer.status, str(tmp_path) in answer.description) == (413, False)
    assert telegram.calls == []


async def test_an_upload_has_the_time_of_its_size_and_not_the_librarys_minute(
    telegram: FakeTelegram, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"some words")
    async with bot_of(telegram) as bot:
        bot._session.timeout = 1e-6
        sent = await bot.call("sendDocument", HERE, file=File(str(tmp_path / "file")))
    assert isinstance(sent, Done)  # cut off, it would be sent again and again


async def test_what_the_server_finds_too_large_is_refused(telegram: FakeTelegram, tmp_path: Path) -> None:
    telegram.state.upload_limit = 10
    (tmp_path / "file").write_bytes(b"eleven byte")
    async with bot_of(telegram) as bot:
        answer = await bot.call("sendDocument", HERE, file=File(str(tmp_path / "file")))
    assert isinstance(answer, Refused)  # and not tried again for ever
    assert answer.status == 413


async def test_a_local_server_reads_a_large_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bot_api, "BY_PATH", 10)
    (tmp_path / "large file.bin").write_bytes(b"more than ten bytes")
    with FakeTelegram(local=tmp_path / "server") as server:
        async with bot_of(server) as bot:
            sent = await bot.call("sendDocument", HERE, file=File(str(tmp_path / "large file.bin")))
        assert isinstance(sent, Done)
        assert kept(server) == b"more than ten bytes"
        assert server.calls[-1].body["document"].startswith("file:///")


def handed_over(server: FakeTelegram, content: bytes, name: str = "letter.txt") -> str:
    server.hand_over("document", content, name=name)
    return list(server.state.files)[-1]


@pytest.mark.parametrize("content", [b"", b"some words", b"\x00" * 70_000], ids=len)
async def test_a_file_of_a_person_is_fetched_into_the_folder(
    telegram: FakeTelegram, tmp_path: Path, content: bytes
) -> None:
    async with bot_of(telegram) as bot:
        path = await bot.download(handed_over(telegram, content), tmp_path / "in", 100_000)
    assert (path.parent, path.suffix, path.read_bytes()) == (tmp_path / "in", ".txt", content)
    assert list(path.parent.iterdir()) == [path]


async def test_a_local_servers_file_is_copied_from_where_it_lies(tmp_path: Path) -> None:
    with FakeTelegram(local=tmp_path / "server") as server:
        id = handed_over(server, b"some words")
        async with bot_of(server) as bot:
            path = await bot.download(id, tmp_path / "in", 100)
            with pytest.raises(Invalid, match="more than 9 bytes"):
                await bot.download(id, tmp_path / "in", 9)
        assert path.read_bytes() == b"some words"
        assert TOKEN not in str(path)
        assert [call.method for call in server.calls] == ["getFile", "getFile"]


async def test_a_local_server_has_the_time_of_the_files_size_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = BotApi.call.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "seconds", 0.0)
    with FakeTelegram(local=tmp_path / "server") as server:
        async with bot_of(server) as bot:
            path = await bot.download(handed_over(server, b"some words"), tmp_path / "in", 100)
    assert path.read_bytes() == b"some words"


async def test_a_file_above_the_limit_is_not_fetched_and_one_that_grows_leaves_nothing(
    telegram: FakeTelegram, tmp_path: Path
) -> None:
    id = handed_over(telegram, b"x" * 1_000)
    kept_file = telegram.state.files[id]
    async with bot_of(telegram) as bot:
        with pytest.raises(Invalid, match="more than 999 bytes"):
            await bot.download(id, tmp_path / "in", 999)
        lies = {"file_id": id, "file_unique_id": "u", "file_size": 1, "file_path": kept_file.path}
        telegram.babble("getFile", 200, json.dumps({"ok": True, "result": lies}).encode())
        with pytest.raises(Invalid, match="more than 999 bytes"):
            await bot.download(id, tmp_path / "in", 999)
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("path", ["../../../evil.sh", "documents/..", "a/b\x00c", "/", "%2e%2e/x", "..\\x"])
async def test_no_path_that_a_server_gives_leads_out_of_the_folder(
    telegram: FakeTelegram, tmp_path: Path, path: str
) -> None:
    tells = {"file_id": "x", "file_unique_id": "../u", "file_size": 1, "file_path": path}
    telegram.babble("getFile", 200, json.dumps({"ok": True, "result": tells}).encode())
    before = set(tmp_path.rglob("*"))
    async with bot_of(telegram) as bot:
        with pytest.raises((Unavailable, Invalid, Conflict)) as refused:
            await bot.download("x", tmp_path / "in", 100)
    assert TOKEN not in str(refused.value)
    assert {found for found in tmp_path.rglob("*") if found.is_file()} <= before


async def test_a_file_that_telegram_does_not_know_is_an_error_that_holds_no_token(
    telegram: FakeTelegram, tmp_path: Path
) -> None:
    async with bot_of(telegram) as bot:
        with pytest.raises(Conflict, match="invalid file_id") as refused:
            await bot.download("nothing", tmp_path, 100)
        id = handed_over(telegram, b"some words")
        telegram.state.files[id] = type(telegram.state.files[id])(id, "documents/moved", b"")
        telegram.babble("getFile", 200, b'{"ok": true, "result": {"file_id": "x", "file_path": "gone"}}')
        with pytest.raises(Unavailable) as missing:
            await bot.download(id, tmp_path, 100)
    assert TOKEN not in f"{refused.value} {missing.value} {missing.value.__cause__}"


def test_only_telegrams_own_server_is_not_a_local_one() -> None:
    assert BotApi(TOKEN, bot_api.PUBLIC)._server.is_local is False
    assert BotApi(TOKEN, bot_api.PUBLIC + "/")._server.is_local is False
    assert BotApi(TOKEN, "http://telegram-bot-api:8081")._server.is_local is True
    with pytest.raises(Misconfigured) as refused:
        BotApi("no token at all", bot_api.PUBLIC)
    assert "no token at all" not in str(refused.value)


async def test_a_broken_connection_names_no_address(telegram: FakeTelegram) -> None:
    async with bot_of(telegram) as bot:
        telegram.drop("sendMessage")
        broken = await bot.call("sendMessage", {"chat_id": CHAT, "text": "x"})
        telegram.down()
        refused = await bot.call("sendMessage", {"chat_id": CHAT, "text": "x"})
        telegram.up()
    assert isinstance(broken, Failed)
    assert isinstance(refused, Failed)
    assert (broken.maybe_arrived, refused.maybe_arrived) == (True, False)
    assert not any(secret in broken.reason + refused.reason for secret in (TOKEN, telegram.base))
