"""What users have set: their language here, everything else at the platform, read through a cache."""

from dataclasses import asdict

from quarterdeck.surfaces.platform import PlatformClient, UserSettings
from quarterdeck.surfaces.protocol import SettingsAction
from quarterdeck.surfaces.store import LANGUAGE, SETTINGS, StateStore


class SettingsManager:
    """Settings of users."""

    def __init__(self, platform: PlatformClient, store: StateStore) -> None:
        self._platform = platform
        self._store = store

    async def get(self, user_id: str) -> UserSettings:
        """The user's settings, from the cache where it has them."""
        key = f"{SETTINGS}:{user_id}"
        if kept := await self._store.get(key):
            return UserSettings(**kept)
        settings = await self._platform.get_settings(user_id)
        await self._store.set(key, asdict(settings))
        return settings

    async def apply(self, user_id: str, action: SettingsAction) -> None:
        """Change them at the platform; the next reader sees it."""
        await self._platform.update_settings(user_id, action)
        await self._store.delete(f"{SETTINGS}:{user_id}")

    async def language(self, user_id: str) -> str:
        """The language that the user chose; empty if none."""
        kept = await self._store.get(f"{LANGUAGE}:{user_id}")
        return str(kept["language"]) if kept else ""

    async def set_language(self, user_id: str, language: str) -> None:
        await self._store.set(f"{LANGUAGE}:{user_id}", {"language": language})
