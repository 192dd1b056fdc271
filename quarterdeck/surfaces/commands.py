"""Commands as a messenger's users type them. No text of the core has a prefix in it: it asks here."""

from collections.abc import Mapping

PREFIXES: Mapping[str, str] = {"matrix": "!", "telegram": "/"}


def prefix(platform: str) -> str:
    """What stands before a command in this messenger."""
    return PREFIXES.get(platform, "/")


def command(platform: str, name: str) -> str:
    """`/new` on Telegram, `!new` on Matrix."""
    return f"{prefix(platform)}{name}"


def parsed(text: str, sign: str) -> tuple[str, list[str]] | None:
    """The name of a command and its words, or None when the text is no command.

    Names have no case. What Telegram writes behind a name in groups (`/new@some_bot`) is cut off.
    """
    if not text.startswith(sign):
        return None
    first, *words = text[len(sign) :].split() or [""]
    name = first.partition("@")[0].lower()
    is_name = name.replace("_", "").replace("-", "").isalnum()
    return (name, words) if is_name and not text[len(sign) :][:1].isspace() else None
