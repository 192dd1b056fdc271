"""Delivery through the bots' queue: in order, again when it failed, never in silence."""

import asyncio

import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.kernel.journal import Delivery
from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.channels import Waits
from quarterdeck.notify.service import Notify
from tests.fakes.notifying import NotifyRoom, notify_of, telegram_connection
from tests.fakes.telegram import CHAT, GROUP, TOKEN, FakeTelegram, Limits
from tests.fakes.telegram_gateway import TelegramRoom


def said(*reasons: object) -> list[str]:
    return [f"🔴 ET-007: ERROR — {reason}" for reason in reasons]


@pytest.fixture
def telegram():
    with FakeTelegram() as server:
        yield server


@pytest.fixture
async def room(database, telegram, tmp_path):
    made = NotifyRoom(database, tmp_path, telegram.base)
    await made.connect(telegram_connection(telegram))
    return made


@pytest.fixture
async def heard(room):
    """The room, with somebody who listens."""
    async with room.listening():
        yield room


async def test_a_message_is_sent_as_the_bot_api_wants_it(heard, telegram):
    await heard.tell("a < b")
    assert sum(done.sent for done in await heard.deliver_all()) == 1
    body = telegram.sent()[0].body
    assert (body["chat_id"], body["text"], body["parse_mode"]) == (
        str(CHAT), "🔴 ET-007: ERROR — a &lt; b", "HTML",
    )  # fmt: skip
    assert "is_disabled" in str(body["link_preview_options"])
    [message] = await heard.outbox()
    assert (message.state, message.attempts, message.possibly_twice) == (Delivery.SENT, 1, False)
    assert message.external_id == str(telegram.shown()[0]["message_id"]) and message.sent_at


async def test_messages_come_in_order_and_within_the_limits_of_the_one_queue(heard, telegram):
    telegram.state.limits = Limits(heard.clock)
    await heard.tell(*range(5))
    await heard.deliver_all()
    assert telegram.texts() == said(*range(5))
    assert telegram.violations == []


async def test_without_a_listener_messages_wait_and_whoever_asks_is_told_so(room, telegram, monkeypatch):
    monkeypatch.setattr("quarterdeck.notify.channels.telegram.PATIENCE", 0.05)
    await room.tell("a", "b")
    done = await room.deliver()
    assert (done.sent, done.waiting, done.dead) == (0, 2, 0) and done.next_at is not None
    assert "not taken its bot over" in (await room.outbox())[0].reason
    trial = await room.notify.test("telegram")
    assert not trial.ok and "no listener" in trial.detail
    async with room.listening():
        await room.deliver_all()
    trial_text = "🔔 system: пробное сообщение Quarterdeck"
    assert telegram.texts() == [trial_text, *said("a", "b")]


async def test_a_wait_that_telegram_asks_for_is_obeyed_and_shown(heard, telegram, monkeypatch):
    telegram.fail("sendMessage", 429, "Too Many Requests: retry after 17", retry_after=17)
    before = heard.clock.now()
    await heard.tell("first", "second")
    await heard.deliver_all()
    assert telegram.texts() == said("first", "second")
    assert (heard.clock.now() - before).total_seconds() >= 17


async def test_trouble_at_the_far_side_is_tried_again_in_order(heard, telegram):
    telegram.fail("sendMessage", 500, "Internal Server Error")
    telegram.babble("sendMessage", 502, b"<html>Bad Gateway</html>")
    await heard.tell("a", "b")
    await heard.deliver_all()
    assert telegram.texts() == said("a", "b")


async def test_an_answer_that_is_lost_is_marked_possibly_twice(heard, telegram):
    telegram.drop(worked=True)
    await heard.tell("a")
    await heard.deliver_all()
    assert telegram.texts() == said("a", "a")
    [letter] = (await heard.notify.messages("ET-007")).items
    assert letter.possibly_twice


@pytest.mark.parametrize(
    ("status", "description", "reason"),
    [
        (400, "Bad Request: chat not found", "chat not found"),
        (403, "Forbidden: bot was blocked by the user", "let the bot into the chat"),
        (400, "Bad Request: something new", "something new"),
    ],
)
async def test_what_can_never_arrive_is_a_dead_letter_and_the_rest_goes_on(
    heard, telegram, status, description, reason
):
    telegram.fail("sendMessage", status, description)
    await heard.tell("lost", "found")
    rounds = await heard.deliver_all()
    assert (sum(done.dead for done in rounds), sum(done.sent for done in rounds)) == (1, 1)
    assert telegram.texts() == said("found")
    [letter] = (await heard.notify.dead_letters()).items
    assert letter.state is Delivery.DEAD
    assert reason in letter.reason


async def test_a_dead_letter_can_be_sent_again(heard, telegram):
    telegram.blocking_chats.add(str(CHAT))
    await heard.tell("lost")
    await heard.deliver_all()
    telegram.blocking_chats.clear()
    [letter] = (await heard.notify.dead_letters()).items
    assert (await heard.notify.resend(letter.id)).state is Delivery.QUEUED
    await heard.deliver_all()
    assert telegram.texts() == said("lost")
    assert (await heard.notify.dead_letters()).items == []


async def test_a_dismissed_letter_is_dead_no_more_and_the_journal_tells_who_dismissed_it(heard, telegram):
    telegram.blocking_chats.add(str(CHAT))
    await heard.tell("lost")
    await heard.deliver_all()
    [letter] = (await heard.notify.dead_letters()).items
    for _ in range(2):
        dismissed = await heard.notify.dismiss(letter.id, "anna")
        assert (dismissed.state, dismissed.reason) == (Delivery.DISMISSED, letter.reason)
    assert (await heard.notify.dead_letters()).items == []
    [event] = await heard.events("letter_dismissed")
    assert (event.item_key, event.data["message"], event.data["by"]) == ("ET-007", letter.id, "anna")
    assert event.data["reason"] == letter.reason
    telegram.blocking_chats.clear()
    await heard.notify.resend(letter.id)
    await heard.deliver_all()
    assert telegram.texts() == said("lost")


async def test_only_dead_letters_are_dismissed(heard):
    await heard.tell("fine")
    await heard.deliver_all()
    [message] = await heard.outbox()
    with pytest.raises(Conflict, match="is sent"):
        await heard.notify.dismiss(message.id, "anna")
    with pytest.raises(NotFound):
        await heard.notify.dismiss(message.id + 1, "anna")


async def test_a_dead_letter_to_a_wrong_chat_goes_to_the_corrected_one(heard, telegram):
    telegram.missing_chats.add(str(CHAT))
    await heard.tell("lost")
    await heard.deliver_all()
    await heard.connect(telegram_connection(telegram, GROUP))
    [letter] = (await heard.notify.dead_letters()).items
    await heard.notify.resend(letter.id)
    await heard.deliver_all()
    assert telegram.texts(str(GROUP)) == said("lost")


async def test_only_dead_letters_are_sent_again(heard):
    await heard.tell("fine")
    await heard.deliver_all()
    [message] = await heard.outbox()
    with pytest.raises(Conflict, match="is sent"):
        await heard.notify.resend(message.id)
    with pytest.raises(NotFound):
        await heard.notify.resend(message.id + 1)


async def test_two_desks_hand_every_message_over_once_and_in_order(heard, telegram, database_url, tmp_path):
    await heard.subscribe(*({"channel": "telegram", "chat": str(chat)} for chat in (1, 2, 3)))
    await heard.tell(*range(5))
    other = Database(database_url, clock=heard.clock)
    rival = notify_of(TelegramRoom(other, tmp_path, telegram.base))
    await asyncio.gather(*(desk() for _ in range(3) for desk in (heard.deliver, rival.deliver_round)))
    await heard.deliver_all()
    for chat in ("1", "2", "3"):
        assert telegram.texts(chat) == said(*range(5))
    assert not any(message.possibly_twice for message in await heard.outbox())
    await other.close()


async def test_what_was_begun_by_a_desk_of_an_earlier_version_is_sent_again_and_marked(heard, telegram):
    await heard.tell("a")
    async with heard.database.command("an earlier desk died") as unit:
        [message] = await heard.outbox()
        message = await unit.session.merge(message)
        message.state = Delivery.SENDING
    await heard.deliver_all()
    [message] = await heard.outbox()
    assert (message.state, message.possibly_twice) == (Delivery.SENT, True)


async def test_a_message_for_a_channel_that_is_gone_is_a_dead_letter(room, database):
    await room.tell("a")
    without = Notify(database, Settings.model_validate({}), [])
    assert (await without.deliver_round()).dead == 1
    [letter] = (await room.notify.dead_letters()).items
    assert "telegram" in letter.reason


async def test_a_test_message_says_how_it_fared(heard, telegram):
    assert (await heard.notify.test("telegram")).ok
    assert telegram.texts() == ["🔔 system: пробное сообщение Quarterdeck"]
    telegram.missing_chats.add(str(CHAT))
    failed = await heard.notify.test("telegram")
    assert not failed.ok and "chat not found" in failed.detail
    assert (await heard.notify.test("log")).ok
    with pytest.raises(NotFound, match="log, telegram"):
        await heard.notify.test("pigeon")


async def test_what_is_tried_without_a_name_is_what_people_are_told_through(
    heard, telegram, database, tmp_path
):
    assert (await heard.notify.test()).channel == "telegram" and telegram.texts()
    assert (await NotifyRoom(database, tmp_path / "other").notify.test()).channel == "log"


async def test_a_test_message_of_a_desk_without_a_bot_says_what_is_missing(database, tmp_path):
    missing = await NotifyRoom(database, tmp_path).notify.test("telegram")
    assert not missing.ok and "not filled in" in missing.detail


# Questions


async def ask(room, approval="8f14e45f-ceea-467f-a0e6-8c9d1b6f7a10"):
    async with room.database.command("ask") as unit:
        unit.record("approval_requested", item="ET-007", stage="analysis", approval=approval)


async def decide(room, by="anna", door="plane"):
    async with room.database.command("decide") as unit:
        unit.record("approval_decided", item="ET-007", approved=True, by=by, door=door, comment="")


async def test_a_question_has_buttons_and_says_how_it_was_answered_through_any_door(heard, telegram):
    await ask(heard)
    await heard.deliver_all()
    [shown] = telegram.shown()
    data = [button["callback_data"] for button in shown["reply_markup"]["inline_keyboard"][0]]
    assert data == [f"{name}?approval=8f14e45f-ceea-467f-a0e6-8c9d1b6f7a10" for name in ("approve", "reject")]
    await decide(heard)
    await heard.deliver_all()
    [shown] = telegram.shown()
    assert shown["text"].endswith("👍 ET-007: одобрено (anna, plane)") and "reply_markup" not in shown
    await decide(heard, by="owner")  # told again: nothing more happens to the card
    await heard.deliver_all()
    assert len(telegram.done("editMessageText")) == 1


async def test_a_question_that_was_answered_before_it_was_sent_is_sent_and_then_rewritten(heard, telegram):
    await ask(heard)
    await decide(heard)
    await heard.deliver_all()
    [shown] = telegram.shown()
    assert "одобрено (anna, plane)" in shown["text"] and "reply_markup" not in shown


async def test_the_answer_to_a_question_that_never_arrived_is_not_told_either(heard, telegram):
    telegram.missing_chats.add(str(CHAT))
    await ask(heard)
    await heard.deliver_all()
    await decide(heard)
    await heard.deliver_all()
    assert [letter.kind for letter in (await heard.notify.messages()).items] == ["approval_requested"]


async def test_a_question_that_somebody_deleted_needs_no_answer(heard, telegram):
    await ask(heard)
    await heard.deliver_all()
    telegram.state.messages.clear()
    await decide(heard)
    await heard.deliver_all()
    assert (await heard.notify.dead_letters()).items == []


async def test_the_log_asks_without_buttons_and_is_not_rewritten(database, tmp_path):
    room = NotifyRoom(database, tmp_path)
    await ask(room)
    await decide(room)
    assert (await room.deliver()).sent == 1
    assert [message.choices for message in await room.outbox()] == [[]]


async def test_what_comes_after_a_message_that_cannot_be_taken_waits_behind_it(room, monkeypatch):
    channel = room.notify.channels["telegram"]
    take, tries = channel.take, []

    async def later(unit, message):
        tries.append(message.text)
        if len(tries) == 1:
            await room.telegram.bots.adopt_connections()  # just now, between one message and the next
            return Waits("It waits.")
        return await take(unit, message)

    monkeypatch.setattr(channel, "take", later)
    await room.tell("a", "b", "c")
    assert (await room.deliver()).waiting == 3 and tries == said("a")
    await room.deliver()
    assert tries == said("a", "a", "b", "c")
    assert [message.state for message in await room.outbox()] == [Delivery.SENDING] * 3


# Bad tokens


async def test_with_a_token_that_telegram_does_not_know_messages_become_dead_letters(room, telegram):
    await room.connect(telegram_connection(telegram, token=TOKEN + "x"))
    await room.tell("early")
    assert (await room.deliver()).waiting == 1
    await room.telegram.bots.adopt_connections()
    await room.deliver()
    [letter] = (await room.notify.dead_letters()).items
    assert "does not know this token" in letter.reason and "@BotFather" in letter.reason
    room.clock.go(1)
    await room.connect(telegram_connection(telegram))
    await room.notify.resend(letter.id)
    async with room.listening():
        await room.deliver_all()
    assert telegram.texts() == said("early")


async def test_while_telegram_cannot_be_asked_about_the_token_messages_wait(room, telegram):
    telegram.fail("getMe", 502, "Bad Gateway", times=3)
    await room.telegram.bots.adopt_connections()
    await room.tell("early")
    assert (await room.deliver()).waiting == 1
    assert "It waits: " in (await room.outbox())[0].reason and "502" in (await room.outbox())[0].reason


async def test_a_revoked_token_makes_dead_letters_of_all_that_waits(heard, telegram):
    telegram.fail("sendMessage", 401, "Unauthorized")
    await heard.tell("a", "b")
    await heard.deliver_all()
    await heard.tell("c")
    await heard.deliver_all()
    letters = (await heard.notify.dead_letters()).items
    assert [letter.text for letter in letters if "ERROR — " in letter.text][::-1][:2] == said("a", "b")
    assert telegram.texts() == []
    assert all("correct the connection" in letter.reason or "stopped" in letter.reason for letter in letters)
