"""The fake Bot API server behaves as the Bot API does, where our programs would notice.

It is asked by aiogram, whose types are strict: an answer that Telegram could not give does not parse.
"""

import asyncio
import json

import httpx
import pytest

from tests.fakes.clock import ManualClock
from tests.fakes.later import Later
from tests.fakes.telegram import CHAT, GROUP, TOKEN, FakeTelegram, Limits, Refusal, parsed, token_of

aiogram, errors, types = map(Later, ("aiogram", "aiogram.exceptions", "aiogram.types"))
OTHER = token_of(2)


@pytest.fixture
def telegram():
    with FakeTelegram(TOKEN, OTHER, topics=True) as server:
        yield server


def bot_of(telegram, token=TOKEN, *, local=False):
    from aiogram.client.session.aiohttp import AiohttpSession
    from aiogram.client.telegram import TelegramAPIServer

    server = TelegramAPIServer.from_base(telegram.base, is_local=local)
    return aiogram.Bot(token, session=AiohttpSession(api=server, timeout=10))


@pytest.fixture
async def bot(telegram):
    bot = bot_of(telegram)
    yield bot
    await bot.session.close()


def keyboard(*data):
    from aiogram.utils.keyboard import InlineKeyboardBuilder

    builder = InlineKeyboardBuilder()
    for one in data:
        builder.button(text=one or "-", callback_data=one)
    return builder.as_markup()


async def refusal(kind, work):
    with pytest.raises(kind) as caught:
        await work
    return caught.value


def newer():
    """A method that no server knows yet."""

    class Newer(aiogram.methods.TelegramMethod[bool]):
        __returning__ = bool
        __api_method__ = "sendTelegram"

    return Newer()


# Updates


async def test_a_bot_knows_itself(bot):
    me = await bot.get_me()
    assert me.is_bot and me.id == 7000000001 and me.has_topics_enabled


async def test_updates_are_given_until_they_are_acknowledged(bot, telegram):
    first, second = telegram.say("one"), telegram.say("/two now")
    for _ in range(2):
        assert [update.update_id for update in await bot.get_updates()] == [first, second]
    [left] = await bot.get_updates(offset=second)
    assert left.message.text == "/two now" and left.message.entities[0].type == "bot_command"
    assert await bot.get_updates(offset=second + 1) == []
    assert telegram.unread() == 0


async def test_every_bot_has_updates_of_its_own(bot, telegram):
    telegram.say("for the other", token=OTHER)
    assert await bot.get_updates() == []
    other = bot_of(telegram, OTHER)
    assert [update.message.text for update in await other.get_updates()] == ["for the other"]
    await other.session.close()


async def test_a_poll_waits_for_the_first_update(bot, telegram):
    waiting = asyncio.create_task(bot.get_updates(timeout=5))
    await asyncio.to_thread(telegram.wait_for, telegram.is_polled)
    telegram.say("hello")
    assert [update.message.text for update in await waiting] == ["hello"]


async def test_updates_that_a_bot_did_not_ask_for_are_not_given(bot, telegram):
    await bot.get_updates(allowed_updates=["callback_query"])
    telegram.say("unwanted")
    assert await bot.get_updates() == []


async def test_a_second_poller_ends_the_first(bot, telegram):
    first = asyncio.create_task(bot.get_updates(timeout=30))
    await asyncio.to_thread(telegram.wait_for, telegram.is_polled)
    assert await bot.get_updates(timeout=0) == []
    assert "terminated by other getUpdates" in str(await refusal(errors.TelegramConflictError, first))


async def test_there_is_no_polling_beside_a_webhook(bot):
    await bot.set_webhook("https://example.org/hook")
    assert "webhook is active" in str(await refusal(errors.TelegramConflictError, bot.get_updates()))
    assert (await bot.get_webhook_info()).url
    await bot.delete_webhook()
    assert await bot.get_updates() == []


async def test_long_polls_end_when_the_server_goes_down(bot, telegram):
    waiting = asyncio.create_task(bot.get_updates(timeout=50, request_timeout=60))
    await asyncio.to_thread(telegram.wait_for, telegram.is_polled)
    await asyncio.to_thread(telegram.down)
    with pytest.raises(Exception, match=r"Server|Connection|disconnected"):
        await asyncio.wait_for(waiting, 20)


# Messages


async def test_messages_carry_thread_reply_keyboard_and_entities(bot, telegram):
    topic = await bot.create_forum_topic(CHAT, "Plans")
    first = await bot.send_message(CHAT, "first", message_thread_id=topic.message_thread_id)
    assert first.is_topic_message and first.message_thread_id == topic.message_thread_id
    second = await bot.send_message(
        CHAT,
        '😀 <b>bold <i>both</i></b> <a href="https://x.org/?a=1&amp;b=2">link</a>',
        parse_mode="HTML",
        reply_markup=keyboard("yes", "no"),
        reply_parameters=types.ReplyParameters(message_id=first.message_id),
    )
    assert second.text == "😀 bold both link" and second.reply_to_message.text == "first"
    assert [(one.type, one.offset, one.length) for one in second.entities] == [
        ("bold", 3, 9),
        ("italic", 8, 4),
        ("text_link", 13, 4),
    ]
    assert second.html_text.startswith("😀 <b>bold <i>both</i></b>")
    assert second.reply_markup.inline_keyboard[0][1].callback_data == "no"
    assert [message["text"] for message in telegram.shown()] == ["first", second.text]


async def test_a_pressed_button_arrives_and_its_message_can_be_edited(bot, telegram):
    sent = await bot.send_message(CHAT, "Sure?", reply_markup=keyboard("yes"))
    telegram.press("yes", sent.message_id)
    [update] = await bot.get_updates()
    query = update.callback_query
    assert (query.data, query.message.message_id) == ("yes", sent.message_id)
    assert await bot.answer_callback_query(query.id)
    assert "query is too old" in str(await refusal(errors.TelegramBadRequest, bot.answer_callback_query("9")))
    edited = await bot.edit_message_text("Done", chat_id=CHAT, message_id=sent.message_id)
    assert edited.text == "Done" and edited.reply_markup is None
    same = bot.edit_message_text("Done", chat_id=CHAT, message_id=sent.message_id)
    assert "message is not modified" in str(await refusal(errors.TelegramBadRequest, same))
    await bot.edit_message_reply_markup(
        chat_id=CHAT, message_id=sent.message_id, reply_markup=keyboard("again")
    )
    assert await bot.delete_message(CHAT, sent.message_id)
    gone = bot.edit_message_text("x", chat_id=CHAT, message_id=sent.message_id)
    assert "message to edit not found" in str(await refusal(errors.TelegramBadRequest, gone))


async def test_drafts_are_shown_in_private_chats_until_a_message_comes(bot, telegram):
    assert await bot.send_message_draft(CHAT, 7, text="Wri")
    assert await bot.send_message_draft(CHAT, 7, text="Writing")
    assert telegram.draft() == "Writing"
    await bot.send_message(CHAT, "Written")
    assert telegram.draft() is None
    assert "PEER" in str(await refusal(errors.TelegramBadRequest, bot.send_message_draft(GROUP, 7, text="x")))


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("<b>x", "HTML", 'Can\'t find end tag corresponding to start tag "b"'),
        ("x</b>", "HTML", "Unexpected end tag at byte offset 1"),
        ("é<b><i>x</b></i>", "HTML", 'byte offset 9, expected "</i>", found "</b>"'),
        ("<h1>x</h1>", "HTML", 'Unsupported start tag "h1" at byte offset 0'),
        ("1 < 2", "HTML", 'Unsupported start tag "" at byte offset 2'),
        ("<b", "HTML", "Unclosed start tag at byte offset 0"),
        ("a <> b", "HTML", 'Unsupported start tag "" at byte offset 2'),
        ('<span class="x">y</span>', "HTML", 'must have class "tg-spoiler"'),
        ("1.5", "MarkdownV2", "Character '.' is reserved and must be escaped with the preceding '\\'"),
        ("*x", "MarkdownV2", "Can't find end of Bold entity at byte offset 0"),
        ("a|b", "MarkdownV2", "Character '|' is reserved"),
    ],
)
async def test_broken_markup_is_refused_with_the_real_words(bot, text, mode, why):
    error = await refusal(errors.TelegramBadRequest, bot.send_message(CHAT, text, parse_mode=mode))
    assert "can't parse entities: " in str(error) and why in str(error)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>a &amp; &lt;b&gt; &#33; &#x21;</b>", "a & <b> ! !"),
        ('<a href="https://x/?a=1">y</a>', "y"),
        ('<pre><code class="language-py">x &lt; 1</code></pre>', "x < 1"),
        ("<blockquote expandable>q</blockquote><tg-spoiler>s</tg-spoiler>", "qs"),
        ("&nbsp; & &unknown;", "&nbsp; & &unknown;"),
    ],
)
def test_good_html_is_read(text, shown):
    assert parsed(text) == shown


def test_broken_html_is_refused_without_a_server_too():
    with pytest.raises(Refusal, match="can't parse entities"):
        parsed("<b>x")


async def test_good_markdown_is_read(bot):
    sent = await bot.send_message(
        CHAT,
        "*b* _i_ __u__ ~s~ ||p|| `c.c` [l](https://x.org) 1\\.5\n```py\na.b\n```\n>quoted",
        parse_mode="MarkdownV2",
    )
    assert sent.text == "b i u s p c.c l 1.5\na.b\n\nquoted"
    assert [entity.type for entity in sent.entities] == [
        *("bold", "italic", "underline", "strikethrough", "spoiler", "code", "text_link"),
        *("pre", "blockquote"),
    ]


async def test_lengths_are_counted_in_utf16_units_after_parsing(bot):
    await bot.send_message(CHAT, "😀" * 2048)
    assert "too long" in str(await refusal(errors.TelegramBadRequest, bot.send_message(CHAT, "😀" * 2049)))
    await bot.send_message(CHAT, "&lt;" * 4096, parse_mode="HTML")
    assert "empty" in str(await refusal(errors.TelegramBadRequest, bot.send_message(CHAT, " ")))
    big = bot.send_message(CHAT, "x", reply_markup=keyboard("я" * 33))
    assert "BUTTON_DATA_INVALID" in str(await refusal(errors.TelegramBadRequest, big))


# Refusals


async def test_what_telegram_refuses_is_refused(bot, telegram):
    telegram.missing_chats.add("5")
    telegram.blocking_chats.add("6")
    telegram.deactivated_chats.add("7")
    telegram.kicked_chats.add(str(GROUP))
    telegram.migrate(-88, -10088)
    assert "chat not found" in str(await refusal(errors.TelegramBadRequest, bot.send_message(5, "x")))
    assert "blocked by the user" in str(
        await refusal(errors.TelegramForbiddenError, bot.send_message(6, "x"))
    )
    assert "deactivated" in str(await refusal(errors.TelegramForbiddenError, bot.send_message(7, "x")))
    assert "kicked from" in str(await refusal(errors.TelegramForbiddenError, bot.send_message(GROUP, "x")))
    moved = await refusal(errors.TelegramMigrateToChat, bot.send_message(-88, "x"))
    assert moved.migrate_to_chat_id == -10088
    thread = bot.send_message(CHAT, "x", message_thread_id=1)
    assert "message thread not found" in str(await refusal(errors.TelegramBadRequest, thread))
    assert "method not found" in str(await refusal(errors.TelegramNotFound, bot(newer())))
    telegram.revoke(TOKEN)
    await refusal(errors.TelegramUnauthorizedError, bot.get_me())
    async with httpx.AsyncClient(base_url=telegram.base) as stranger:
        assert (await stranger.post("/botwrong/getMe")).status_code == 404


async def test_faults_come_as_ordered_and_the_port_survives_an_outage(bot, telegram):
    telegram.fail("sendMessage", 429, "Too Many Requests: retry after 3", retry_after=3)
    assert (await refusal(errors.TelegramRetryAfter, bot.send_message(1, "x"))).retry_after == 3
    async with httpx.AsyncClient(base_url=f"{telegram.base}/bot{TOKEN}/", timeout=5) as client:
        telegram.drop(worked=True)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("sendMessage", json={"chat_id": 1, "text": "taken"})
        assert telegram.texts() == ["taken"]
        port = telegram.port
        await asyncio.to_thread(telegram.down)
        with pytest.raises(httpx.TransportError):
            await client.post("getMe")
        await asyncio.to_thread(telegram.up)
        assert telegram.port == port
        assert (await client.post("getMe")).json()["ok"]


async def test_one_bot_can_hang_flood_or_be_limited_beside_the_others(bot, telegram):
    other = bot_of(telegram, OTHER)
    telegram.mode(OTHER, "limit", retry_after=7)
    assert (await refusal(errors.TelegramRetryAfter, other.get_me())).retry_after == 7
    telegram.mode(OTHER, "flood")
    first = await other.get_updates(timeout=30)
    again = await other.get_updates(offset=first[-1].update_id + 1, timeout=30)
    assert len(first) == len(again) == 100 and first[-1].update_id < again[0].update_id
    telegram.mode(OTHER, "hang")
    hanging = asyncio.create_task(other.get_me())
    assert (await bot.get_me()).id == 7000000001
    telegram.mode(OTHER, "")
    hanging.cancel()
    assert (await other.get_me()).id == 7000000002
    await other.session.close()


async def test_what_comes_too_early_for_a_chat_is_refused_and_written_down():
    clock = ManualClock()
    with FakeTelegram(limits=Limits(clock)) as telegram:
        bot = bot_of(telegram)
        await bot.send_message(CHAT, "in time")
        assert (await refusal(errors.TelegramRetryAfter, bot.send_message(CHAT, "early"))).retry_after == 1
        await bot.send_message(CHAT + 1, "elsewhere")
        clock.go(1)
        await bot.send_message(CHAT, "in time again")
        await bot.session.close()
        assert [(one.limit, one.chat) for one in telegram.violations] == [("chat", str(CHAT))]


async def test_a_group_hears_twenty_messages_a_minute():
    clock = ManualClock()
    with FakeTelegram(limits=Limits(clock)) as telegram:
        bot = bot_of(telegram)
        for _ in range(20):
            await bot.send_message(GROUP, "in time")
            clock.go(1)
        assert (await refusal(errors.TelegramRetryAfter, bot.send_message(GROUP, "early"))).retry_after == 40
        clock.go(40)
        await bot.send_message(GROUP, "in time again")
        await bot.session.close()
        assert [one.limit for one in telegram.violations] == ["group"]


async def test_a_bot_may_say_only_so_much_to_all_its_chats():
    with FakeTelegram(limits=Limits(ManualClock(), enforced=False)) as telegram:
        bot = bot_of(telegram)
        for chat in range(1, 32):
            await bot.send_message(chat, "x")
        await bot.session.close()
        assert [one.limit for one in telegram.violations] == ["bot"]


# Files, topics, chats, commands


async def test_files_go_both_ways(bot, telegram):
    content = bytes(range(256)) * 1000
    sent = await bot.send_document(CHAT, types.BufferedInputFile(content, "отчёт.pdf"), caption="<b>x</b>")
    assert (sent.document.file_name, sent.document.file_size) == ("отчёт.pdf", len(content))
    assert sent.caption == "<b>x</b>"
    got = await bot.download(sent.document)
    assert got.read() == content
    telegram.hand_over("voice", b"ogg", mime="audio/ogg")
    [update] = await bot.get_updates()
    assert (await bot.download(update.message.voice)).read() == b"ogg"
    again = await bot.send_document(CHAT, sent.document.file_id)
    assert again.document.file_id == sent.document.file_id
    for send in (bot.send_photo, bot.send_audio, bot.send_video, bot.send_voice, bot.send_animation):
        assert (await send(CHAT, types.BufferedInputFile(b"x", "x.bin"))).message_id
    group = [types.InputMediaDocument(media=types.BufferedInputFile(bytes([n]), f"{n}.txt")) for n in (1, 2)]
    assert [one.document.file_name for one in await bot.send_media_group(CHAT, group)] == ["1.txt", "2.txt"]
    empty = bot.send_document(CHAT, types.BufferedInputFile(b"", "x.txt"))
    assert "non-empty" in str(await refusal(errors.TelegramBadRequest, empty))
    telegram.state.download_limit = 10
    assert "file is too big" in str(
        await refusal(errors.TelegramBadRequest, bot.get_file(sent.document.file_id))
    )
    await bot.edit_message_caption(chat_id=CHAT, message_id=sent.message_id, caption="y")
    text = bot.edit_message_text("z", chat_id=CHAT, message_id=sent.message_id)
    assert "no text in the message" in str(await refusal(errors.TelegramBadRequest, text))


async def test_a_local_server_names_files_by_absolute_paths(tmp_path):
    with FakeTelegram(local=tmp_path / "server") as telegram:
        bot = bot_of(telegram, local=True)
        (tmp_path / "out.txt").write_bytes(b"from disk")
        sent = await bot.send_document(CHAT, (tmp_path / "out.txt").as_uri())
        file = await bot.get_file(sent.document.file_id)
        assert file.file_path.startswith(str(tmp_path / "server"))
        assert (await bot.download_file(file.file_path)).read() == b"from disk"
        await bot.session.close()


async def test_topics_chats_members_actions_and_commands(bot, telegram):
    thread = (await bot.create_forum_topic(CHAT, "One")).message_thread_id
    assert await bot.edit_forum_topic(CHAT, thread, name="Two")
    assert telegram.state.topics[str(CHAT)] == {thread: "Two"}
    assert "not a forum" in str(await refusal(errors.TelegramBadRequest, bot.create_forum_topic(GROUP, "x")))
    telegram.forum_chats.add(str(GROUP))
    assert (await bot.get_chat(GROUP)).is_forum and (await bot.get_chat(CHAT)).type == "private"
    assert (await bot.get_chat_member(GROUP, 42)).user.id == 42
    assert await bot.send_chat_action(CHAT, "typing")
    await bot.set_my_commands([types.BotCommand(command="start", description="Begin")], language_code="en")
    assert [one.command for one in await bot.get_my_commands(language_code="en")] == ["start"]
    assert await bot.get_my_commands() == []


async def test_parameters_come_as_json_as_a_form_or_in_the_address(telegram):
    address = f"{telegram.base}/bot{TOKEN}/sendMessage"
    async with httpx.AsyncClient() as client:
        await client.post(address, json={"chat_id": CHAT, "text": "json"})
        await client.post(address, data={"chat_id": CHAT, "text": "form"})
        await client.get(address, params={"chat_id": CHAT, "text": "address"})
    assert telegram.texts() == ["json", "form", "address"]
    assert aiogram.methods.SendMessage.__api_method__ == telegram.calls[0].method
    assert json.dumps(telegram.calls[0].answer)
