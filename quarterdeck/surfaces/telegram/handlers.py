"""What the Telegram surface does in its own way: chats as topics, streamed answers, files that wait."""

from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from quarterdeck.surfaces.answering import unavailable
from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.dispatcher import ANY, EventDispatcher, Handler
from quarterdeck.surfaces.handlers.chat import chat_name, unknown_chat
from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import (
    IncomingCallback,
    IncomingCommand,
    IncomingMessage,
    OutgoingEvent,
    OutgoingMessage,
    OutgoingUI,
    UIButton,
)
from quarterdeck.surfaces.telegram.bots import SendQueue
from quarterdeck.surfaces.telegram.converter import Place
from quarterdeck.surfaces.telegram.rooms import Room, Rooms, place_of
from quarterdeck.surfaces.telegram.speaker import current
from quarterdeck.surfaces.telegram.staging import Staging
from quarterdeck.surfaces.telegram.streaming import Pace, streamed
from quarterdeck.surfaces.texts import say
from quarterdeck.telegram.model import DESK

MOST_BUTTONS = 30
LONGEST_CAPTION = 60
LONGEST_TOPIC = 128


class Desk(Protocol):
    """What the handlers need of the surface itself."""

    async def makes_topics(self, place: Place) -> bool:
        """Can the bot open topics here?"""
        ...

    async def configured(self, user_id: str) -> str:
        """The agent that the roster gives this user."""
        ...

    async def agent_name(self, agent_id: str) -> str: ...

    async def stop(self, room: Room) -> bool:
        """End the answer that is being given in this chat; False when there is none."""
        ...

    async def stopped(self, room: Room, event: IncomingMessage, said: str) -> None:
        """The answer to this was stopped after so much of it; the agent is to know later."""
        ...

    async def forget(self, room: Room) -> None:
        """Give up what is under way in this chat, and let its agent forget its conversation."""
        ...


class TelegramHandlers:
    """Registered after the core's, in place of some of them."""

    def __init__(self, rooms: Rooms, staging: Staging, queue: SendQueue, desk: Desk, pace: Pace) -> None:
        self._rooms = rooms
        self._staging = staging
        self._queue = queue
        self._desk = desk
        self._pace = pace

    def register(self, dispatcher: EventDispatcher) -> None:
        """`register_telegram_handlers` of the specification."""
        commands: dict[str, Handler] = {
            "start": self.start,
            "help": self.help,
            "new": self.new,
            "chat": self.new,
            "chats": self.chats,
            "rename": self.rename,
            "archive": self.archive,
            "stop": self.stop,
            "clear": self.clear,
            "reset": self.clear,
            "list": self.waiting,
            "remove": self.take_back,
        }
        for name, handler in commands.items():
            dispatcher.register(IncomingCommand, name, handler)
        dispatcher.register(IncomingCallback, "stop", self.press_stop)
        dispatcher.register(IncomingCallback, "switch", self.switch)
        dispatcher.register(IncomingCallback, "new_chat", self.new_chat)
        dispatcher.register(IncomingMessage, ANY, self.message)

    async def message(
        self, event: IncomingMessage, *, platform: PlatformClient, **_: Any
    ) -> list[OutgoingEvent]:
        """One turn of the agent, shown while it is said."""
        speaker = current.get()
        if not speaker.room.agent_id:
            return [OutgoingMessage(event.chat_id, say(event.language, "no_agent"))]
        text = event.text or say("en", "file_only")
        chunks: Any = platform.stream_message(event.user_id, event.chat_id, text, event.attachments)
        async with aclosing(chunks) as coming:
            answer = await streamed(coming, speaker, self._queue, self._pace)
        told: list[OutgoingEvent] = []
        if answer.attachments:
            told.append(OutgoingMessage(event.chat_id, "", answer.attachments))
        if answer.failed:
            return [*told, unavailable(event, answer.failed)]
        speaker.is_accepted = True
        if answer.stopped:
            await self._desk.stopped(speaker.room, replace(event, text=text), answer.text)
            return [*told, OutgoingMessage(event.chat_id, say(event.language, "stopped"))]
        if not answer.text.strip() and not answer.attachments:
            told.append(OutgoingMessage(event.chat_id, say(event.language, "empty_answer")))
        return told

    async def start(
        self, event: IncomingCommand, *, auth_mgr: AuthManager, platform: PlatformClient, **_: Any
    ) -> list[OutgoingEvent]:
        """Greet: in full whoever comes for the first time."""
        speaker = current.get()
        user = await platform.get_or_create_user(event.user_id, event.platform, speaker.native.name or None)
        await auth_mgr.confirm(event.user_id, event.platform, user.user_id)
        entry = "welcome" if user.is_new or speaker.room.is_new else "welcome_back"
        agent = await self._desk.agent_name(speaker.room.agent_id)
        name = speaker.native.name or event.user_id
        text = say(event.language, entry, new=_new(), name=name, agent=agent)
        return [OutgoingMessage(event.chat_id, text)]

    async def help(self, event: IncomingCommand, **_: Any) -> list[OutgoingEvent]:
        """All commands; the desk's own bot has more."""
        texts = [say(event.language, "help", new=_new())]
        if current.get().place.agent_id == DESK:
            texts.append(say(event.language, "help_desk"))
        return [OutgoingMessage(event.chat_id, "\n\n".join(texts))]

    async def new(self, event: IncomingCommand, **_: Any) -> list[OutgoingEvent]:
        """Another chat: a topic of its own where the bot can open one, else here."""
        return await self._new(event, chat_name(event.args))

    async def new_chat(self, event: IncomingCallback, **_: Any) -> list[OutgoingEvent]:
        """The same by button; not inside a topic, which is always one chat."""
        if current.get().place.thread:
            return [OutgoingMessage(event.chat_id, say(event.language, "inside_topic"))]
        return await self._new(event, "")

    async def _new(self, event: IncomingCommand | IncomingCallback, name: str) -> list[OutgoingEvent]:
        speaker = current.get()
        configured = await self._desk.configured(event.user_id)
        if not await self._desk.makes_topics(speaker.place):
            if speaker.place.thread:
                return [OutgoingMessage(event.chat_id, say(event.language, "inside_topic"))]
            room = await self._rooms.make(speaker.place, event.language, configured, name)
            return [_ready(event, room, "new_chat_here")]
        shown = name or say(event.language, "chat_name", n=await self._rooms.next_number(speaker.place))
        opened = await speaker.attempt_in_chat("createForumTopic", name=shown[:LONGEST_TOPIC])
        thread = opened.get("message_thread_id") if isinstance(opened, dict) else None
        if not isinstance(thread, int):
            why = say(event.language, "why_telegram")
            return [OutgoingMessage(event.chat_id, say(event.language, "new_chat_failed", why=why))]
        place = Place(speaker.place.agent_id, speaker.place.chat, thread, speaker.place.user)
        room = await self._rooms.make(place, event.language, configured, shown)
        speaker.say_at(place, _ready(event, room, "new_chat_here").text)
        return [_ready(event, room, "new_chat")]

    async def chats(self, event: IncomingCommand, *, chat_mgr: ChatManager, **_: Any) -> list[OutgoingEvent]:
        """The chats of this bot; outside of topics with buttons that switch to those that are here."""
        speaker = current.get()
        found = [(chat, place_of(chat)) for chat in await chat_mgr.list_active(event.user_id)]
        chats = [(chat, place) for chat, place in found if place and place.agent_id == speaker.place.agent_id]
        lines = [say(event.language, "chats")]
        lines += [
            say(event.language, "chats_line", name=chat.display_name, chat=chat.chat_id) for chat, _ in chats
        ]
        if not chats:
            lines = [say(event.language, "no_chats", new=_new())]
        rows = [
            [UIButton(chat.display_name[:LONGEST_CAPTION], "switch", {"chat": chat.chat_id})]
            for chat, place in chats
            if place == speaker.place and chat.chat_id != event.chat_id
        ]
        if speaker.place.thread:
            return [OutgoingMessage(event.chat_id, "\n".join(lines))]
        more = [[UIButton(say(event.language, "new_button"), "new_chat")]]
        return [OutgoingUI(event.chat_id, "\n".join(lines), rows[-MOST_BUTTONS:] + more)]

    async def switch(self, event: IncomingCallback, **_: Any) -> list[OutgoingEvent]:
        """Go on in another chat of this place."""
        speaker = current.get()
        if speaker.place.thread:
            return [OutgoingMessage(event.chat_id, say(event.language, "inside_topic"))]
        chat = await self._rooms.switch(speaker.place, str(event.payload.get("chat", "")))
        if chat is None:
            return [OutgoingMessage(event.chat_id, say(event.language, "chat_unknown", new=_new()))]
        text = say(event.language, "switched", name=chat.display_name, chat=chat.chat_id)
        return [OutgoingMessage(event.chat_id, text, replaces=True)]

    async def rename(self, event: IncomingCommand, *, chat_mgr: ChatManager, **_: Any) -> list[OutgoingEvent]:
        """Rename the chat, and the topic that it is."""
        name, speaker = chat_name(event.args), current.get()
        if not name:
            return [OutgoingMessage(event.chat_id, say(event.language, "rename_usage"))]
        try:
            chat = await chat_mgr.rename(event.chat_id, event.user_id, name)
        except ValueError:
            return [unknown_chat(event, _new())]
        if speaker.place.thread:
            await speaker.attempt("editForumTopic", name=name[:LONGEST_TOPIC])
        return [OutgoingMessage(event.chat_id, say(event.language, "renamed", name=chat.display_name))]

    async def archive(
        self, event: IncomingCommand, *, chat_mgr: ChatManager, **_: Any
    ) -> list[OutgoingEvent]:
        """Put the chat away; what is written here next begins another one. A topic stays open."""
        try:
            chat = await chat_mgr.archive(event.chat_id, event.user_id)
        except ValueError:
            return [unknown_chat(event, _new())]
        return [OutgoingMessage(event.chat_id, say(event.language, "archived", name=chat.display_name))]

    async def stop(self, event: IncomingCommand, **_: Any) -> list[OutgoingEvent]:
        """Enough: what was said so far stays, and the agent is asked no further."""
        if await self._desk.stop(current.get().room):
            return []
        return [OutgoingMessage(event.chat_id, say(event.language, "nothing_to_stop"))]

    async def press_stop(self, event: IncomingCallback, **_: Any) -> list[OutgoingEvent]:
        """The same by button; whoever presses it below another's answer changes nothing."""
        await self._desk.stop(current.get().room)
        return []

    async def clear(self, event: IncomingCommand, **_: Any) -> list[OutgoingEvent]:
        """A fresh conversation in this chat."""
        room = current.get().room
        if not room.facts.get("platform_chat_id"):
            return [OutgoingMessage(event.chat_id, say(event.language, "clear_failed"))]
        await self._rooms.clear(room)
        await self._desk.forget(room)
        return [OutgoingMessage(event.chat_id, say(event.language, "cleared"))]

    async def waiting(self, event: IncomingCommand, **_: Any) -> list[OutgoingEvent]:
        """Files that wait."""
        waiting = await self._staging.waiting(event.user_id, event.chat_id)
        if not waiting:
            return [OutgoingMessage(event.chat_id, say(event.language, "list_empty"))]
        lines = [f"{number}. {file.filename}" for number, file in enumerate(waiting, start=1)]
        return [OutgoingMessage(event.chat_id, "\n".join([say(event.language, "list"), *lines]))]

    async def take_back(self, event: IncomingCommand, **_: Any) -> list[OutgoingEvent]:
        """Take one file back, or all."""
        waiting = await self._staging.waiting(event.user_id, event.chat_id)
        wanted = event.args[0].lower() if event.args else ""
        if not waiting:
            return [OutgoingMessage(event.chat_id, say(event.language, "list_empty"))]
        if wanted == "all":
            await self._staging.drop(event.user_id, event.chat_id, waiting)
            return [OutgoingMessage(event.chat_id, say(event.language, "removed_all"))]
        if not (wanted.isascii() and wanted.isdigit()):
            return [OutgoingMessage(event.chat_id, say(event.language, "remove_usage"))]
        if not 1 <= int(wanted[:9]) <= len(waiting):
            text = say(event.language, "remove_range", n=wanted[:9], count=len(waiting))
            return [OutgoingMessage(event.chat_id, text)]
        file = waiting[int(wanted) - 1]
        await self._staging.drop(event.user_id, event.chat_id, [file])
        return [OutgoingMessage(event.chat_id, say(event.language, "removed", name=file.filename))]


def _new() -> str:
    """The command that begins a chat here: at the desk's own bot the other one files an item."""
    return "chat" if current.get().place.agent_id == DESK else "new"


def _ready(event: IncomingCommand | IncomingCallback, room: Room, entry: str) -> OutgoingMessage:
    text = say(event.language, entry, name=room.chat.display_name, chat=room.chat.chat_id)
    return OutgoingMessage(event.chat_id, text)
