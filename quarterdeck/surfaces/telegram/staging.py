"""Files that came without a word wait for the user's next message in the same chat."""

from collections.abc import Sequence
from dataclasses import asdict

from quarterdeck.surfaces.protocol import Attachment
from quarterdeck.surfaces.store import StateStore
from quarterdeck.surfaces.telegram.rooms import STAGED

MOST = 50


class Staging:
    """The waiting files of each user and chat, in their order. They are in the workspace already."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def waiting(self, user_id: str, chat_id: str) -> list[Attachment]:
        kept = await self._store.get(_key(user_id, chat_id))
        return [Attachment(**file) for file in kept["files"]] if kept else []

    async def add(self, user_id: str, chat_id: str, files: Sequence[Attachment]) -> int:
        """Let files wait; how many wait now. The oldest give way to more than `MOST`."""
        waiting = await self.waiting(user_id, chat_id)
        known = {file.workspace_path for file in waiting}
        waiting = [*waiting, *(file for file in files if file.workspace_path not in known)][-MOST:]
        await self._keep(user_id, chat_id, waiting)
        return len(waiting)

    async def drop(self, user_id: str, chat_id: str, files: Sequence[Attachment]) -> None:
        """These wait no longer; others, also those that came meanwhile, do."""
        gone = {file.workspace_path for file in files}
        waiting = await self.waiting(user_id, chat_id)
        await self._keep(user_id, chat_id, [file for file in waiting if file.workspace_path not in gone])

    async def _keep(self, user_id: str, chat_id: str, files: Sequence[Attachment]) -> None:
        if files:
            await self._store.set(_key(user_id, chat_id), {"files": [asdict(file) for file in files]})
        else:
            await self._store.delete(_key(user_id, chat_id))


def _key(user_id: str, chat_id: str) -> str:
    return f"{STAGED}:{user_id}:{chat_id}"
