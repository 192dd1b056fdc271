"""What models write becomes HTML that Telegram takes, whatever it is; buttons fit; updates never surprise."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.surfaces.assignment import assigned, owes_notice, refreshed
from quarterdeck.surfaces.protocol import IncomingCallback, IncomingCommand, IncomingMessage
from quarterdeck.surfaces.telegram.buttons import pack, unpack
from quarterdeck.surfaces.telegram.converter import is_for, read, to_event
from quarterdeck.surfaces.telegram.markdown import escape, to_html
from quarterdeck.telegram.rules import update_of
from quarterdeck.telegram.splitting import split
from tests.fakes.chatting import message
from tests.fakes.telegram import parsed

PIECES = [
    "**", "*", "_", "__", "`", "```", "```py\n", "~~", "[", "](http://x.y)", "](javascript:x)", "# ", "> ",
    "- ", "1. ", "\n", "\n\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "<b>", "</b>", "<script>", "&amp;", "&",
    "<", ">", "слово ", "שלום ", "مرحبا ", "👩‍👩‍👧‍👦", "👍🏽", "🇺🇦", "e\u0301", "\u202e", "    ",
    "![x](y)", "\\", "\x00",
    "\ud800", "word ", "---\n", "]", "(", ")", "http://example.org/?a=1&b=2 ", '"', "'",
]  # fmt: skip
MARKDOWN = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


def seen(html: str) -> str:
    """The text as people see it; raises what Telegram would refuse."""
    text = parsed(html)
    assert len(text.encode("utf-16-le", "surrogatepass")) // 2 <= 4096
    return text


@settings(max_examples=150, deadline=None)
@given(MARKDOWN)
def test_whatever_a_model_writes_is_html_that_telegram_takes(text: str) -> None:
    for part in split(to_html(text), "HTML"):
        assert seen(part).strip()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=3, max_size=12).map("".join), st.integers(4096, 12_000))
def test_long_texts_are_split_without_breaking_anything(piece: str, length: int) -> None:
    text = (piece * (length // len(piece) + 1))[:length]
    html = to_html(text)
    parts = split(html, "HTML")
    whole = "".join(parsed(part) for part in parts)
    assert [seen(part) for part in parts]
    kept = "".join(parsed(html).split())
    assert "".join(whole.split()) == kept  # nothing but blanks between parts is lost


def test_ten_thousand_characters_with_nested_tags_arrive_whole() -> None:
    text = "**bold _and italic `code` 👩‍👩‍👧‍👦 שלום_** " * 250
    parts = split(to_html(text), "HTML")
    assert len(text) > 10_000 and len(parts) > 1
    assert sum(seen(part).count("code") for part in parts) == 250


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("# Title\ntext", "<b>Title</b>\n\ntext"),
        ("**a** *b* ~~c~~ `d`", "<b>a</b> <i>b</i> <s>c</s> <code>d</code>"),
        ("- a\n- b\n  - c", "• a\n• b\n  • c"),
        ("3. a\n4. b", "3. a\n4. b"),
        ("```py\nx < 1\n```", '<pre><code class="language-py">x &lt; 1</code></pre>'),
        ("    x", "<pre>x</pre>"),
        ("> a\n> > b", "<blockquote>a\n\nb</blockquote>"),
        ("[a](https://x.y/?q=1&r=2)", '<a href="https://x.y/?q=1&amp;r=2">a</a>'),
        ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
        ("<b>raw</b>", "&lt;b&gt;raw&lt;/b&gt;"),
        ("| a | bb |\n|---|---|\n| 1 | 2 |", "<pre>a | bb\n1 | 2</pre>"),
        ("a\n\nb", "a\n\nb"),
        ("", ""),
    ],
)
def test_markdown_becomes_telegrams_own_tags(markdown: str, html: str) -> None:
    assert to_html(markdown) == html


@given(st.text())
def test_escaped_text_is_seen_as_it_was(text: str) -> None:
    assert parsed(escape(text)) == "".join(
        "\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text
    )


# Buttons


@given(
    st.sampled_from(["switch", "approve"]),
    st.dictionaries(st.sampled_from(["item", "chat"]), st.text(max_size=8), max_size=1),
)
def test_a_button_comes_back_as_it_went(action: str, payload: dict[str, str]) -> None:
    try:
        data = pack(action, payload)
    except (ValueError, UnicodeEncodeError):
        return
    assert len(data.encode()) <= 64 and unpack(data) == (action, payload)


@given(st.text(max_size=64))
def test_no_data_of_a_button_breaks_anything(data: str) -> None:
    action, payload = unpack(data)
    assert isinstance(action, str) and isinstance(payload, dict)


def test_a_button_that_is_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        pack("switch", {"chat": "x" * 60})


# Converter


def native(raw: dict[str, Any]) -> Any:
    return read(update_of({"update_id": 1, **raw}, "desk", "bot:1", datetime.now(UTC)))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "from", "chat", "text", "document", "photo", "file_id", "message", "data", "poll"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["message", "callback_query", "edited_message", "news"]), JUNK)
def test_no_update_breaks_the_converter(kind: str, content: Any) -> None:
    told = native({kind: content})
    if told is not None:
        assert to_event(told, "C1", "en", told.files).platform == "telegram"


def test_commands_consent_words_and_buttons_become_the_cores_events() -> None:
    command = to_event(native({"message": message("/item@desk_bot ET-007")}), "C1", "en", [])
    assert isinstance(command, IncomingCommand) and (command.command, command.args) == ("item", ["ET-007"])
    assert command.said_at == datetime.fromtimestamp(1_790_000_001, UTC), "its second is over"
    yes = to_event(native({"message": message("/yes")}), "C1", "en", [], "act-1")
    assert isinstance(yes, IncomingCallback) and (yes.action, yes.payload) == (
        "confirm",
        {"action_id": "act-1"},
    )
    words = to_event(native({"message": message("hello /there")}), "C1", "en", [])
    assert isinstance(words, IncomingMessage) and words.text == "hello /there"


@pytest.mark.parametrize(
    ("field", "content", "type_"),
    [
        ("document", {"file_id": "f", "file_name": "a.pdf"}, "document"),
        ("photo", [{"file_id": "s", "file_size": 1}, {"file_id": "f", "file_size": 9}], "image"),
        ("voice", {"file_id": "f"}, "audio"),
        ("audio", {"file_id": "f"}, "audio"),
        ("video", {"file_id": "f"}, "video"),
        ("video_note", {"file_id": "f"}, "video"),
        ("animation", {"file_id": "f"}, "video"),
        ("sticker", {"file_id": "f"}, "image"),
    ],
)
def test_every_kind_of_media_is_an_attachment(field: str, content: Any, type_: str) -> None:
    [file] = native({"message": message(**{field: content})}).files
    assert (file.type, file.url) == (type_, "f")


def test_places_contacts_and_polls_are_words() -> None:
    assert native({"message": message(location={"latitude": 1.5, "longitude": 2})}).text == "geo:1.5,2"
    contact = {"first_name": "Bo", "phone_number": "+38"}
    assert native({"message": message(contact=contact)}).text == "Bo +38"


def test_a_chain_of_replies_in_a_group_is_no_topic() -> None:
    chained = native({"message": message("x", chat=-5, message_thread_id=44)})
    assert chained.place.thread == 0
    assert native({"message": message("x", chat=-5, thread=44)}).place.thread == 44


def test_the_message_that_opened_a_topic_is_nobodys_word() -> None:
    opened = {"message_id": 1, "from": {"id": 1, "is_bot": True}, "forum_topic_created": {"name": "x"}}
    assert not is_for(
        native({"message": message("x", chat=-5, thread=4, reply_to_message=opened)}), "desk_bot"
    )


# Assignment


def test_a_users_own_agent_comes_before_the_first_one() -> None:
    assert assigned("galley", ["helm", "galley"]).source == "configured"
    assert assigned("", ["helm", "galley"]).agent_id == "helm"
    assert assigned("gone", ["helm"]).is_default
    assert assigned("", []).source == "none"


@pytest.mark.parametrize(
    ("configured", "room", "wanted"),
    [
        ("galley", {"agent_id": "helm"}, {"agent_id": "galley", "agent_assignment": "configured"}),
        ("galley", {"agent_id": "galley"}, {"agent_id": "galley", "agent_assignment": "configured"}),
        ("", {}, {"agent_id": "helm", "agent_assignment": "default"}),
        ("", {"agent_id": "helm"}, {"agent_id": "helm", "agent_assignment": "default"}),
        ("", {"agent_id": "galley"}, {"agent_id": "galley"}),
    ],
)
def test_a_room_follows_its_users_assignment(
    configured: str, room: dict[str, Any], wanted: dict[str, Any]
) -> None:
    kept = {"platform_chat_id": "7", "unknown": "kept", **room}
    assert refreshed(kept, assigned(configured, ["helm", "galley"])) == kept | wanted


def test_the_notice_is_owed_again_when_a_default_room_was_configured_in_between() -> None:
    room = {"agent_id": "helm", "agent_assignment": "default", "default_agent_notice_sent": True}
    assert not owes_notice(room)
    configured = refreshed(room, assigned("galley", ["helm", "galley"]))
    assert not owes_notice(configured) and "default_agent_notice_sent" not in configured
