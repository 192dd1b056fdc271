"""How things look in the Bot API's answers."""

import json
import time
from collections.abc import Mapping
from typing import Any

DEFAULT_KINDS_LEFT_OUT = {"chat_member", "message_reaction", "message_reaction_count"}
"""Updates that are only given to bots which ask for them by name."""


def me(number: int, *, topics: bool = False) -> dict[str, Any]:
    """What `getMe` tells."""
    return {
        **bot_user(number),
        "can_join_groups": True,
        "can_read_all_group_messages": False,
        "supports_inline_queries": False,
        "can_connect_to_business": False,
        "has_main_web_app": False,
        "has_topics_enabled": topics,
        "allows_users_to_create_topics": topics,
    }


def bot_user(number: int) -> dict[str, Any]:
    return {"id": number, "is_bot": True, "first_name": "Fake", "username": f"fake_{number}_bot"}


def person(number: int, language: str = "ru") -> dict[str, Any]:
    return {
        "id": number,
        "is_bot": False,
        "first_name": f"Person {number}",
        "username": f"person_{number}",
        "language_code": language,
    }


def chat(name: object, *, forum: bool = False) -> dict[str, Any]:
    """A person's chat has their number; groups have negative ones, supergroups beginning with -100."""
    text = str(name)
    number = int(text) if text.lstrip("-").isdigit() else -1001000000000 - sum(text.encode())
    if number > 0:
        who = person(number)
        return {"id": number, "type": "private", "first_name": who["first_name"], "username": who["username"]}
    kind = "supergroup" if str(number).startswith("-100") else "group"
    return {
        "id": number,
        "type": kind,
        "title": f"Group {number}",
        **({"username": text[1:]} if text.startswith("@") else {}),
        **({"is_forum": True} if forum else {}),
    }


def full_chat(name: object, *, forum: bool = False) -> dict[str, Any]:
    """What `getChat` tells."""
    gifts = dict.fromkeys(
        ("unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription", "gifts_from_channels"),
        False,
    )
    return {
        **chat(name, forum=forum),
        "accent_color_id": 1,
        "max_reaction_count": 11,
        "accepted_gift_types": gifts,
    }


def message(
    number: int, where: Mapping[str, Any], sender: Mapping[str, Any], **content: Any
) -> dict[str, Any]:
    given = {key: value for key, value in content.items() if value not in (None, [], {})}
    return {
        "message_id": number,
        "date": int(time.time()),
        "chat": dict(where),
        "from": dict(sender),
        **given,
    }


def migrated(old: Mapping[str, Any], new: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """What is told where a group becomes a supergroup: in the old chat by a person, in the new by itself."""
    group = {"id": 1087968824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"}
    return [
        message(number, old, person(42), migrate_to_chat_id=new["id"]),
        message(1, new, group, sender_chat=dict(new), migrate_from_chat_id=old["id"]),
    ]


def in_thread(thread: int | None) -> dict[str, Any]:
    return {"message_thread_id": thread, "is_topic_message": True} if thread else {}


def media(kind: str, file: Mapping[str, Any], name: str, mime: str) -> Any:
    """The field of a message that holds a file of this kind."""
    if kind == "photo":
        return [{**file, "width": 90, "height": 90}, {**file, "width": 320, "height": 320}]
    named = {"file_name": name} if name and kind != "voice" else {}
    typed = {"mime_type": mime} if mime else {}
    size = {
        "video": {"width": 320, "height": 240, "duration": 1},
        "animation": {"width": 320, "height": 240, "duration": 1},
        "audio": {"duration": 1},
        "voice": {"duration": 1},
    }.get(kind, {})
    return {**file, **size, **named, **typed}


def structured(value: Any) -> Any:
    """Objects come as JSON within a form, or as they are within JSON."""
    return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value


def truth(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def error(status: int, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    return {**told, "parameters": dict(parameters)} if parameters else told
