"""The settings menu, made of buttons that every surface shows in its own way."""

from collections.abc import Iterator

from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.platform import PlatformClient, UserSettings
from quarterdeck.surfaces.protocol import (
    IncomingCallback,
    IncomingCommand,
    OutgoingEvent,
    OutgoingUI,
    SettingsAction,
    UIButton,
)
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.texts import LANGUAGES, NAMES, catalogue, say

PARTS = ("skills", "connectors", "soul", "safety", "plan", "language")
STYLES = ("friendly", "strict")


async def handle_settings(
    event: IncomingCommand,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """The menu's first page."""
    return [_first(event, len(await chat_mgr.list_active(event.user_id)))]


async def handle_part(
    event: IncomingCallback,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """One page of the menu, in place of the one before."""
    part = str(event.payload.get("part", ""))
    if part not in PARTS:
        return [_first(event, len(await chat_mgr.list_active(event.user_id)), replaces=True)]
    return [page(event, part, await settings_mgr.get(event.user_id))]


async def handle_toggle(
    event: IncomingCallback,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """Change a setting, and show its page as it now is."""
    payload = dict(event.payload)
    if "enabled" in payload:
        payload["enabled"] = str(payload["enabled"]).lower() in ("1", "true")
    await settings_mgr.apply(event.user_id, SettingsAction(event.action, payload))
    part = {"toggle_skill": "skills", "toggle_safety": "safety"}.get(event.action, "soul")
    return [page(event, part, await settings_mgr.get(event.user_id))]


async def handle_language(
    event: IncomingCallback,
    *,
    chat_mgr: ChatManager,
    auth_mgr: AuthManager,
    settings_mgr: SettingsManager,
    platform: PlatformClient,
) -> list[OutgoingEvent]:
    """Speak another language, from this answer on."""
    language = str(event.payload.get("language", ""))
    if language not in LANGUAGES:
        return [page(event, "language", UserSettings())]
    await settings_mgr.set_language(event.user_id, language)
    back = [[_to("", say(language, "back"))]]
    return [OutgoingUI(event.chat_id, say(language, "language_set"), back, replaces=True)]


def _first(event: IncomingCommand | IncomingCallback, chats: int, *, replaces: bool = False) -> OutgoingUI:
    text = f"{say(event.language, 'settings')}\n{say(event.language, 'settings_chats', n=chats)}"
    buttons = [[_to(part, say(event.language, f"settings_{part}"))] for part in PARTS]
    return OutgoingUI(event.chat_id, text, buttons, replaces=replaces)


def page(event: IncomingCallback, part: str, settings: UserSettings) -> OutgoingUI:
    """One part of the settings with the buttons that change it."""
    rows = [[button] for button in _buttons(event.language, part, settings)]
    back = [[_to("", say(event.language, "back"))]]
    return OutgoingUI(event.chat_id, _text(event.language, part, settings), rows + back, replaces=True)


def _text(language: str, part: str, settings: UserSettings) -> str:
    if part == "connectors" and settings.connectors:
        lines = (f"{name}: {facts.get('email') or '-'}" for name, facts in settings.connectors.items())
        return "\n".join([say(language, "settings_connectors"), *lines])
    limit = settings.plan.get("tokens_limit") or say(language, "settings_unlimited")
    facts = {
        "soul": {"name": settings.soul.get("name") or "-", "style": _style(language, settings)},
        "plan": {
            "name": settings.plan.get("name") or "-",
            "used": settings.plan.get("tokens_used", 0),
            "limit": limit,
        },
    }
    return say(language, f"settings_{part}_text", **facts.get(part, {}))


def _buttons(language: str, part: str, settings: UserSettings) -> Iterator[UIButton]:
    match part:
        case "skills":
            for name, is_on in settings.skills.items():
                caption = f"{_named(language, 'skill', name)}: {say(language, 'on' if is_on else 'off')}"
                yield UIButton(caption, "toggle_skill", {"skill": name, "enabled": str(int(not is_on))})
        case "safety":
            for name, is_on in settings.safety.items():
                caption = f"{_named(language, 'safety', name)}: {say(language, 'on' if is_on else 'off')}"
                yield UIButton(caption, "toggle_safety", {"name": name, "enabled": str(int(not is_on))})
        case "soul":
            for style in STYLES:
                if style != settings.soul.get("style"):
                    yield UIButton(say(language, f"style_{style}"), "set_style", {"style": style})
        case "language":
            for code in LANGUAGES:
                yield UIButton(NAMES[code], "set_language", {"language": code})


def _style(language: str, settings: UserSettings) -> str:
    return _named(language, "style", settings.soul.get("style") or "friendly")


def _named(language: str, kind: str, name: str) -> str:
    """The name in the user's language, or as the platform calls it."""
    entry = f"{kind}_{name}"
    return say(language, entry) if entry in catalogue("en") else name


def _to(part: str, caption: str) -> UIButton:
    return UIButton(caption, "settings", {"part": part} if part else {})
