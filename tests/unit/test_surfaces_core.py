"""The core of the surfaces: events find their handlers, chats their users, words their languages."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError
from string import Formatter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict
from quarterdeck.surfaces.answering import answered
from quarterdeck.surfaces.auth import AuthManager
from quarterdeck.surfaces.chat import ChatManager
from quarterdeck.surfaces.commands import command, parsed
from quarterdeck.surfaces.dispatcher import ANY, EventDispatcher
from quarterdeck.surfaces.handlers import register_all
from quarterdeck.surfaces.handlers.callback import asked
from quarterdeck.surfaces.platform import AgentEvent, PlatformError
from quarterdeck.surfaces.protocol import (
    Attachment,
    ConfirmationRequest,
    IncomingCallback,
    IncomingCommand,
    IncomingMessage,
    OutgoingMessage,
    OutgoingTyping,
    OutgoingUI,
    SettingsAction,
)
from quarterdeck.surfaces.routed import RoutedPlatformClient
from quarterdeck.surfaces.settings import SettingsManager
from quarterdeck.surfaces.store import (
    MemoryStore,
    PostgresStore,
    StateStore,
    next_chat_number,
    next_platform_chat_id,
)
from quarterdeck.surfaces.texts import LANGUAGES, catalogue, closest, say
from tests.fakes.platform import FakeDelegates, FakePlatform

ANNA = {"user_id": "777", "platform": "telegram", "chat_id": "C1", "language": "en"}


class Desk:
    """A core on a store in memory and a platform that repeats."""

    def __init__(self) -> None:
        self.platform = FakePlatform()
        self.store = MemoryStore()
        self.chats = ChatManager(self.platform, self.store)
        self.auth = AuthManager(self.platform, self.store)
        self.settings = SettingsManager(self.platform, self.store)
        self.dispatcher = EventDispatcher(
            chat_mgr=self.chats, auth_mgr=self.auth, settings_mgr=self.settings, platform=self.platform
        )
        register_all(self.dispatcher)

    async def does(self, event: Any) -> list[Any]:
        return await answered(self.dispatcher, event)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[StateStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    made = Database(request.getfixturevalue("database_url"))
    yield PostgresStore(made)
    await made.close()


# Protocol


def test_events_have_lists_of_their_own_and_do_not_change() -> None:
    one, two = IncomingMessage(**ANNA), IncomingMessage(**ANNA)
    assert one.attachments == [] and one.attachments is not two.attachments
    assert OutgoingMessage("C1", "x").attachments is not OutgoingMessage("C1", "x").attachments
    with pytest.raises(FrozenInstanceError):
        one.text = "changed"  # type: ignore[misc]


def test_an_attachment_needs_nothing_but_its_place() -> None:
    assert Attachment(workspace_path="report.pdf").type == "document"


# Dispatcher


async def test_an_event_goes_to_the_handler_of_its_key_else_to_the_one_for_all(desk: Desk) -> None:
    went = []

    def to(name: str) -> Any:
        async def handle(event: Any, **_: Any) -> list[Any]:
            went.append(name)
            return []

        return handle

    desk.dispatcher.register(IncomingMessage, ANY, to("any"))
    desk.dispatcher.register(IncomingMessage, "audio", to("audio"))
    desk.dispatcher.register(IncomingCommand, "items", to("first items"))
    desk.dispatcher.register(IncomingCommand, "items", to("items"))
    desk.dispatcher.register(IncomingCallback, "approve", to("approve"))
    files = [Attachment("audio"), Attachment("image")]
    await desk.dispatcher.dispatch(IncomingMessage(**ANNA, text="x", attachments=files))
    await desk.dispatcher.dispatch(IncomingMessage(**ANNA, attachments=files[::-1]))
    await desk.dispatcher.dispatch(IncomingCommand(**ANNA, command="items"))
    await desk.dispatcher.dispatch(IncomingCallback(**ANNA, action="approve"))
    assert went == ["audio", "any", "items", "approve"]


async def test_what_nobody_handles_leads_to_nothing(desk: Desk) -> None:
    assert await desk.dispatcher.dispatch(IncomingCallback(**ANNA, action="dance")) == []


@given(
    st.dictionaries(st.sampled_from("abc*"), st.integers(0, 3), max_size=4),
    st.sampled_from("abcd"),
)
def test_routing_is_the_key_then_the_wildcard_then_nothing(known: dict[str, int], key: str) -> None:
    async def check() -> None:
        platform, store = FakePlatform(), MemoryStore()
        dispatcher = EventDispatcher(
            chat_mgr=ChatManager(platform, store),
            auth_mgr=AuthManager(platform, store),
            settings_mgr=SettingsManager(platform, store),
            platform=platform,
        )
        for name, number in known.items():

            async def handle(event: Any, *, number: int = number, **_: Any) -> list[Any]:
                return [OutgoingMessage("C1", str(number))]

            dispatcher.register(IncomingCommand, name, handle)
        told = await dispatcher.dispatch(IncomingCommand(**ANNA, command=key))
        wanted = known.get(key, known.get("*"))
        assert [event.text for event in told] == ([] if wanted is None else [str(wanted)])

    asyncio.run(check())


# What goes wrong


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PlatformError("no", "AWAY"), "AWAY"),
        (Conflict("ET-007 waits for nobody.", "Look at it."), "ET-007 waits for nobody. Look at it."),
        (ValueError("unknown"), "cannot find this chat"),
        (RuntimeError("a secret of the inside"), "Something went wrong"),
    ],
)
async def test_whatever_a_handler_raises_becomes_words(desk: Desk, error: Exception, told: str) -> None:
    async def fail(event: Any, **_: Any) -> list[Any]:
        raise error

    desk.dispatcher.register(IncomingCommand, "items", fail)
    [answer] = await desk.does(IncomingCommand(**ANNA, command="items"))
    assert told in answer.text and "secret" not in answer.text


async def test_an_unknown_command_is_answered(desk: Desk) -> None:
    [answer] = await desk.does(IncomingCommand(**ANNA, command="dance"))
    assert "/dance" in answer.text and "/help" in answer.text


# The core's handlers


async def test_a_user_starts_talks_and_sets(desk: Desk) -> None:
    [refused] = await desk.does(IncomingMessage(**ANNA, text="hello"))
    assert "/start" in refused.text and desk.platform.asked == []
    [first] = await desk.does(IncomingCommand(**ANNA, command="start"))
    [again] = await desk.does(IncomingCommand(**ANNA, command="start"))
    assert first.text != again.text
    typing, answer = await desk.does(IncomingMessage(**ANNA, text="hello"))
    assert typing == OutgoingTyping("C1", False) and answer.text == "You said: hello"
    [menu] = await desk.does(IncomingCommand(**ANNA, command="settings"))
    assert isinstance(menu, OutgoingUI) and len(menu.buttons) == 6


async def test_matrix_commands_have_their_own_prefix(desk: Desk) -> None:
    [told] = await desk.does(IncomingMessage("@anna:example.org", "matrix", "C1", "hi", language="en"))
    assert "!start" in told.text and "/start" not in told.text
    assert (command("matrix", "new"), command("telegram", "new")) == ("!new", "/new")


async def test_files_of_the_answer_come_along(desk: Desk) -> None:
    await desk.auth.confirm("777", "telegram")
    desk.platform.files = [Attachment("document", workspace_path="output/report.pdf")]
    _, answer = await desk.does(IncomingMessage(**ANNA, text="report"))
    assert answer.attachments == desk.platform.files


async def test_a_voice_message_goes_to_the_agent_as_a_file(desk: Desk) -> None:
    await desk.auth.confirm("777", "telegram")
    voice = Attachment("audio", workspace_path="voice.ogg")
    await desk.does(IncomingMessage(**ANNA, attachments=[voice]))
    assert desk.platform.asked[0].attachments == [voice] and desk.platform.asked[0].text


async def test_a_skill_is_switched_in_place(desk: Desk) -> None:
    [page] = await desk.does(IncomingCallback(**ANNA, action="settings", payload={"part": "skills"}))
    browser = next(row[0] for row in page.buttons if row[0].payload.get("skill") == "browser")
    assert browser.text.endswith("off") and page.replaces
    [page] = await desk.does(IncomingCallback(**ANNA, action=browser.action, payload=browser.payload))
    browser = next(row[0] for row in page.buttons if row[0].payload.get("skill") == "browser")
    assert browser.text.endswith("on") and page.replaces
    assert (await desk.settings.get("777")).skills["browser"] is True
    assert (await desk.settings.get("778")).skills["browser"] is False


@pytest.mark.parametrize("part", ["skills", "connectors", "soul", "safety", "plan", "language", "nonsense"])
async def test_every_page_of_the_settings_has_a_way_back(desk: Desk, part: str) -> None:
    [page] = await desk.does(IncomingCallback(**ANNA, action="settings", payload={"part": part}))
    assert any(button.action == "settings" for row in page.buttons for button in row)


async def test_a_skill_that_does_not_exist_is_refused(desk: Desk) -> None:
    payload = {"skill": "piracy", "enabled": "1"}
    [told] = await desk.does(IncomingCallback(**ANNA, action="toggle_skill", payload=payload))
    assert "UNKNOWN_SETTING" in told.text


async def test_the_language_is_the_users_from_the_next_word_on(desk: Desk) -> None:
    [told] = await desk.does(IncomingCallback(**ANNA, action="set_language", payload={"language": "uk"}))
    assert "українською" in told.text and await desk.settings.language("777") == "uk"


async def test_consent_is_acknowledged_by_what_it_was_asked_for(desk: Desk) -> None:
    question = asked(ConfirmationRequest("act-1", "Send the letter?"), "C1", "en")
    for button, word in zip(question.buttons[0], ["Agreed", "not done"], strict=True):
        [told] = await desk.does(IncomingCallback(**ANNA, action=button.action, payload=button.payload))
        assert word in told.text
    [told] = await desk.does(IncomingCallback(**ANNA, action="confirm"))
    assert "nothing" in told.text.lower()


async def test_new_rename_and_archive_keep_the_list_right(desk: Desk) -> None:
    await desk.does(IncomingCommand(**ANNA, command="new", args=["Ship", "yard"]))
    await desk.does(IncomingCommand(**ANNA, command="new"))
    await desk.does(IncomingCommand(**ANNA, command="rename", args=["Harbour"]))
    [listed] = await desk.does(IncomingCommand(**ANNA, command="chats"))
    assert listed.text.splitlines()[1:] == ["Harbour (C1)", "Chat 2 (C2)"]
    await desk.does(IncomingCommand(**ANNA, command="archive"))
    assert [chat.chat_id for chat in await desk.chats.list_active("777")] == ["C2"]
    [usage] = await desk.does(IncomingCommand(**ANNA, command="rename"))
    assert "/rename" in usage.text


# Managers


async def test_a_chat_that_does_not_exist_cannot_be_renamed_or_archived(desk: Desk) -> None:
    with pytest.raises(ValueError, match="C9"):
        await desk.chats.rename("C9", "777", "x")
    with pytest.raises(ValueError, match="C9"):
        await desk.chats.archive("C9", "777")


async def test_the_same_local_id_of_two_users_is_two_chats(desk: Desk) -> None:
    await desk.chats.get_or_create("777", "C1", "telegram", "here", "Anna's")
    await desk.chats.get_or_create("778", "C1", "telegram", "there", "Boris's")
    again = await desk.chats.get_or_create("777", "C1", "telegram", "elsewhere", "Other")
    assert (again.display_name, again.surface_ref) == ("Anna's", "here")
    assert [chat.display_name for chat in await desk.chats.list_active("778")] == ["Boris's"]
    await desk.chats.get_or_create("@anna:example.org:8448", "C1", "matrix", "there", "Of another server")
    assert await desk.chats.list_active("@anna:example.org") == []


async def test_nobody_is_known_before_being_confirmed(desk: Desk) -> None:
    assert not await desk.auth.is_authenticated("777")
    flow = await desk.auth.start_flow("777", "telegram")
    assert flow.state == "pending" and not await desk.auth.is_authenticated("777")
    flow = await desk.auth.confirm("777")
    assert flow.platform_user_id == "telegram:777" and await desk.auth.is_authenticated("777")
    await desk.auth.start_flow("777", "telegram")
    assert await desk.auth.is_authenticated("777")


async def test_settings_are_read_anew_after_a_change(desk: Desk) -> None:
    before = await desk.settings.get("777")
    before.skills["browser"] = True  # what was given out belongs to the caller
    assert (await desk.settings.get("777")).skills["browser"] is False
    await desk.settings.apply("777", SettingsAction("toggle_skill", {"skill": "browser", "enabled": True}))
    assert (await desk.settings.get("777")).skills["browser"] is True


# Stores


async def test_a_store_keeps_finds_and_forgets(store: StateStore) -> None:
    await store.set("chat:1:C1", {"name": "Один", "deep": {"list": [1, None]}})
    await store.set("chat:1:C2", {})
    await store.set("chat_1", {"like": "a pattern"})
    assert await store.get("chat:1:C1") == {"name": "Один", "deep": {"list": [1, None]}}
    assert await store.keys("chat:1:") == ["chat:1:C1", "chat:1:C2"]
    assert await store.keys("chat_") == ["chat_1"]
    assert await store.values("chat:1:") == [{"name": "Один", "deep": {"list": [1, None]}}, {}]
    await store.set("chat:1:C2", {"b": 2})
    assert await store.get("chat:1:C2") == {"b": 2}
    await store.delete("chat:1:C1")
    await store.delete("chat:1:C1")
    assert await store.get("chat:1:C1") is None


async def test_nobody_gets_a_number_twice(store: StateStore) -> None:
    await store.set("telegram_user:777", {"space_id": "kept"})
    numbers = await asyncio.gather(*(next_chat_number(store, "telegram", "777") for _ in range(20)))
    assert sorted(numbers) == list(range(1, 21))
    assert await store.get("telegram_user:777") == {"space_id": "kept", "next_chat_index": 21}
    assert await next_chat_number(store, "telegram", "778") == 1


async def test_conversations_are_numbered_on_after_a_restart(database_url: str) -> None:
    given = []
    for _ in range(2):
        opened = Database(database_url)
        given += [await next_platform_chat_id(PostgresStore(opened)) for _ in range(2)]
        await opened.close()
    assert given == ["1", "2", "3", "4"]


# Routing


async def routed() -> tuple[RoutedPlatformClient, FakeDelegates, MemoryStore]:
    store, delegates = MemoryStore(), FakeDelegates("helm", "galley")
    client = RoutedPlatformClient("matrix", store, delegates)
    client.chats = chats = ChatManager(client, store)
    await chats.get_or_create("777", "C1", "matrix", "!room:example.org")
    return client, delegates, store


async def test_a_message_goes_to_the_rooms_agent_and_conversation() -> None:
    client, delegates, store = await routed()
    await store.set("matrix_room:!room:example.org", {"agent_id": "galley", "platform_chat_id": "41"})
    answer = await client.send_message("777", "C1", "hello")
    assert answer.response.strip() == "You said: hello" and answer.tokens_used == 7
    assert [asked.chat_id for asked in delegates.clients["galley"].asked] == ["41"]
    assert delegates.clients["helm"].asked == []


@pytest.mark.parametrize(
    ("chat", "room", "code"),
    [
        ("C2", {}, "MATRIX_CHAT_NOT_FOUND"),
        ("C1", {}, "MATRIX_ROUTE_INCOMPLETE"),
        ("C1", {"agent_id": "helm"}, "MATRIX_ROUTE_INCOMPLETE"),
        ("C1", {"platform_chat_id": "1"}, "MATRIX_ROUTE_INCOMPLETE"),
        ("C1", {"agent_id": "ghost", "platform_chat_id": "1"}, "MATRIX_AGENT_NOT_FOUND"),
    ],
)
async def test_a_way_that_is_not_known_is_an_error(chat: str, room: dict[str, str], code: str) -> None:
    client, delegates, store = await routed()
    await store.set("matrix_room:!room:example.org", room)
    with pytest.raises(PlatformError) as failed:
        await client.send_message("777", chat, "hello")
    assert failed.value.code == code
    assert await store.get("matrix_room:!room:example.org") == room
    assert all(not fake.asked for fake in delegates.clients.values())


async def test_users_and_settings_are_the_first_agents_business_and_all_are_closed() -> None:
    client, delegates, _ = await routed()
    assert (await client.get_or_create_user("777", "matrix")).is_new
    assert not (await delegates.clients["helm"].get_or_create_user("777", "matrix")).is_new
    await client.close()
    assert all(fake.is_closed for fake in delegates.clients.values())


async def test_a_push_of_the_platform_reaches_its_receivers() -> None:
    told: list[AgentEvent] = []

    class Receiver:
        async def on_agent_event(self, event: AgentEvent) -> None:
            told.append(event)

    platform = FakePlatform()
    platform.register_webhook_receiver(Receiver())
    await platform.simulate_agent_event("777", "C1", "done")
    assert [event.text for event in told] == ["done"]


# Words


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_everything_with_the_same_facts(language: str) -> None:
    english, words = catalogue("en"), catalogue(language)
    assert words.keys() == english.keys()
    for entry, text in words.items():
        assert facts(text) == facts(english[entry]), entry


def facts(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_an_unknown_language_is_answered_in_the_default_one() -> None:
    assert say("tlh", "confirm") == say("ru", "confirm")
    assert (closest("en-GB", "ru"), closest("uk", "ru"), closest("zh-hans", "ru")) == ("en", "uk", "zh")
    assert (closest("", "ru"), closest("tlh", "uk")) == ("ru", "uk")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/new", ("new", [])),
        ("/New@some_bot  two words", ("new", ["two", "words"])),
        ("/item ET-007", ("item", ["ET-007"])),
        ("/", None),
        ("/ new", None),
        ("/etc/passwd", None),
        ("new", None),
        ("", None),
    ],
)
def test_a_command_is_its_name_and_its_words(text: str, wanted: object) -> None:
    assert parsed(text, "/") == wanted


@given(st.text(max_size=50))
def test_no_text_breaks_the_reading_of_commands(text: str) -> None:
    found = parsed(f"/{text}", "/")
    assert found is None or (found[0] and not any(c.isspace() for c in found[0]))
