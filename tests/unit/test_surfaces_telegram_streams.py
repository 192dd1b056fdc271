"""An agent's answer while it grows in Telegram: drafts, edits, and how it is stopped."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from quarterdeck.surfaces.platform import MessageChunk, PlatformError
from quarterdeck.telegram.wire import SendState
from tests.fakes.chatting import ANNA, ChatDesk, Slowly, begun, greeted

GROUP = -1001
desk = greeted


async def test_in_a_group_an_answer_grows_in_one_message(desk: ChatDesk) -> None:
    slow = Slowly(desk, ["One ", "two ", "**three**"])
    await desk.writes("hey @desk_bot", chat=GROUP, waits=False)
    await slow.until_shown("editMessageText", GROUP)
    slow.end()
    await desk.surface.idle()
    assert desk.bots.done("sendMessageDraft") == []
    assert desk.bots.done("editMessageText")[-1]["text"] == "One two <b>three</b>"
    grown = [text for text in desk.said(GROUP) if text.startswith("One")]
    assert len(grown) == 1  # the message that grew; nothing was said twice


async def test_in_a_private_chat_an_answer_is_drafted_and_then_said_once(desk: ChatDesk) -> None:
    slow = Slowly(desk, ["One ", "two ", "**three**"])
    await desk.writes("hey", waits=False)
    await slow.until_shown("sendMessageDraft")
    drafts = desk.bots.done("sendMessageDraft")
    assert len({fields["draft_id"] for fields in drafts}) == 1 and drafts[0]["draft_id"] != 0
    slow.end()
    await desk.surface.idle()
    assert desk.said()[-1] == "One two three"
    assert sum(text.startswith("One") for text in desk.said()) == 1


async def test_without_drafts_there_is_typing_and_the_answer(desk: ChatDesk) -> None:
    desk.bots.drafts = False
    slow = Slowly(desk, ["One ", "two ", "three"])
    await desk.writes("hey", waits=False)
    await slow.until_shown("sendMessageDraft")
    slow.end()
    await desk.surface.idle()
    assert len(desk.bots.done("sendMessageDraft")) == 1 and desk.said()[-1] == "One two three"


async def test_what_was_said_before_an_answer_broke_off_is_kept(desk: ChatDesk) -> None:
    async def breaks(*_: Any) -> AsyncIterator[MessageChunk]:
        yield MessageChunk("Half of it")
        raise PlatformError("gone", "BROKEN_OFF")

    desk.agents.clients["helm"].stream_message = breaks  # type: ignore[assignment]
    await desk.writes("hello")
    assert desk.said()[-2] == "Half of it" and "BROKEN_OFF" in desk.said()[-1]


@pytest.mark.parametrize("state", [SendState.SENT, SendState.MAYBE_SENT])
async def test_the_message_that_a_process_left_growing_is_completed_by_the_next_one(
    desk: ChatDesk, state: SendState
) -> None:
    await begun(desk, "editMessageText", chat=GROUP, reply_to_message=message_of_the_bot())
    await desk.surface.close()
    desk.bots.outcome = state
    del desk.agents.clients["helm"].stream_message  # type: ignore[attr-defined]
    desk.surface = desk.made()
    assert await desk.surface.resume("desk") == 1
    await desk.surface.idle()
    last = desk.bots.done("editMessageText")[-1]
    assert (last["text"], last["reply_markup"]) == ("You said: hello", {"inline_keyboard": []})
    assert desk.said(GROUP)[-1].startswith("Never")  # no second message


# Stopping


async def test_stop_ends_the_answer_and_keeps_what_was_said(desk: ChatDesk) -> None:
    await begun(desk)
    await desk.writes("/stop")
    assert desk.said()[-2:] == ["Never ending", "⏹ Stopped."]
    await desk.writes("/stop")
    assert desk.said()[-1] == "There is nothing to stop now."
    assert await desk.made().resume("desk") == 0


async def test_the_button_below_a_draft_stops_it_too(desk: ChatDesk) -> None:
    await begun(desk)
    assert desk.bots.done("sendMessageDraft")[0]["can_stop"] is True
    chat = {"id": ANNA, "type": "private"}
    await desk.takes({"stopped_message_generation": {"chat": chat, "draft_id": 1}})
    assert desk.said()[-2:] == ["Never ending", "⏹ Stopped."]


async def test_in_a_group_the_growing_message_has_a_button_for_whoever_asked(desk: ChatDesk) -> None:
    await begun(desk, "editMessageText", chat=GROUP, reply_to_message=message_of_the_bot())
    [grows] = [send for send in desk.bots.sent if send.buttons]
    data = grows.buttons[0][0].data
    desk.people.agents["779"] = ""
    pressing = asyncio.create_task(desk.presses(data, chat=GROUP, user=779))
    async with asyncio.timeout(20):
        while len(desk.bots.done("answerCallbackQuery")) < 1:
            await asyncio.sleep(0.001)
    assert "⏹ Stopped." not in desk.said(GROUP)
    await desk.presses(data, chat=GROUP)
    await pressing
    assert desk.said(GROUP)[-1] == "⏹ Stopped."
    last = desk.bots.done("editMessageText")[-1]
    assert last["text"] == "Never ending" and last["reply_markup"] == {"inline_keyboard": []}


def message_of_the_bot() -> dict[str, Any]:
    return {"message_id": 5, "from": {"id": 1, "is_bot": True}}
