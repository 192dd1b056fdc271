"""Long texts in parts that Telegram takes: 4096 UTF-16 units each, counted without markup.

A part ends at a paragraph, a line, a sentence or a word where one is near; never inside a tag, an entity or a
character that is drawn as one. Tags that are open at the end of a part are closed there and opened again in
the next. Source: Bot API, "Formatting options".
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quarterdeck.telegram.wire import ParseMode

MAX_UNITS = 4096

_TAGS = "b|strong|i|em|u|ins|s|strike|del|span|a|code|pre|blockquote|tg-spoiler|tg-emoji|tg-time"
_HTML = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?>|&(?:#\d+|#x[0-9a-f]+|lt|gt|amp|quot);|.", re.DOTALL | re.IGNORECASE
)
"""Telegram's own tags and entities. What else looks like one is text: shown, or refused and shown then."""

_MARKDOWN = re.compile(r"\\.|```|\|\||__|\[|\]\([^)\]\n]{0,2048}\)|[*_~`]|.", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MARKS = frozenset({"```", "||", "__", "*", "_", "~", "`"})
_BREAKS = ("\n\n", "\n", ". ", " ")
_JOINER = "\u200d"


def split(text: str, mode: ParseMode | None, limit: int = MAX_UNITS) -> list[str]:
    """The parts, in order; one when it is short enough. A part of blanks alone is left out."""
    if mode == "MarkdownV2":
        return _split_markdown(text, limit)
    tokens = [_token(found, is_html=mode == "HTML") for found in _found(text, mode)]
    return [part for part in _parts(tokens, limit) if plain_of(part, mode).strip()]


def plain_of(text: str, mode: ParseMode | None) -> str:
    """The same text without markup; signs of MarkdownV2 stay, for what they mean is not known: `5*3`."""
    if mode == "HTML":
        return html.unescape("".join(found for found in _HTML.findall(text) if not _is_tag(found)))
    if mode == "MarkdownV2":
        return _ESCAPED.sub(r"\1", text)
    return text


def units(text: str) -> int:
    """The length that Telegram counts, of a text without markup."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@dataclass(frozen=True)
class _Token:
    """A tag (of no length), an entity or a character; `seen` is what people read."""

    text: str
    seen: str
    units: int


def _found(text: str, mode: ParseMode | None) -> Iterator[str]:
    if mode == "HTML":
        return (match.group() for match in _HTML.finditer(text))
    return iter(text)


def _token(text: str, *, is_html: bool) -> _Token:
    if is_html and _is_tag(text):
        return _Token(text, "", 0)
    seen = html.unescape(text) if is_html and len(text) > 1 else text
    return _Token(text, seen, units(seen))


def _is_tag(text: str) -> bool:
    return len(text) > 1 and text.startswith("<")


def _parts(tokens: Sequence[_Token], limit: int) -> Iterator[str]:
    begin, opened = 0, list[str]()
    while begin < len(tokens):
        end = _end(tokens, begin, limit)
        prefix = "".join(opened)
        for token in tokens[begin:end]:
            _follow(token.text, opened)
        closing = "".join(f"</{_name(tag)}>" for tag in reversed(opened))
        yield prefix + "".join(token.text for token in tokens[begin:end]) + closing
        begin = end


def _end(tokens: Sequence[_Token], begin: int, limit: int) -> int:
    """Where the part that begins there ends: before that token."""
    length, end = 0, begin
    while end < len(tokens) and length + tokens[end].units <= limit:
        length += tokens[end].units
        end += 1
    if end == len(tokens):
        return end
    return _nice_end(tokens, begin, end, length // 2)


def _nice_end(tokens: Sequence[_Token], begin: int, end: int, most_given_up: int) -> int:
    """The best place at or before `end` that gives up no more than so many units."""
    best: dict[str, int] = {}
    given_up, seen = 0, ""
    for place in range(end, begin, -1):
        before = tokens[place - 1]
        seen = (before.seen + seen)[:2] if before.seen else seen
        for mark in _BREAKS:
            if before.seen and seen.startswith(mark) and mark not in best:
                best[mark] = min(place - 1 + _tokens_of(tokens, place - 1, mark), end)
        given_up += before.units
        if given_up > most_given_up:
            break
    for mark in _BREAKS:
        if mark in best and best[mark] > begin:
            return best[mark]
    return _whole_character(tokens, begin, end)


def _tokens_of(tokens: Sequence[_Token], place: int, mark: str) -> int:
    """How many tokens a mark takes that begins there; tags may stand in between."""
    taken, seen = 0, ""
    while len(seen) < len(mark) and place + taken < len(tokens):
        seen += tokens[place + taken].seen
        taken += 1
    return taken


def _whole_character(tokens: Sequence[_Token], begin: int, end: int) -> int:
    """Step back while the cut would go through something that is drawn as one."""
    for place in range(end, max(begin + 1, end - 20), -1):
        if not _belongs_together(tokens[place - 1].seen, tokens[place].seen):
            return place
    return end


def _belongs_together(before: str, after: str) -> bool:
    if not before or not after:
        return False
    joined = _JOINER in (before[-1], after[0])
    tone = "\U0001f3fb" <= after[0] <= "\U0001f3ff"
    return joined or tone or unicodedata.combining(after[0]) != 0 or "\ufe00" <= after[0] <= "\ufe0f"


def _follow(text: str, opened: list[str]) -> None:
    if not _is_tag(text):
        return
    if not text.startswith("</"):
        opened.append(text)
    elif opened and _name(opened[-1]) == text[2:-1].strip().lower():
        opened.pop()


def _name(tag: str) -> str:
    return re.split(r"[\s/>]", tag[1:], maxsplit=1)[0].lower()


# MarkdownV2: cut only where nothing is open


def _split_markdown(text: str, limit: int) -> list[str]:
    """Like `split`; a text that has no place where nothing is open is cut as it comes.

    Telegram refuses such a part, and it is sent without formatting then.
    """
    if units(text) <= limit:
        return [text] if text.strip() else []
    made, part = list[str](), ""
    for piece in _pieces(text, limit):
        if part and units(part) + units(piece) > limit:
            made.append(part)
            part = ""
        part += piece
    return [part for part in [*made, part] if part.strip()]


def _pieces(text: str, limit: int) -> Iterator[str]:
    """Lines and words outside of every mark; what is longer than a part is cut."""
    opened, piece = list[str](), ""
    for found in _MARKDOWN.findall(text):
        _follow_mark(found, opened)
        if units(piece) + units(found) > limit:
            yield piece
            piece = ""
        piece += found
        if not opened and found in ("\n", " "):
            yield piece
            piece = ""
    if piece:
        yield piece


def _follow_mark(found: str, opened: list[str]) -> None:
    is_code = bool(opened) and opened[-1] in ("```", "`")
    if is_code and found != opened[-1]:
        return
    if found == "[":
        opened.append(found)
    elif found.startswith("](") and "[" in opened:
        opened.remove("[")
    elif found in _MARKS:
        if found in opened:
            opened.remove(found)
        else:
            opened.append(found)
