"""From events to messages: who is told, over which channel, in the transaction of the event."""

from datetime import time

import pytest
from sqlmodel import select
from structlog.testing import capture_logs

from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.kernel.journal import Event
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.model import Severity
from quarterdeck.notify.roster import read_subscriptions
from quarterdeck.notify.service import Notify
from tests.fakes.notifying import NotifyRoom
from tests.fakes.telegram import parsed

BOT = {"bot_token": "7000000001:AAFake", "chat_id": "1001"}


@pytest.fixture
async def room(database, tmp_path):
    made = NotifyRoom(database, tmp_path)
    await made.connect(BOT)
    return made


async def addresses(room: NotifyRoom) -> list[tuple[str, str, bool]]:
    return [(message.channel, message.chat, message.silent) for message in await room.outbox()]


async def test_a_message_is_committed_with_its_event(room):
    await room.tell("a")
    [message] = await room.outbox()
    assert (message.kind, message.item_key, message.text) == ("error", "ET-007", "🔴 ET-007: ERROR — a")
    assert (message.lane, message.event_id is not None) == ("telegram:1001", True)


async def test_a_command_that_fails_leaves_neither_event_nor_message(room):
    with pytest.raises(ZeroDivisionError):
        async with room.database.command("fail") as unit:
            unit.record("error", item="ET-007", reason="a")
            await unit.seal([room.notify.react])
            raise ZeroDivisionError
    assert await room.outbox() == []
    async with room.database.read() as session:
        assert (await session.exec(select(Event).where(Event.kind == "error"))).all() == []


async def test_messages_keep_the_order_of_the_events_of_a_command(room):
    async with room.database.command("several") as unit:
        unit.record("stage_changed", item="ET-007", **{"from": "analysis", "to": "review", "agent": "kim"})
        unit.record("agent_started", item="ET-007", run=7, agent="kim")
        unit.record("item_filed", item="ET-007")
    assert [message.text for message in await room.outbox()] == [
        "🔄 ET-007: analysis → review (запущен kim)",
        "🚀 ET-007: kim запущен (run_id=7)",
    ]


@pytest.mark.parametrize(
    "missing", [{}, {"bot_token": "x"}, {"chat_id": "1"}, {"bot_token": "x", "chat_id": ""}]
)
async def test_without_token_or_chat_messages_go_to_the_log(room, missing, capsys):
    await room.connect(missing)
    await room.tell("a < b")
    assert await addresses(room) == [("log", "log", False)]
    with capture_logs() as lines:
        assert (await room.deliver()).sent == 1
    assert [line["text"] for line in lines if line["event"] == "notification"] == ["🔴 ET-007: ERROR — a < b"]


async def test_a_connection_that_cannot_be_read_stops_no_command(room, monkeypatch):
    async def unreadable(kind, name="default", *, session=None):
        raise Misconfigured("The key is gone.", "Bring it back.")

    monkeypatch.setattr(room.telegram.connections, "get", unreadable)
    await room.tell("a")
    assert await addresses(room) == [("log", "log", False)]


async def test_subscriptions_say_who_is_told_of_what(room):
    await room.subscribe(
        {"channel": "telegram", "chat": -5, "events": ["item_filed"], "project": "QD"},
        {"channel": "telegram", "severity": "error"},
        {"channel": "log", "enabled": False},
    )
    async with room.database.command("several") as unit:
        for item in ("ET-001", "QD-001"):
            unit.record("item_filed", item=item)
            unit.record("gate_failed", item=item, gate="check", reason="no")
        unit.record("error", reason="everything")
    told = [(message.chat, message.kind, message.item_key) for message in await room.outbox()]
    assert told == [("-5", "item_filed", "QD-001"), ("1001", "error", None)]


async def test_two_wishes_for_one_chat_are_one_message_silent_only_if_both_say_so(room):
    quiet = {"from": "00:00", "to": "23:59", "zone": "UTC"}
    await room.subscribe({"channel": "telegram", "quiet": quiet}, {"channel": "telegram", "chat": "1001"})
    await room.tell("a")
    await room.subscribe({"channel": "telegram", "quiet": quiet}, {"channel": "telegram", "quiet": quiet})
    await room.tell("b")
    assert await addresses(room) == [("telegram", "1001", False), ("telegram", "1001", True)]


async def test_a_new_import_replaces_all_subscriptions(room):
    await room.subscribe({"channel": "telegram", "chat": "1"}, {"channel": "log"})
    await room.subscribe({"channel": "telegram", "chat": "2"})
    await room.tell("a")
    await room.subscribe()
    await room.tell("b")
    assert await addresses(room) == [("telegram", "2", False), ("telegram", "1001", False)]


def test_quiet_hours_are_read_as_people_and_yaml_write_them():
    entry = {"channel": "log", "quiet": {"from": 22 * 60 + 30, "to": "08:00", "zone": "Europe/Kyiv"}}
    [wish] = read_subscriptions([entry], ["log"])
    assert (wish.quiet_from, wish.quiet_to, wish.zone) == (time(22, 30), time(8), "Europe/Kyiv")
    assert (wish.severity, wish.events, wish.enabled) == (Severity.INFO, [], True)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"channel": "pigeon"}, "there is no channel 'pigeon'; there is: log, telegram"),
        ({"channel": "log", "events": ["eror"]}, "unknown: eror; there is: agent_failed"),
        ({"channel": "log", "severity": "huge"}, "severity"),
        ({"channel": "log", "quiet": {"from": "22:00"}}, "quiet.to"),
        ({"channel": "log", "quiet": {"from": "22:00", "to": "8:61"}}, "quiet.to"),
        ({"channel": "log", "quiet": {"from": "22:00", "to": "08:00", "zone": "Mars/X"}}, "time zone"),
        ({"channel": "log", "colour": "red"}, "colour"),
        ("telegram", "dictionary"),
        ({}, "channel"),
    ],
)
def test_a_wrong_entry_is_named_with_what_is_wrong(entry, complaint):
    with pytest.raises(Misconfigured) as error:
        read_subscriptions([{"channel": "log"}, entry], ["telegram", "log"])
    assert "Entry 2 of `notifications`" in error.value.detail
    assert complaint in error.value.detail


async def test_links_stand_on_a_line_of_their_own_below_the_exact_text(database, tmp_path):
    room = NotifyRoom(database, tmp_path, prefect_public_url="https://runs.example/")
    async with database.command("tell") as unit:
        unit.record("item_done", item="ET-007", flow_run="0b1c")
    [message] = await room.outbox()
    assert message.text.splitlines() == [
        "🎉 ET-007: задача завершена! PR merged.",
        '<a href="https://runs.example/runs?tag=ET-007">все запуски</a> · '
        '<a href="https://runs.example/runs/flow-run/0b1c">запуск в Prefect</a>',
    ]


async def test_there_is_no_link_that_a_browser_cannot_open(database, tmp_path):
    room = NotifyRoom(database, tmp_path, public_url="https://desk.example", prefect_port=4201)
    async with database.command("tell") as unit:
        unit.record("item_done", item="ET-007", flow_run="0b1c")
    [message] = await room.outbox()
    assert message.text == "🎉 ET-007: задача завершена! PR merged."


async def test_a_long_text_is_shortened_so_that_its_links_fit(database, tmp_path):
    room = NotifyRoom(database, tmp_path, prefect_public_url="https://runs.example")
    await room.tell("<&>" * 4000)
    [message] = await room.outbox()
    text = parsed(message.text)
    assert len(text) <= 4096
    assert text.endswith("…\nвсе запуски")


async def test_the_language_is_the_configured_one(database, tmp_path):
    room = NotifyRoom(database, tmp_path, language="zh")
    await room.tell("a")
    assert [message.text for message in await room.outbox()] == ["🔴 ET-007：错误 — a"]


async def test_the_text_of_an_event_for_the_api_is_plain(database):
    notify = Notify(database, Settings.model_validate({"language": "en"}), [])
    event = Event(kind="gate_failed", item_key="ET-007", data={"gate": "check", "reason": "1 < 2 & 3"})
    assert notify.text(event) == "⚠️ ET-007: QG check — failed: 1 < 2 & 3"
