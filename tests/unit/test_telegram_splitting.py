"""Long texts become parts that Telegram takes, and nothing of them is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.telegram.splitting import plain_of, split, units
from tests.fakes.telegram import parsed

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00<>&"), min_size=1, max_size=60)


def test_a_short_text_stays_as_it_is():
    assert split("Hello <b>there</b>", "HTML") == ["Hello <b>there</b>"]


def test_tags_are_closed_at_the_end_of_a_part_and_opened_again():
    text = '<b>bold <a href="https://example.org">' + "word " * 1500 + "</a></b>"
    parts = split(text, "HTML")
    assert len(parts) == 2
    assert all(part.startswith("<b>") for part in parts)
    assert parts[1].startswith('<b><a href="https://example.org">')
    assert all(units(parsed(part)) <= 4096 for part in parts)


def test_an_entity_is_never_cut():
    parts = split("&amp;" * 5000, "HTML")
    assert [part.count("&amp;") for part in parts] == [4096, 904]


def test_lengths_are_counted_in_utf_16():
    parts = split("😀" * 3000, None)
    assert [units(part) for part in parts] == [4096, 1904]


def test_what_is_drawn_as_one_stays_together():
    family = "👩\u200d👩\u200d👧"
    parts = split("x" + family * 600, None)
    assert all(not part.startswith("\u200d") and not part.endswith("\u200d") for part in parts)


def test_a_part_ends_at_a_paragraph_where_one_is_near():
    parts = split("a" * 3000 + "\n\n" + "b" * 3000, None)
    assert [part.strip() for part in parts] == ["a" * 3000, "b" * 3000]


def test_marks_of_markdown_are_not_cut():
    text = " ".join(f"*word{number}*" for number in range(1000))
    parts = split(text, "MarkdownV2")
    assert len(parts) > 1
    assert all(part.count("*") % 2 == 0 for part in parts)


@pytest.mark.parametrize("text", ["if a < b and c > d", "List<String>", "<<>>", "&nbsp; <i", "<p>so</p>"])
def test_what_only_looks_like_a_tag_is_text(text):
    assert split(text, "HTML") == [text]
    assert plain_of(f"<b>{text}</b>", "HTML").startswith(text.partition("&")[0])


def test_an_entity_that_telegram_does_not_know_is_as_long_as_it_looks():
    parts = split("&nbsp;" * 1000, "HTML")
    assert [units(parsed(part)) for part in parts] == [4096, 1904]


def test_a_long_block_of_code_in_markdown_is_cut_where_a_part_is_full():
    parts = split("```\n" + "x = 1\n" * 2000 + "```", "MarkdownV2")
    assert [units(part) for part in parts] == [4096, 4096, 3815]


@pytest.mark.parametrize("text", ["", "   \n", "<b> </b>"])
def test_nothing_is_no_part(text):
    assert split(text, "HTML") == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["b", "i", "u", "s", ""]), WORDS), max_size=40))
def test_no_word_is_lost_and_every_part_is_taken(pieces):
    text = "".join(f"<{tag}>{word}</{tag}>" if tag else word for tag, word in pieces)
    parts = split(text, "HTML", 50)
    assert all(units(parsed(part)) <= 50 for part in parts)
    together = "".join(plain_of(part, "HTML") for part in parts)
    assert "".join(together.split()) == "".join(plain_of(text, "HTML").split())
