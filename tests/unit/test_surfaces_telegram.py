"""People talk to agents from Telegram: chats, commands, buttons, groups."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Unavailable
from quarterdeck.surfaces.handlers.callback import asked
from quarterdeck.surfaces.protocol import (
    ConfirmationRequest,
    IncomingCallback,
    IncomingCommand,
    OutgoingMessage,
    OutgoingUI,
)
from quarterdeck.surfaces.telegram import menu
from quarterdeck.surfaces.telegram.strangers import PAUSE
from tests.fakes.chatting import ANNA, ChatDesk, Slowly, chatting, greeted, message
from tests.fakes.telegram import parsed

GROUP = -1001
desk = greeted


# Talking


@pytest.mark.parametrize(("bot", "command"), [("desk", "/chat"), ("galley", "/new")])
async def test_texts_name_the_command_that_begins_a_chat_at_this_bot(
    desk: ChatDesk, bot: str, command: str
) -> None:
    for line in ("/start", "/help"):
        await desk.writes(line, user=778, bot=bot)
        [told] = [line for line in desk.said(778)[-1].splitlines() if line.endswith(": a new chat")]
        assert told.startswith(command)


async def test_a_message_goes_to_the_agent_and_its_answer_comes_back(desk: ChatDesk) -> None:
    await desk.writes("hello")
    assert desk.asked() == ["hello"]
    assert desk.said()[-1] == "You said: hello"


async def test_an_answer_is_rendered_as_html_that_telegram_takes(desk: ChatDesk) -> None:
    await desk.writes("**bold** <script> `a<b`")
    assert desk.bots.sent[-1].parse_mode == "HTML"
    assert desk.bots.sent[-1].text == "You said: <b>bold</b> &lt;script&gt; <code>a&lt;b</code>"


async def test_the_bot_of_an_agent_answers_as_that_agent_and_the_desk_as_the_roster_says(
    desk: ChatDesk,
) -> None:
    await desk.writes("to the cook", bot="galley")
    await desk.writes("to my own", user=778)
    await desk.writes("to whoever is there")
    assert desk.asked("galley") == ["to the cook", "to my own"]
    assert desk.asked("helm") == ["to whoever is there"]


async def test_who_is_served_by_the_default_agent_is_told_so_once(desk: ChatDesk) -> None:
    await desk.writes("one")
    await desk.writes("two")
    assert sum("Helm, serves you" in text for text in desk.said()) == 1
    await desk.writes("three", user=778)
    assert not any("serves you" in text for text in desk.said(778))


async def test_chats_go_over_to_an_agent_that_the_roster_gives_later(desk: ChatDesk) -> None:
    await desk.writes("one")
    desk.people.agents[str(ANNA)] = "galley"
    await desk.writes("two")
    [before], [after] = desk.agents.clients["helm"].asked, desk.agents.clients["galley"].asked
    assert before.chat_id == after.chat_id
    del desk.people.agents[str(ANNA)]
    desk.people.agents[str(ANNA)] = ""
    await desk.writes("three")  # taken out of the mapping: the room keeps its agent
    assert desk.asked("galley") == ["two", "three"]


async def test_a_stranger_is_refused_politely_and_told_the_id(desk: ChatDesk) -> None:
    await desk.writes("let me in", user=999)
    assert "999" in desk.said(999)[0] and desk.asked() == []


async def test_in_a_group_a_stranger_is_told_its_number_too(desk: ChatDesk) -> None:
    await desk.writes("@desk_bot who are you?", user=999, chat=GROUP)
    assert str(GROUP) in desk.said(GROUP)[0] and "999" in desk.said(GROUP)[0]


async def test_a_stranger_who_goes_on_writing_is_answered_once_in_a_while(
    database: Database, tmp_path: Path
) -> None:
    hours = [0.0]
    async with chatting(database, tmp_path, monotonic=lambda: hours[0]) as desk:
        for _ in range(20):
            await desk.writes("let me in", user=999, waits=False)
        await desk.writes("me too", user=998)
        assert (len(desk.said(999)), len(desk.said(998))) == (1, 1)
        hours[0] += PAUSE
        await desk.writes("and now?", user=999)
        assert len(desk.said(999)) == 2
        desk.people.agents["999"] = ""
        await desk.writes("hello", user=999)
        assert desk.asked() == ["hello"]


async def test_a_stranger_may_talk_where_guests_are_welcome(database: Database, tmp_path: Path) -> None:
    async with chatting(database, tmp_path, guests="talk") as desk:
        await desk.writes("hello", user=999)
        assert desk.asked() == ["hello"]


async def test_who_left_the_roster_is_a_stranger_at_once(desk: ChatDesk) -> None:
    await desk.writes("one")
    del desk.people.agents[str(ANNA)]
    await desk.writes("two")
    assert desk.asked() == ["one"]


async def test_an_agent_that_fails_is_said_and_harms_nobody(desk: ChatDesk) -> None:
    desk.agents.clients["helm"].broken = "AWAY"
    await desk.writes("hello")
    await desk.writes("hello", user=778)
    assert "AWAY" in desk.said()[-1] and desk.said(778) == ["You said: hello"]
    desk.agents.clients["helm"].broken = ""
    await desk.writes("again")
    assert desk.said()[-1] == "You said: again"


async def test_where_there_is_no_agent_that_is_said(desk: ChatDesk) -> None:
    desk.agents.clients.clear()
    await desk.writes("hello", user=778)
    assert "no agent here yet" in desk.said(778)[-1]


async def test_a_handler_that_breaks_is_an_apology(desk: ChatDesk) -> None:
    async def breaks(event: Any, **_: Any) -> list[Any]:
        raise RuntimeError("inside")

    desk.surface.desk.register(IncomingCommand, "items", breaks)
    await desk.writes("/items")
    assert "went wrong" in desk.said()[-1] and "inside" not in desk.said()[-1]


async def test_the_language_is_the_apps_until_another_is_chosen(desk: ChatDesk) -> None:
    sender = {"id": ANNA, "is_bot": False, "first_name": "Анна", "language_code": "uk-UA"}
    await desk.writes("/dance", **{"from": sender})
    assert "Я не знаю" in desk.said()[-1]
    await desk.presses("set_language?language=zh")
    await desk.writes("/dance")
    assert "我不认识" in desk.said()[-1]


# What is no message


@pytest.mark.parametrize(
    "raw",
    [
        {"edited_message": {"message_id": 1, "chat": {"id": 777}, "from": {"id": 777}, "text": "x"}},
        {"my_chat_member": {"chat": {"id": 777}, "from": {"id": 777}}},
        {"message": {"message_id": 1, "chat": {"id": 777}, "from": {"id": 1, "is_bot": True}, "text": "x"}},
        {"message": {"message_id": 1, "chat": {"id": 777}, "from": {"id": 777}, "pinned_message": {}}},
        {"channel_post": {"message_id": 1, "chat": {"id": -5}, "text": "x"}},
        {"callback_query": {"id": "1", "from": {"id": 777}, "inline_message_id": "x"}},
        {"something_new": [1, 2]},
    ],
)
async def test_what_says_nothing_new_is_let_pass(desk: ChatDesk, raw: dict[str, Any]) -> None:
    await desk.takes(raw)
    assert desk.said() == [] and desk.asked() == []


async def test_an_update_that_is_told_again_is_answered_once(desk: ChatDesk) -> None:
    for _ in range(3):
        await desk.takes({"update_id": 500, "message": {**_message("hello")}})
    assert desk.asked() == ["hello"] and desk.said().count("You said: hello") == 1


def _message(text: str) -> dict[str, Any]:
    from tests.fakes.chatting import message

    return message(text)


# Groups


async def test_in_a_group_a_bot_answers_only_whoever_addresses_it(desk: ChatDesk) -> None:
    await desk.writes("just chatting", chat=GROUP)
    await desk.writes("/start@other_bot", chat=GROUP)
    assert desk.said(GROUP) == [] and desk.asked() == []
    await desk.writes("hey @desk_bot_two, hello", chat=GROUP)
    await desk.writes("hey @desk_bot, hello", chat=GROUP)
    for bot in (1, 2):
        replied = {"message_id": 3, "from": {"id": bot, "is_bot": True}}
        await desk.writes(f"and now, {bot}", chat=GROUP, reply_to_message=replied)
    await desk.writes("/help@desk_bot", chat=GROUP)
    assert desk.asked() == ["hey @desk_bot, hello", "and now, 1"]


async def test_who_calls_a_bot_whose_name_telegram_does_not_say_now_is_heard_later(desk: ChatDesk) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("Telegram does not answer.")

    told = {"update_id": 600, "message": message("hey @desk_bot, hello", chat=GROUP)}
    working, desk.bots.call = desk.bots.call, away  # type: ignore[method-assign]
    with pytest.raises(Unavailable):  # so that it is told again
        await desk.takes(dict(told))
    desk.bots.call = working  # type: ignore[method-assign]
    await desk.takes(dict(told))
    assert desk.asked() == ["hey @desk_bot, hello"]


# Chats


async def test_without_topics_chats_are_switched_by_buttons(desk: ChatDesk) -> None:
    await desk.writes("first")
    await desk.writes("/new Ship yard")
    await desk.writes("second")
    await desk.writes("/chats")
    data = [button.data for row in desk.bots.sent[-1].buttons for button in row]
    assert data == ["switch?chat=C1", "new_chat"]
    await desk.presses("switch?chat=C1")
    assert desk.bots.done("editMessageText")[-1]["text"].startswith("We are now in: Chat 1")
    await desk.writes("third")
    chats = [asked.chat_id for asked in desk.agents.clients["helm"].asked]
    assert chats[0] == chats[2] != chats[1]


async def test_with_topics_a_new_chat_is_a_topic_of_its_own(desk: ChatDesk) -> None:
    desk.bots.topics = True
    desk.surface = desk.made()
    await desk.writes("/new Ship yard")
    assert desk.bots.done("createForumTopic")[-1]["name"] == "Ship yard"
    assert "Ship yard" in desk.said(thread=100)[0]
    await desk.writes("in the topic", thread=100)
    await desk.writes("outside")
    inside, outside = desk.agents.clients["helm"].asked
    assert inside.chat_id != outside.chat_id and desk.said(thread=100)[-1] == "You said: in the topic"
    await desk.writes("/rename Harbour", thread=100)
    renamed = desk.bots.done("editForumTopic")[-1]
    assert (renamed["name"], renamed["message_thread_id"]) == ("Harbour", 100)


async def test_the_same_topic_number_of_two_users_and_two_topics_of_one_are_three_chats(
    desk: ChatDesk,
) -> None:
    of_the_bot = {"from": {"id": 1, "is_bot": True}}
    await desk.writes("a", thread=1, chat=GROUP, reply_to_message=of_the_bot)
    await desk.writes("b", thread=2, chat=GROUP, reply_to_message=of_the_bot)
    desk.people.agents["779"] = ""
    await desk.writes("c", thread=1, chat=GROUP, user=779, reply_to_message=of_the_bot)
    assert len({asked.chat_id for asked in desk.agents.clients["helm"].asked}) == 3


async def test_a_topic_that_the_user_opens_or_renames_is_a_chat_of_that_name(desk: ChatDesk) -> None:
    await desk.writes(thread=7, forum_topic_created={"name": "Cargo", "icon_color": 1})
    await desk.writes(thread=7, forum_topic_edited={"name": "Ballast"})
    await desk.writes("/chats")
    assert "Ballast (C2)" in desk.said()[-1]


async def test_inside_a_topic_nothing_is_switched(desk: ChatDesk) -> None:
    await desk.writes("x", thread=7)
    for data in ("switch?chat=C1", "new_chat"):
        await desk.presses(data, thread=7)
        assert "topic" in desk.said()[-1]


async def test_a_chat_of_another_place_cannot_be_switched_to(desk: ChatDesk) -> None:
    await desk.writes("x", bot="galley")
    await desk.presses("switch?chat=C2")
    assert "cannot find" in desk.said()[-1]
    await desk.presses("switch?chat=C99", user=778)
    assert "cannot find" in desk.said(778)[-1]


async def test_after_archiving_the_next_word_begins_another_chat(desk: ChatDesk) -> None:
    await desk.writes("one")
    await desk.writes("/archive")
    await desk.writes("two")
    first, second = desk.agents.clients["helm"].asked
    assert first.chat_id != second.chat_id
    await desk.writes("/chats")
    assert "C1" not in desk.said()[-1] and "C2" in desk.said()[-1]


async def test_clear_gives_this_chat_alone_a_fresh_conversation(desk: ChatDesk) -> None:
    await desk.writes("one")
    await desk.writes("elsewhere", thread=9)
    await desk.writes("/clear")
    await desk.writes("two")
    await desk.writes("elsewhere still", thread=9)
    one, elsewhere, two, still = (asked.chat_id for asked in desk.agents.clients["helm"].asked)
    assert one != two and elsewhere == still
    assert desk.agents.clients["helm"].forgotten == [one]


async def test_clear_gives_up_what_is_under_way_in_this_chat(desk: ChatDesk) -> None:
    Slowly(desk, ["never ", "ending", ""])
    await desk.writes("hello", waits=False)
    async with asyncio.timeout(20):
        while not desk.bots.done("sendMessageDraft"):
            await asyncio.sleep(0.001)
    await desk.writes("/clear")
    assert not any("ending" in text for text in desk.said())
    assert await desk.made().resume("desk") == 0


async def test_reset_is_another_name_of_clear(desk: ChatDesk) -> None:
    await desk.writes("one")
    await desk.writes("/reset")
    assert "no longer know" in desk.said()[-1]


# Buttons


async def test_a_settings_page_is_changed_in_place(desk: ChatDesk) -> None:
    await desk.writes("/settings")
    assert len(desk.bots.sent[-1].buttons) == 6
    await desk.presses("settings?part=skills", message_id=88)
    edited = desk.bots.done("editMessageText")[-1]
    browser = edited["reply_markup"]["inline_keyboard"][1][0]
    assert edited["message_id"] == 88 and browser["text"].endswith("off")
    await desk.presses(browser["callback_data"], message_id=88)
    changed = desk.bots.done("editMessageText")[-1]["reply_markup"]["inline_keyboard"][1][0]
    assert changed["text"].endswith("on")
    assert len(desk.bots.done("answerCallbackQuery")) == 2 and len(desk.bots.sent) == 1


async def test_a_handler_of_another_room_sees_who_asks_and_can_rewrite_its_card(desk: ChatDesk) -> None:
    async def approve(event: IncomingCallback, **_: Any) -> list[Any]:
        text = f"<b>{event.payload['item']}</b> by {event.user_id}"
        return [OutgoingMessage(event.chat_id, text, form="html", replaces=True)]

    desk.surface.desk.register(IncomingCallback, "approve", approve)
    await desk.presses("approve?item=ET-007", message_id=31)
    edited = desk.bots.done("editMessageText")[-1]
    assert (edited["message_id"], edited["text"]) == (31, "<b>ET-007</b> by 777")


async def test_a_question_is_answered_by_button_or_word_here_and_nowhere_else(desk: ChatDesk) -> None:
    async def ask(event: IncomingCommand, **_: Any) -> list[OutgoingUI]:
        return [asked(ConfirmationRequest("act-1", "Send the letter?"), event.chat_id, event.language)]

    desk.surface.desk.register(IncomingCommand, "ask", ask)
    await desk.writes("/ask")
    assert [button.data for button in desk.bots.sent[-1].buttons[0]] == [
        "confirm?action_id=act-1",
        "cancel?action_id=act-1",
    ]
    await desk.writes("/yes", thread=9)
    assert "nothing to answer" in desk.said()[-1]
    await desk.writes("/yes", user=778)
    assert "nothing to answer" in desk.said(778)[-1]
    await desk.writes("/no")
    assert "not done" in desk.said()[-1]
    await desk.writes("/no")
    assert "nothing to answer" in desk.said()[-1]


def test_html_of_the_fake_is_the_fakes() -> None:
    assert parsed("<b>x</b>") == "x"


# The menu


async def test_the_menu_is_told_in_every_language_and_again_only_when_it_changed(
    desk: ChatDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.surface.begins("desk", "bot:1")
    told = desk.bots.done("setMyCommands")
    assert [fields.get("language_code") for fields in told] == [None, "ru", "en", "uk", "zh"]
    assert told[0]["commands"] == told[2]["commands"] != told[1]["commands"]
    assert {"command": "approve", "description": "approve"} in told[2]["commands"]
    await desk.made().begins("desk", "bot:1")
    assert len(desk.bots.done("setMyCommands")) == 5
    monkeypatch.setattr("quarterdeck.surfaces.telegram.menu.WORKING", ("items",))
    await desk.made().begins("desk", "bot:1")
    assert len(desk.bots.done("setMyCommands")) == 10
    await desk.surface.begins("galley", "bot:2")
    assert "approve" not in str(desk.bots.done("setMyCommands")[10:])


@pytest.mark.parametrize("language", ["ru", "en", "uk", "zh"])
@pytest.mark.parametrize("agent", ["desk", "galley"])
def test_every_menu_is_one_that_telegram_takes(agent: str, language: str) -> None:
    told = menu.commands(agent, language)
    assert len({one["command"] for one in told}) == len(told) <= 100
    assert all(3 <= len(one["description"]) <= 256 for one in told)


async def test_every_command_of_a_menu_is_one_that_the_bot_understands(desk: ChatDesk) -> None:
    who = {"user_id": str(ANNA), "platform": "telegram", "chat_id": "C1"}
    for one in menu.commands("galley", "en"):
        assert desk.surface.dispatcher.knows(IncomingCommand(**who, command=one["command"]))


async def test_a_menu_that_telegram_does_not_take_now_is_told_at_the_next_start(
    desk: ChatDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: Any, **__: Any) -> Any:
        raise Conflict("Bad Request: BOT_COMMAND_INVALID")

    with monkeypatch.context() as refusing:
        refusing.setattr(desk.bots, "call", refuses)
        await desk.surface.begins("desk", "bot:1")
    await desk.surface.begins("desk", "bot:1")
    assert len(desk.bots.done("setMyCommands")) == 5
