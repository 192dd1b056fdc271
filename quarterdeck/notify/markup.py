"""Telegram's HTML: escaping what comes from outside, counting and shortening what is sent.

Source of the rules: Bot API, "HTML style"; a text holds 1 to 4096 UTF-16 units after entity parsing.
"""

import html
import re

MAX_UNITS = 4096
MARK = "…"
"""Stands where a text was cut."""

_TOKEN = re.compile(r"<[^>]*>|&(?:#\d+|#x[0-9a-fA-F]+|\w+);|.", re.DOTALL)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def escape(value: object) -> str:
    """Text from outside, safe inside HTML; what no text column or request can hold becomes U+FFFD.

    Nothing beyond a message's length is looked at.
    """
    return html.escape(_UNSTORABLE.sub("\ufffd", str(value)[: MAX_UNITS + 1]), quote=False)


def plain(text: str) -> str:
    """The same text without tags and entities."""
    return html.unescape("".join(token for token in _TOKEN.findall(text) if not _is_tag(token)))


def units(text: str) -> int:
    """The length that Telegram counts."""
    return len(plain(text).encode("utf-16-le", "surrogatepass")) // 2


def shorten(text: str, limit: int = MAX_UNITS) -> str:
    """At most `limit` units, cut with a mark between characters, entities and tags; open tags are closed."""
    if units(text) <= limit:
        return text
    kept, opened, left = [], list[str](), limit - len(MARK)
    for token in _TOKEN.findall(text):
        if _is_tag(token):
            _follow(token, opened)
        elif (left := left - units(token)) < 0:
            break
        kept.append(token)
    return "".join(kept) + MARK + "".join(f"</{name}>" for name in reversed(opened))


def _is_tag(token: str) -> bool:
    return len(token) > 1 and token.startswith("<")


def _follow(tag: str, opened: list[str]) -> None:
    if not tag.startswith("</"):
        opened.append(tag[1:-1].partition(" ")[0])
    elif opened:
        opened.pop()
