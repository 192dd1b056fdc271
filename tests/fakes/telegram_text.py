"""What a text may be: the parse modes HTML and MarkdownV2, entities, and lengths in UTF-16 units.

The rules and the words of the refusals are those of the Bot API server, byte offsets included.
"""

import re
from dataclasses import dataclass, field
from typing import Any

LONGEST_TEXT, LONGEST_CAPTION = 4096, 1024

PLAIN_TAGS = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("u", "ins"), "underline"),
    **dict.fromkeys(("s", "strike", "del"), "strikethrough"),
    "tg-spoiler": "spoiler",
    "code": "code",
    "pre": "pre",
}
TAGS = {*PLAIN_TAGS, "span", "a", "blockquote", "tg-emoji", "tg-time"}
NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
_SPACE = " \t\r\n\0\v"
_ENTITY = re.compile(r"&(?:#(\d+)|#[xX]([0-9a-fA-F]+)|([a-zA-Z]+));?")
_MARKS = {
    "*": ("bold", "Bold"),
    "_": ("italic", "Italic"),
    "__": ("underline", "Underline"),
    "~": ("strikethrough", "Strikethrough"),
    "||": ("spoiler", "Spoiler"),
    "`": ("code", "Code"),
    "```": ("pre", "Pre"),
    "[": ("text_link", "TextUrl"),
}
_RESERVED = "_*[]()~`>#+-=|{}.!"


class Unparsable(Exception):
    """Why the markup of a text cannot be read."""


@dataclass(frozen=True)
class Text:
    """A text as people see it, and its entities as the Bot API gives them."""

    shown: str
    entities: list[dict[str, Any]] = field(default_factory=list)


def units(text: str) -> int:
    """The length that Telegram counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def read(text: str, mode: str) -> Text:
    """The text without its markup. Raises `Unparsable`."""
    if mode.lower() == "html":
        return _Html(text).read()
    if mode.lower() == "markdownv2":
        return _Markdown(text).read()
    if mode:
        raise Unparsable("unsupported parse_mode")
    return Text(text)


@dataclass
class _Open:
    """An entity that has begun: its name in the source, the place of its beginning there and in the text."""

    name: str
    at_byte: int
    offset: int
    extra: dict[str, Any] = field(default_factory=dict)


class _Reader:
    """What both modes share: the source, the place in it, and what was read."""

    def __init__(self, source: str) -> None:
        self.source, self.place = source, 0
        self.out: list[str] = []
        self.length = 0
        self.opened: list[_Open] = []
        self.entities: list[dict[str, Any]] = []

    def char(self, ahead: int = 0) -> str:
        """The character there; a zero byte past the end."""
        place = self.place + ahead
        return self.source[place] if place < len(self.source) else "\0"

    def put(self, text: str) -> None:
        self.out.append(text)
        self.length += units(text)

    def byte(self, place: int) -> int:
        return len(self.source[:place].encode("utf-8", "surrogatepass"))

    def close(self, opened: _Open, kind: str) -> None:
        if self.length > opened.offset and not self._inside_code():
            span = {"offset": opened.offset, "length": self.length - opened.offset}
            self.entities.append({"type": kind, **span, **opened.extra})

    def _inside_code(self) -> bool:
        return any(outer.name in ("code", "pre", "`", "```") for outer in self.opened)

    def text(self) -> Text:
        return Text("".join(self.out), sorted(self.entities, key=lambda one: (one["offset"], -one["length"])))


class _Html(_Reader):
    def read(self) -> Text:
        while self.place < len(self.source):
            if self.char() == "&" and (match := _ENTITY.match(self.source, self.place)):
                self._entity(match)
            elif self.char() != "<":
                self.put(self.char())
                self.place += 1
            elif self.char(1) == "/":
                self._end_tag()
            else:
                self._start_tag()
        if self.opened:
            raise Unparsable(f'Can\'t find end tag corresponding to start tag "{self.opened[-1].name}"')
        return self.text()

    def _entity(self, match: re.Match[str]) -> None:
        self.put(_decoded(match) or "&")
        self.place = match.end() if _decoded(match) else self.place + 1

    def _start_tag(self) -> None:
        begin, self.place = self.place, self.place + 1
        name = self._until(_SPACE + ">").lower()
        if self.place >= len(self.source):
            raise self._unclosed(begin)
        if name not in TAGS:
            raise Unparsable(f'Unsupported start tag "{name}" at byte offset {self.byte(begin)}')
        attributes = self._attributes(name, begin)
        self.place += 1
        if name == "span" and attributes.get("class") != "tg-spoiler":
            where = self.byte(begin)
            raise Unparsable(f'Tag "span" must have class "tg-spoiler" at byte offset {where}')
        self.opened.append(_Open(name, begin, self.length, attributes))

    def _attributes(self, tag: str, begin: int) -> dict[str, str]:
        found: dict[str, str] = {}
        while True:
            self._skip_space()
            if self.char() == ">":
                return found
            name = self._until(_SPACE + "=>")
            if not name and self.place < len(self.source):
                where = self.byte(begin)
                raise Unparsable(f'Empty attribute name in the tag "{tag}" at byte offset {where}')
            self._skip_space()
            found[name.lower()] = self._value() if self.char() == "=" else ""
            if self.place >= len(self.source):
                raise self._unclosed(begin)

    def _value(self) -> str:
        self.place += 1
        self._skip_space()
        begin, quote = self.place, self.char()
        if quote in "'\"":
            self.place += 1
            value = self._until(quote)
            self.place += 1
            return _ENTITY.sub(lambda match: _decoded(match) or match[0], value)
        value = re.compile(r"[\w.-]*", re.ASCII).match(self.source, begin)[0]  # type: ignore[index]
        self.place += len(value)
        if self.char() not in _SPACE + ">":
            raise Unparsable(f"Unexpected end of name token at byte offset {self.byte(begin)}")
        return value.lower()

    def _end_tag(self) -> None:
        begin, self.place = self.place, self.place + 2
        if not self.opened:
            raise Unparsable(f"Unexpected end tag at byte offset {self.byte(begin)}")
        name = self._until(_SPACE + ">")
        self._skip_space()
        if self.char() != ">":
            raise Unparsable(f"Unclosed end tag at byte offset {self.byte(begin)}")
        self.place += 1
        opened = self.opened[-1]
        if name and name != opened.name:
            where = f"at byte offset {self.byte(begin)}"
            raise Unparsable(f'Unmatched end tag {where}, expected "</{opened.name}>", found "</{name}>"')
        self.opened.pop()
        self._closed(opened)

    def _closed(self, opened: _Open) -> None:
        attributes, opened.extra = opened.extra, {}
        name = opened.name
        if name in PLAIN_TAGS:
            language = attributes.get("class", "").removeprefix("language-")
            outer = self.opened[-1] if self.opened else None
            if name == "code" and outer is not None and outer.name == "pre":
                outer.extra["class"] = f"language-{language}"
            elif name == "pre" and language:
                opened.extra = {"language": language}
            self.close(opened, PLAIN_TAGS[name])
        elif name == "a":
            address = attributes.get("href") or "".join(self.out)[opened.offset :]
            if re.match(r"(https?|tg|mailto|tel)[:]|[\w-]+\.\w", address):
                opened.extra = {"url": address}
                self.close(opened, "text_link")
        elif name == "span":
            self.close(opened, "spoiler")
        elif name == "blockquote":
            self.close(opened, "expandable_blockquote" if "expandable" in attributes else "blockquote")
        elif name == "tg-emoji" and attributes.get("emoji-id"):
            opened.extra = {"custom_emoji_id": attributes["emoji-id"]}
            self.close(opened, "custom_emoji")

    def _until(self, ends: str) -> str:
        begin = self.place
        while self.place < len(self.source) and self.source[self.place] not in ends:
            self.place += 1
        return self.source[begin : self.place]

    def _skip_space(self) -> None:
        while self.place < len(self.source) and self.source[self.place] in _SPACE:
            self.place += 1

    def _unclosed(self, begin: int) -> Unparsable:
        return Unparsable(f"Unclosed start tag at byte offset {self.byte(begin)}")


def _decoded(match: re.Match[str]) -> str:
    """The character of an entity; nothing for one that is not known."""
    decimal, hexadecimal, name = match.groups()
    if name:
        return NAMED.get(name, "")
    number = int(decimal) if decimal else int(hexadecimal, 16)
    return chr(number) if 0 < number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else ""


class _Markdown(_Reader):
    def read(self) -> Text:
        while self.place < len(self.source):
            char = self.char()
            if char == "\\" and 0 < ord(self.char(1)) <= 126:
                self.put(self.char(1))
                self.place += 2
            elif char not in self._reserved():
                self.put(char)
                self.place += 1
            elif self.opened and self._ends(self.opened[-1].name):
                self._end()
            else:
                self._begin()
        self._end_quote()
        if self.opened:
            left = self.opened[-1]
            kind = _MARKS[left.name][1]
            raise Unparsable(f"Can't find end of {kind} entity at byte offset {self.byte(left.at_byte)}")
        return self.text()

    def _reserved(self) -> str:
        if self.opened and self.opened[-1].name in ("`", "```"):
            return "`"
        return _RESERVED + "\n" if self.opened and self.opened[0].name == ">" else _RESERVED

    def _ends(self, mark: str) -> bool:
        if mark == ">":
            return self.char() == "\n" and self.char(1) != ">"
        if mark == "_":
            return self.char() == "_" and self.char(1) != "_"
        end = "]" if mark == "[" else mark
        return self.source.startswith(end, self.place)

    def _begin(self) -> None:
        begin, char = self.place, self.char()
        at_line = self.place == 0 or self.source[self.place - 1] == "\n"
        if char == "\n":
            self.put("\n")
            self.place += 2  # the next line's mark of the same quotation
            return
        if char == ">" and at_line and not self.opened:
            self.opened.append(_Open(">", begin, self.length))
            self.place += 1
            return
        mark = next((mark for mark in ("```", "__", "||") if self.source.startswith(mark, begin)), char)
        if mark not in _MARKS:
            raise Unparsable(f"Character '{char}' is reserved and must be escaped with the preceding '\\'")
        self.place += len(mark)
        opened = _Open(mark, begin, self.length)
        if mark == "```" and (match := re.compile(r"(\S+)\n").match(self.source, self.place)):
            opened.extra, self.place = {"language": match[1]}, match.end()
        self.opened.append(opened)

    def _end(self) -> None:
        opened = self.opened.pop()
        if opened.name == ">":
            return self._quoted(opened)
        self.place += len(opened.name)
        if opened.name == "[":
            opened.extra = {"url": self._address(opened)}
        return self.close(opened, _MARKS[opened.name][0])

    def _address(self, opened: _Open) -> str:
        if self.char() != "(":
            return "".join(self.out)[opened.offset :]
        end = self.source.find(")", self.place)
        if end < 0:
            raise Unparsable(f"Can't find end of a URL at byte offset {self.byte(self.place)}")
        address, self.place = self.source[self.place + 1 : end], end + 1
        return address

    def _end_quote(self) -> None:
        if self.opened and self.opened[-1].name == ">":
            self._quoted(self.opened.pop())

    def _quoted(self, opened: _Open) -> None:
        self.close(opened, "blockquote")
