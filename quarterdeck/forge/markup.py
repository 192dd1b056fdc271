"""Between a tracker's HTML and the plain Markdown that agents and people read here.

What comes in is a stranger's: only words, links to the web and a few marks survive.
"""

import html
import re
from html.parser import HTMLParser

LONGEST = 100_000
"""Characters of a description that are kept."""
DEEPEST = 20
"""How deep lists and quotes are shown."""

_BLOCKS = frozenset({"p", "div", "ul", "ol", "table", "tr", "section", "article", "figure", "hr", "pre"})
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_MARKS = {"strong": "**", "b": "**", "em": "*", "i": "*", "s": "~~", "del": "~~"}
_SILENT = frozenset({"script", "style", "template", "head", "title", "iframe", "object", "svg"})
_QUOTED = frozenset({"blockquote", "pre", "code"})
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def markdown(source: str) -> str:
    """HTML as Markdown, at most `LONGEST` characters. Never fails."""
    return _read(source, _Reader())


def spoken(source: str) -> str:
    """What the writer of a comment says: without tags, quotes of others, and code. Never fails."""
    return _read(source, _Reader(plain=True))


def paragraphs(text: str) -> str:
    """Plain text as HTML; nothing in it becomes a tag."""
    parts = re.split(r"\n\s*\n", _UNSTORABLE.sub("\ufffd", text).strip())
    return "".join(f"<p>{html.escape(part, quote=False).replace(chr(10), '<br>')}</p>" for part in parts)


def storable(text: str) -> str:
    """The same text without what the database cannot keep."""
    return _UNSTORABLE.sub("\ufffd", text)


def _read(source: str, reader: "_Reader") -> str:
    reader.feed(storable(source[: LONGEST * 4]))
    reader.close()
    return reader.text()[:LONGEST]


class _Reader(HTMLParser):
    """Collects text while it goes through the tags; wrongly nested ones do no harm."""

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        self._plain = plain
        self._parts: list[str] = []
        self._silent: list[str] = []
        self._lists: list[int | None] = []
        self._links: list[str] = []
        self._in_code = 0

    def text(self) -> str:
        """What was collected, with at most one empty line in a row."""
        lines = [line.rstrip() for line in "".join(self._parts).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT or (self._plain and tag in _QUOTED):
            self._silent.append(tag)
        elif self._silent:
            return
        elif tag == "br":
            self._parts.append("\n")
        elif tag == "li":
            self._parts.append("\n" + self._bullet())
        elif tag in _BLOCKS or tag in _HEADINGS or tag == "blockquote":
            self._open_block(tag)
        else:
            self._open_inline(tag, {name: value or "" for name, value in attrs})

    def handle_endtag(self, tag: str) -> None:
        if self._silent:
            if tag in self._silent:
                del self._silent[self._silent.index(tag) :]
        elif tag in ("ul", "ol"):
            self._lists = self._lists[:-1]
            self._parts.append("\n")
        elif tag == "pre" and not self._plain:
            self._in_code = 0
            self._parts.append("\n```\n\n")
        elif tag in _BLOCKS or tag in _HEADINGS or tag == "blockquote":
            self._parts.append("\n\n")
        else:
            self._close_inline(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._parts.append(data if self._in_code else re.sub(r"\s+", " ", data))

    def _open_block(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else None)
            self._parts.append("\n")
            return
        self._parts.append("\n\n")
        if tag == "pre":
            self._in_code = 1
            self._parts.append("```\n")
        elif not self._plain:
            self._parts.append(_HEADINGS.get(tag, "> " if tag == "blockquote" else ""))

    def _bullet(self) -> str:
        depth = "  " * min(max(len(self._lists) - 1, 0), DEEPEST)
        if not self._lists or self._lists[-1] is None:
            return f"{depth}- "
        number = self._lists[-1] + 1
        self._lists[-1] = number
        return f"{depth}{number}. "

    def _open_inline(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "a":
            self._links.append(attributes.get("href", ""))
        elif tag == "img":
            self._parts.append(attributes.get("alt", ""))
        elif tag == "code" and not self._in_code:
            self._parts.append("`")
        elif tag in _MARKS and not self._plain:
            self._parts.append(_MARKS[tag])

    def _close_inline(self, tag: str) -> None:
        if tag == "a" and self._links:
            address = self._links.pop()
            if address.startswith(("https://", "http://", "mailto:")) and not self._plain:
                self._parts.append(f" ({address})")
        elif tag == "code" and not self._in_code and not self._plain:
            self._parts.append("`")
        elif tag in _MARKS and not self._plain:
            self._parts.append(_MARKS[tag])
