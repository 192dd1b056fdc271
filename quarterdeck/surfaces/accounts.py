"""Users and their settings: kept here, for no agent keeps any; they outlive this process."""

from copy import deepcopy
from datetime import datetime
from typing import Any

from quarterdeck.kernel.clock import Clock
from quarterdeck.surfaces.platform import PlatformError, User, UserSettings
from quarterdeck.surfaces.protocol import SettingsAction
from quarterdeck.surfaces.store import StateStore

DEFAULTS: dict[str, Any] = {
    "skills": {"web-search": True, "browser": False},
    "connectors": {},
    "soul": {"name": "", "style": "friendly"},
    "safety": {"email-send": True, "file-delete": True},
    "plan": {"name": "", "tokens_used": 0, "tokens_limit": 0},
}


class Accounts:
    """What the port says of users, for all clients of agents alike."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def get_or_create_user(
        self, external_id: str, platform: str, display_name: str | None = None
    ) -> User:
        """The user, `is_new` the first time; a name that changed is taken over."""
        key = f"platform_user:{platform}:{external_id}"
        kept = await self._store.get(key)
        is_new, name = kept is None, display_name or (kept or {}).get("display_name")
        created = datetime.fromisoformat(kept["created_at"]) if kept else self._clock.now()
        if is_new or name != (kept or {}).get("display_name"):
            await self._store.set(key, {"created_at": created.isoformat(), "display_name": name})
        return User(f"{platform}:{external_id}", external_id, platform, created, name, is_new)

    async def get_settings(self, user_id: str) -> UserSettings:
        """A copy: who changes it changes nothing here."""
        return UserSettings(**await self._kept(user_id))

    async def update_settings(self, user_id: str, action: SettingsAction) -> None:
        """Raises `PlatformError` for what no setting can be."""
        kept, payload = await self._kept(user_id), action.payload
        match action.action:
            case "toggle_skill" if payload.get("skill") in kept["skills"]:
                kept["skills"][payload["skill"]] = bool(payload.get("enabled"))
            case "toggle_safety" if payload.get("name") in kept["safety"]:
                kept["safety"][payload["name"]] = bool(payload.get("enabled"))
            case "set_style" if payload.get("style") in ("friendly", "strict"):
                kept["soul"]["style"] = payload["style"]
            case _:
                raise PlatformError(f"There is no setting for {action.action[:50]}.", "UNKNOWN_SETTING")
        await self._store.set(_key(user_id), kept)

    async def _kept(self, user_id: str) -> dict[str, Any]:
        return deepcopy(DEFAULTS) | (await self._store.get(_key(user_id)) or {})


def _key(user_id: str) -> str:
    return f"platform_settings:{user_id}"
