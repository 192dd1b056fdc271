"""The surface itself: an update becomes a turn, a turn an event of the core, and its answer is queued.

Buttons and commands are answered at once, in the order in which they come; what people say to agents is
answered outside of the delivery, one turn at a time in each place.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from quarterdeck.crew.model import Person
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import NotFound, QuarterdeckError, Unavailable
from quarterdeck.surfaces.answering import answered
from quarterdeck.surfaces.assignment import owes_notice
from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.conversations import Conversations
from quarterdeck.surfaces.dispatcher import EventDispatcher
from quarterdeck.surfaces.handlers import register_all
from quarterdeck.surfaces.platform import PlatformError
from quarterdeck.surfaces.protocol import Attachment, IncomingEvent, IncomingMessage
from quarterdeck.surfaces.routed import Delegates, Route, RoutedPlatformClient
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.store import StateStore
from quarterdeck.surfaces.telegram import files
from quarterdeck.surfaces.telegram.bots import BotDoor, SendQueue
from quarterdeck.surfaces.telegram.converter import PLATFORM, Native, Place, is_for, read, to_event
from quarterdeck.surfaces.telegram.handlers import TelegramHandlers
from quarterdeck.surfaces.telegram.lines import Lines, Sleep
from quarterdeck.surfaces.telegram.markdown import escape
from quarterdeck.surfaces.telegram.menu import Menu
from quarterdeck.surfaces.telegram.rooms import PENDING, Room, Rooms
from quarterdeck.surfaces.telegram.speaker import Speaker, current
from quarterdeck.surfaces.telegram.staging import Staging
from quarterdeck.surfaces.telegram.strangers import Strangers
from quarterdeck.surfaces.telegram.streaming import Pace
from quarterdeck.surfaces.telegram.turns import Turns
from quarterdeck.surfaces.texts import closest, say
from quarterdeck.telegram.model import DESK
from quarterdeck.telegram.wire import Receipt, Send, SendState, Update

log = structlog.get_logger(__name__)

IDENTITY_SECONDS = 600.0
"""How long it is believed what a bot said of itself."""

SENT_KEPT = 2 * 24 * 3600
"""Seconds for which copies of files that were sent are kept."""

UPLOAD_SECONDS = 120.0
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
"""Seconds between two tries while the database is away."""

FILE = "telegram_file"
"""Prefix of our keys: a file that was taken in for a turn that is not done yet."""


@dataclass(frozen=True)
class Ways:
    """How this surface behaves. Sizes are in bytes; `folder` is for files on their way."""

    folder: Path
    language: str = "ru"
    guests: Literal["refuse", "talk"] = "refuse"
    largest_download: int = 20_000_000
    largest_upload: int = 50_000_000
    pace: Pace = field(default_factory=Pace)
    sleep: Sleep = asyncio.sleep
    monotonic: Callable[[], float] = time.monotonic


class People(Protocol):
    """Where people are known (`Crew`)."""

    async def person_by_handle(self, door: str, handle: str) -> Person | None: ...


class Agents(Delegates, Protocol):
    """Agents, their names (the default one first) and their workspaces."""

    async def names(self) -> Mapping[str, str]: ...

    async def workspace(self, agent_id: str) -> Path: ...


@dataclass(frozen=True)
class _Identity:
    username: str
    has_topics: bool
    seen_at: float


class TelegramSurface:
    """One consumer of all bots. More handlers are registered on `dispatcher`, for the bots of agents, and on
    `desk`, for the desk's own; they see who asks by `user_id`.
    """

    def __init__(
        self,
        database: Database,
        store: StateStore,
        people: People,
        agents: Agents,
        bots: BotDoor,
        queue: SendQueue,
        ways: Ways,
    ) -> None:
        self._database = database
        self._store = store
        self._people = people
        self._agents = agents
        self._bots = bots
        self._queue = queue
        self._ways = ways
        talks = Conversations(store, database.clock)
        self._platform = RoutedPlatformClient(PLATFORM, store, agents, talks)
        self._chats = ChatManager(self._platform, store)
        self._platform.chats = self._chats
        self._auth = AuthManager(self._platform, store)
        self._settings = SettingsManager(self._platform, store)
        self._rooms = Rooms(store, self._chats, agents)
        self._staging = Staging(store)
        self._turns = Turns(database, PLATFORM)
        self._menu = Menu(store, bots, ways.language)
        self._lines = Lines(self._answer_at_last, sleep=ways.sleep)
        self._strangers = Strangers(ways.monotonic)
        self._identities: dict[str, _Identity] = {}
        self._talking: dict[str, Speaker] = {}
        self._stopped: set[str] = set()
        self._watches: set[asyncio.Task[None]] = set()
        handlers = TelegramHandlers(self._rooms, self._staging, queue, self, ways.pace)
        self.dispatcher, self.desk = self._dispatcher(handlers), self._dispatcher(handlers)

    def _dispatcher(self, handlers: TelegramHandlers) -> EventDispatcher:
        made = EventDispatcher(
            chat_mgr=self._chats, auth_mgr=self._auth, settings_mgr=self._settings, platform=self._platform
        )
        register_all(made)
        handlers.register(made)
        return made

    # In

    async def consume(self, update: Update) -> None:
        """Take an update in; it is told again until this returns. See `wire.Consumer`."""
        native = read(update)
        if native is None or not await self._is_for_us(native) or await self._is_a_flood(native):
            return
        if not await self._turns.take(update.event_id, _document(update)):
            return
        await self._begin(native)

    async def begins(self, agent_id: str, bot_id: str) -> None:
        """A bot begins to be served here: answer what whoever had it left, and tell what it understands."""
        await self.resume(agent_id)
        await self._menu.tell(agent_id, bot_id)

    async def resume(self, agent_id: str) -> int:
        """Take up what people said to a bot and nobody answered; how much.

        The others' bots are theirs. What is answered at once is told again until it is answered.
        """
        left = [read(_update(document)) for document in await self._turns.open(agent_id)]
        said = [native for native in left if native is not None and not native.is_answered_at_once]
        for native in said:
            self._lines.add(native)
        return len(said)

    async def forget_old(self) -> None:
        """Drop turns that were done, and copies of files that were sent, days ago."""
        await self._turns.forget_old()
        await asyncio.to_thread(_forget_files, self._ways.folder)

    async def idle(self) -> None:
        """Wait until everything that was taken in is answered."""
        await self._lines.idle()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def close(self) -> None:
        """Give up what is under way; it is taken up after the next start."""
        await self._lines.close()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._platform.close()

    async def _begin(self, native: Native) -> None:
        if native.is_answered_at_once:
            await self._answer([native])
        else:
            self._lines.add(native)

    async def _is_for_us(self, native: Native) -> bool:
        """Raises `Unavailable` while only the bot's name could tell, and Telegram does not say it."""
        if native.place.is_private:
            return True
        name = (await self._identity(native.place.agent_id)).username
        if not (is_addressed := is_for(native, name)) and not name and "@" in native.text:
            raise Unavailable("Telegram does not say what the bot is called.", code="bot_unnamed")
        return is_addressed

    async def _is_a_flood(self, native: Native) -> bool:
        """Whether a stranger goes on after the answer: nothing is stored of that."""
        if native.is_callback or self._strangers.is_owed_an_answer(native):
            return False
        return await self._is_refused(native)

    async def _is_refused(self, native: Native) -> bool:
        if self._ways.guests == "talk":
            return False
        return await self._people.person_by_handle(PLATFORM, str(native.place.user)) is None

    # One turn

    async def _answer_at_last(self, batch: Sequence[Native]) -> None:
        """Answer a turn if nobody did meanwhile; while the database is away, again and again."""
        pause = FIRST_PAUSE
        while True:
            try:
                if await self._turns.are_open([native.event_id for native in batch]):
                    await self._answer(batch)
                return
            except Unavailable as error:
                log.warning("turn_waits", event_id=batch[0].event_id, reason=error.detail)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_PAUSE)

    async def _answer(self, batch: Sequence[Native]) -> None:
        """Answer a turn for good. Raises `Unavailable`: then it is still open."""
        speaker = Speaker(batch[0], await self._language(batch[0]), self._bots)
        try:
            await self._work(batch, speaker)
        except asyncio.CancelledError:
            if speaker.place.key not in self._stopped:
                raise
            self._stopped.discard(speaker.place.key)
            speaker.sends.clear()
        except Unavailable:
            raise
        except Exception:
            log.exception("turn_failed", agent=speaker.place.agent_id, event_id=batch[0].event_id)
            speaker.say(escape(say(speaker.language, "failed")))
        await self._finish(batch, speaker)

    async def _work(self, batch: Sequence[Native], speaker: Speaker) -> None:
        native = batch[0]
        if native.is_callback:
            await speaker.notice_press()
        person = await self._people.person_by_handle(PLATFORM, str(native.place.user))
        if person is None and self._ways.guests == "refuse":
            await self._refuse(native, speaker)
            return
        await self._auth.confirm(str(native.place.user), PLATFORM)
        configured = person.agent if person else ""
        room = await self._rooms.at(native.place, speaker.language, configured, native.topic)
        speaker.room = room
        if native.topic:
            with suppress(ValueError):
                await self._chats.rename(room.chat.chat_id, room.chat.user_id, native.topic)
            return
        await self._say_notice(room, speaker, native)
        await self._handle(batch, speaker)

    async def _refuse(self, native: Native, speaker: Speaker) -> None:
        user = native.place.user
        if self._strangers.is_owed_an_answer(native):
            self._strangers.answer(native)
            told = [say(speaker.language, "stranger", user=user, door=PLATFORM)]
            if not native.place.is_private:
                told.append(say(speaker.language, "stranger_group", chat=native.place.chat))
            speaker.say(escape("\n".join(told)))
        await self._auth.revoke(str(user))

    async def _handle(self, batch: Sequence[Native], speaker: Speaker) -> None:
        native, room = batch[0], speaker.room
        user, chat = room.chat.user_id, room.chat.chat_id
        speaker.workspace = await self._agents.workspace(room.agent_id)
        speaker.folder = self._ways.folder / "sent" / native.event_id.replace(":", "-")
        speaker.largest = self._ways.largest_upload
        arrived = [file for one in batch for file in await self._arrived(one, speaker)]
        said = next((one for one in batch if one.text), native)
        if all(one.is_bare_file for one in batch):
            await self._stage(arrived, user, chat, speaker)
            return
        waiting = [] if native.is_command or native.is_callback else await self._staging.waiting(user, chat)
        pending = await self._store.get(_pending(room)) or {}
        event = to_event(
            said, chat, speaker.language, [*waiting, *arrived], str(pending.get("action_id", ""))
        )
        if isinstance(event, IncomingMessage) and not event.text and not event.attachments:
            return  # all of its files were refused, and the user knows
        await self._dispatch(event, speaker)
        if speaker.is_accepted and waiting:
            await self._staging.drop(user, chat, waiting)

    async def _dispatch(self, event: IncomingEvent, speaker: Speaker) -> None:
        room, token = speaker.room, current.set(speaker)
        is_talk = isinstance(event, IncomingMessage)
        if is_talk:
            self._talking[room.place.key] = speaker
        try:
            is_desk = room.place.agent_id == DESK
            for told in await answered(self.desk if is_desk else self.dispatcher, event):
                await speaker.tell(told)
        finally:
            current.reset(token)
            if is_talk:
                self._talking.pop(room.place.key, None)
        if getattr(event, "action", "") in ("confirm", "cancel"):
            await self._store.delete(_pending(room))
        if speaker.pending:
            await self._store.set(_pending(room), {"action_id": speaker.pending})

    async def _finish(self, batch: Sequence[Native], speaker: Speaker) -> None:
        """Queue the answer and close the turn in one command."""
        events, receipts = [native.event_id for native in batch], list[tuple[Send, Receipt]]()
        try:
            async with self._database.command("answer in telegram") as unit:
                if await self._turns.finish(unit, events):
                    receipts = [(send, await self._queue.put(send, unit)) for send in speaker.sends]
        except Unavailable:
            raise
        except QuarterdeckError as error:
            log.warning("answer_not_queued", agent=speaker.place.agent_id, reason=error.detail)
            async with self._database.command("close a telegram turn") as unit:
                await self._turns.finish(unit, events)
        for native in batch:
            if native.files:
                await self._store.delete(f"{FILE}:{native.event_id}")
        for send, receipt in receipts:
            if send.attachments:
                watch = asyncio.create_task(self._watch(send, receipt, speaker))
                self._watches.add(watch)
                watch.add_done_callback(self._watches.discard)

    async def _watch(self, send: Send, receipt: Receipt, speaker: Speaker) -> None:
        """Tell the user of a file that Telegram did not take."""
        with suppress(QuarterdeckError):
            receipt = await self._queue.wait(receipt.id, UPLOAD_SECONDS)
            if receipt.state is SendState.REFUSED:
                text = speaker.why("file_not_sent", send.attachments[0].name, "why_upload")
                key = f"{send.idempotency_key}/refused"
                told = replace(
                    send, attachments=(), text=escape(text), parse_mode="HTML", idempotency_key=key
                )
                await self._queue.put(told)

    # Files

    async def _arrived(self, native: Native, speaker: Speaker) -> list[Attachment]:
        """The message's files in the agent's workspace; of one that could not be taken the user is told."""
        taken = []
        for attachment in native.files:
            try:
                taken.append(await self._taken(attachment, native, speaker))
            except files.FileRefused as refused:
                name, limit = files.name_of(attachment), self._ways.largest_download // 1_000_000
                why = say(speaker.language, refused.why, limit=limit)
                speaker.say(escape(say(speaker.language, "file_not_taken", name=name, why=why)))
                log.info("file_not_taken", agent=speaker.place.agent_id, why=refused.why)
        return taken

    async def _taken(self, attachment: Attachment, native: Native, speaker: Speaker) -> Attachment:
        key = f"{FILE}:{native.event_id}"
        if kept := await self._store.get(key):  # taken before this process began
            return Attachment(**kept)
        limit, size = self._ways.largest_download, attachment.size or 0
        if size > limit:
            raise files.FileRefused("why_too_large")
        folder = self._ways.folder / "arriving" / native.event_id.replace(":", "-")
        try:
            fetched = await self._bots.download(
                native.place.agent_id, attachment.url or "", folder, limit, size
            )
        except NotFound:  # somebody else has it now, or it comes back with another token
            raise Unavailable("The bot is not served here.", code="bot_not_served") from None
        except QuarterdeckError as error:
            is_large = error.code == "file_too_large"
            raise files.FileRefused("why_too_large" if is_large else "why_download") from None
        try:
            name = files.name_of(attachment)
            placed = await asyncio.to_thread(files.place, fetched, speaker.workspace, name)
        finally:
            await asyncio.to_thread(shutil.rmtree, fetched.parent, ignore_errors=True)
        stored = replace(attachment, filename=placed, url=None).stored(placed)
        await self._store.set(key, asdict(stored))
        return stored

    async def _stage(self, arrived: Sequence[Attachment], user: str, chat: str, speaker: Speaker) -> None:
        for file in arrived:
            number = await self._staging.add(user, chat, [file])
            speaker.say(escape(say(speaker.language, "staged", name=file.filename, n=number)))

    # What the handlers ask

    async def makes_topics(self, place: Place) -> bool:
        return place.is_private and (await self._identity(place.agent_id)).has_topics

    async def configured(self, user_id: str) -> str:
        person = await self._people.person_by_handle(PLATFORM, user_id)
        return person.agent if person else ""

    async def agent_name(self, agent_id: str) -> str:
        return (await self._agents.names()).get(agent_id, agent_id or "Quarterdeck")

    async def stop(self, room: Room) -> bool:
        talking = self._talks_in(room)
        if talking is not None:
            talking.stopping.set()
        return talking is not None

    def _talks_in(self, room: Room) -> Speaker | None:
        """Who answers in this chat just now."""
        speaker = self._talking.get(room.place.key)
        return speaker if speaker and speaker.room.chat.chat_id == room.chat.chat_id else None

    async def stopped(self, room: Room, event: IncomingMessage, said: str) -> None:
        try:
            await self._platform.remember_stopped(
                room.chat.user_id, _route(room), event.text, event.attachments, said
            )
        except (PlatformError, QuarterdeckError) as error:  # the answer itself is not to suffer
            log.warning("stop_not_remembered", agent=room.agent_id, reason=str(error))

    async def forget(self, room: Room) -> None:
        if self._talks_in(room) is not None:
            self._stopped.add(room.place.key)
            self._lines.stop(room.place.key)
        await self._platform.disconnect_chat(room.chat.user_id, _route(room))

    # Details

    async def _say_notice(self, room: Room, speaker: Speaker, native: Native) -> None:
        """Once in each room: the default agent answers for now."""
        if native.is_command or native.is_callback or not owes_notice(room.facts):
            return
        names = await self._agents.names()
        if len(names) > 1:  # with one agent there is nothing to be told
            agent = names.get(room.agent_id, room.agent_id)
            speaker.say(escape(say(speaker.language, "default_agent", agent=agent)))
        await self._rooms.keep(room, dict(room.facts) | {"default_agent_notice_sent": True})

    async def _language(self, native: Native) -> str:
        chosen = await self._settings.language(str(native.place.user))
        return chosen or closest(native.language_code, self._ways.language)

    async def _identity(self, agent_id: str) -> _Identity:
        """What a bot says of itself; what it said before, or nothing, while Telegram is away."""
        seen = self._identities.get(agent_id)
        if seen and time.monotonic() - seen.seen_at < IDENTITY_SECONDS:
            return seen
        try:
            told = await self._bots.call(agent_id, "getMe")
        except QuarterdeckError as error:
            log.info("bot_says_nothing", agent=agent_id, reason=error.detail)
            return seen or _Identity("", False, 0)
        seen = _Identity(
            str(told.get("username") or ""), bool(told.get("has_topics_enabled")), time.monotonic()
        )
        self._identities[agent_id] = seen
        return seen


def _route(room: Room) -> Route:
    return Route(room.agent_id, str(room.facts["platform_chat_id"]))


def _pending(room: Room) -> str:
    return f"{PENDING}:{room.chat.user_id}:{room.place.key}"


def _document(update: Update) -> dict[str, Any]:
    return {**vars(update), "ts": update.ts.isoformat()}


def _update(document: Mapping[str, Any]) -> Update:
    return Update(**{**document, "ts": datetime.fromisoformat(document["ts"])})


def _forget_files(folder: Path) -> None:
    """Copies that were sent long ago."""
    for sent in (folder / "sent").glob("*"):
        with suppress(OSError):
            if time.time() - sent.stat().st_mtime > SENT_KEPT:
                shutil.rmtree(sent)
