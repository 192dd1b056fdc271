"""What models write, as Telegram's HTML: everything is escaped, and only Telegram's own tags come out.

Markdown is read by markdown-it (CommonMark with tables and strikethrough); raw HTML in it stays text.
Headings become bold, lists keep their marks, tables become preformatted text. Source of the rules: Bot API,
"HTML style": `code` and `pre` hold no other tag, block quotes do not nest.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape as escaped
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
_SCHEMES = ("http", "https", "tg", "mailto")
_INLINE = {"strong": "b", "em": "i", "s": "s"}
MOST_NESTED = 20


@cache
def _reader() -> MarkdownIt:
    options = {"html": False, "linkify": False, "typographer": False, "maxNesting": MOST_NESTED}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"])


def escape(text: str) -> str:
    """Plain text inside HTML; what no request can hold becomes U+FFFD."""
    return escaped(_UNSENDABLE.sub("\ufffd", text), quote=False)


def to_html(markdown: str) -> str:
    """The text as HTML that Telegram can parse, whatever was written."""
    tree = SyntaxTreeNode(_reader().parse(_UNSENDABLE.sub("\ufffd", markdown)))
    made = _blocks(tree.children, "\n\n")
    return made if made.strip() else escape(markdown)


def _blocks(nodes: Iterable[SyntaxTreeNode], between: str, *, depth: int = 0, is_quoted: bool = False) -> str:
    made = (_block(node, depth, is_quoted=is_quoted) for node in nodes)
    return between.join(block for block in made if block.strip())


def _block(node: SyntaxTreeNode, depth: int, *, is_quoted: bool) -> str:
    match node.type:
        case "paragraph" | "heading":
            text = _text(node, is_bold=node.type == "heading")
            return f"<b>{text}</b>" if node.type == "heading" and text.strip() else text
        case "fence" | "code_block":
            return _code(node.content, node.info)
        case "hr":
            return "———"
        case "table":
            return f"<pre>{escape(_table(node))}</pre>"
        case "blockquote":
            inside = _blocks(node.children, "\n\n", depth=depth, is_quoted=True)
            return inside if is_quoted or not inside else f"<blockquote>{inside}</blockquote>"
        case "bullet_list" | "ordered_list":
            return "\n".join(_items(node, depth, is_quoted=is_quoted))
        case _:
            return _blocks(node.children, "\n", depth=depth, is_quoted=is_quoted)


def _items(node: SyntaxTreeNode, depth: int, *, is_quoted: bool) -> Iterator[str]:
    first = int(node.attrs.get("start", 1))
    for number, item in enumerate(node.children, start=first):
        mark = "•" if node.type == "bullet_list" else f"{number}."
        inside = _blocks(item.children, "\n", depth=depth + 1, is_quoted=is_quoted)
        yield f"{'  ' * depth}{mark} {inside}"


def _text(node: SyntaxTreeNode, *, is_bold: bool) -> str:
    """The inline part of a block; bold inside of bold is left out."""
    tokens = [token for child in node.children for token in child.to_tokens()[0].children or []]
    return "".join(_inline([t for t in tokens if not (is_bold and t.type.startswith("strong_"))]))


def _inline(tokens: Sequence[Token]) -> Iterator[str]:
    links: list[bool] = []
    for token in tokens:
        match token.type:
            case "text" | "html_inline":
                yield escape(token.content)
            case "softbreak" | "hardbreak":
                yield "\n"
            case "code_inline":
                yield f"<code>{escape(token.content)}</code>"
            case "image":
                yield escape(token.content or str(token.attrGet("src") or ""))
            case "link_open":
                address = str(token.attrGet("href") or "")
                links.append(is_link := _is_safe(address))
                yield f'<a href="{escaped(address)}">' if is_link else ""
            case "link_close":
                yield "</a>" if links.pop() else ""
            case _:
                name = _INLINE.get(token.type.rpartition("_")[0])
                yield f"<{'/' if token.nesting < 0 else ''}{name}>" if name else ""


def _code(content: str, info: str) -> str:
    language = re.sub(r"[^\w+#-]", "", info.split()[0]) if info.strip() else ""
    inside = escape(content.rstrip("\n"))
    if not inside.strip():
        return ""
    if not language:
        return f"<pre>{inside}</pre>"
    return f'<pre><code class="language-{language}">{inside}</code></pre>'


def _is_safe(address: str) -> bool:
    try:
        return urlsplit(address).scheme.lower() in _SCHEMES
    except ValueError:
        return False


def _table(node: SyntaxTreeNode) -> str:
    """Columns of equal width; characters stand for their width."""
    rows = [[_plain(cell) for cell in row.children] for part in node.children for row in part.children]
    columns = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    return "\n".join(
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def _plain(cell: SyntaxTreeNode) -> str:
    tokens = [token for child in cell.children for token in child.to_tokens()[0].children or []]
    return "".join(token.content for token in tokens if token.type in ("text", "code_inline", "image"))
