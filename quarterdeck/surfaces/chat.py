"""The chats of users: what each is called, where it is, and whether it is archived."""

from dataclasses import asdict, replace

from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import ChatContext
from quarterdeck.surfaces.store import CHAT, StateStore, next_chat_number


class ChatManager:
    """Chats by local id and user; a local id alone says nothing."""

    def __init__(self, platform: PlatformClient, store: StateStore) -> None:
        self._platform = platform
        self._store = store

    async def get_or_create(
        self, user_id: str, chat_id: str, platform: str, surface_ref: str, name: str | None = None
    ) -> ChatContext:
        """The chat, made when there is none; one that is there stays as it is."""
        if found := await self.get(chat_id, user_id):
            return found
        chat = ChatContext(chat_id, user_id, platform, surface_ref, name or chat_id)
        await self._store.set(_key(user_id, chat_id), _as_dict(chat))
        return chat

    async def next_id(self, user_id: str, platform: str) -> tuple[int, str]:
        """The number and the local id of the user's next chat; nobody gets the same again."""
        number = await next_chat_number(self._store, platform, user_id)
        return number, local_id(number)

    async def get(self, chat_id: str, user_id: str) -> ChatContext | None:
        kept = await self._store.get(_key(user_id, chat_id))
        return ChatContext(**kept) if kept else None

    async def list_active(self, user_id: str) -> list[ChatContext]:
        """The user's chats that are not archived, in the order in which they were made."""
        chats = [ChatContext(**kept) for kept in await self._store.values(_key(user_id, ""))]
        own = [chat for chat in chats if chat.user_id == user_id]  # ids with colons may begin alike
        return sorted((chat for chat in own if not chat.is_archived), key=_age)

    async def rename(self, chat_id: str, user_id: str, name: str) -> ChatContext:
        """Raises `ValueError` when there is no such chat."""
        return await self._change(replace(await self._known(chat_id, user_id), display_name=name))

    async def archive(self, chat_id: str, user_id: str) -> ChatContext:
        """Raises `ValueError` when there is no such chat."""
        return await self._change(replace(await self._known(chat_id, user_id), is_archived=True))

    async def _known(self, chat_id: str, user_id: str) -> ChatContext:
        found = await self.get(chat_id, user_id)
        if found is None:
            raise ValueError(f"There is no chat {chat_id} of this user.")
        return found

    async def _change(self, chat: ChatContext) -> ChatContext:
        await self._store.set(_key(chat.user_id, chat.chat_id), _as_dict(chat))
        return chat


def local_id(number: int) -> str:
    """The local id of a user's chat of this number."""
    return f"C{number}"


def _key(user_id: str, chat_id: str) -> str:
    return f"{CHAT}:{user_id}:{chat_id}"


def _as_dict(chat: ChatContext) -> dict[str, object]:
    return asdict(chat)


def _age(chat: ChatContext) -> tuple[int, str]:
    number = chat.chat_id.removeprefix("C")
    return (int(number) if number.isascii() and number.isdigit() else 0, chat.chat_id)
