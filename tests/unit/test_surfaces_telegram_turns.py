"""Turns of a Telegram surface: in order, answered once, and taken up by whoever serves the bot next."""

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select, update

from quarterdeck.listener import attend
from quarterdeck.surfaces.model import SurfaceTurn
from quarterdeck.surfaces.protocol import IncomingCommand, OutgoingMessage
from quarterdeck.surfaces.telegram.converter import Native, Place
from quarterdeck.surfaces.telegram.lines import Lines
from tests.fakes.chatting import ANNA, ChatDesk, Slowly, greeted, message
from tests.waiting import until

desk = greeted


@pytest.mark.parametrize("steps", range(8))
async def test_a_message_that_comes_just_as_the_answer_before_ends_is_answered(steps: int) -> None:
    async def work(batch: Sequence[Native]) -> None:
        done.append(batch[0].text)

    async def add_after_it(text: str) -> None:
        while not done:
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        lines.add(said(text))

    def said(text: str) -> Native:
        return Native(text, Place("desk", ANNA, 0, ANNA), text=text)

    lines, done = Lines(work), list[str]()
    lines.add(said("one"))
    await add_after_it("two")
    await lines.idle()
    assert done == ["one", "two"]


async def test_turns_in_one_place_are_in_order_and_other_places_do_not_wait(desk: ChatDesk) -> None:
    slow = Slowly(desk, ["a", "b", "c"])
    await desk.writes("slow one", waits=False)
    await desk.writes("quick", user=778, waits=False)
    async with asyncio.timeout(20):
        while not desk.said(778):
            await asyncio.sleep(0.001)
    await desk.writes("/help", waits=False)  # commands do not wait either
    assert "/new" in desk.said()[-1] and not any("abc" in text for text in desk.said())
    slow.end()
    await desk.surface.idle()
    assert desk.said()[-1] == "abc"


async def test_what_a_process_left_unanswered_the_next_one_answers_once(desk: ChatDesk) -> None:
    Slowly(desk, ["never ", "ending", ""])
    await desk.writes("hello", waits=False)
    await desk.writes("and this", waits=False)
    await desk.surface.close()
    del desk.agents.clients["helm"].stream_message  # type: ignore[attr-defined]
    desk.surface = desk.made()
    assert await desk.surface.resume("desk") == 2
    await desk.surface.idle()
    assert desk.said()[-2:] == ["You said: hello", "You said: and this"]
    assert await desk.surface.resume("desk") == 0


async def test_a_listener_takes_up_what_was_said_to_the_bots_that_it_serves_and_to_no_other(
    desk: ChatDesk,
) -> None:
    slow, other = Slowly(desk, ["never ", "ending", ""]), desk.made()
    await desk.writes("hello", waits=False)
    await until(lambda: slow.asked == 1)
    await other.begins("galley", "bot:galley")
    await other.idle()
    assert slow.asked == 1
    await desk.surface.close()  # its bots go over
    slow.end()
    await other.begins("desk", "bot:desk")
    await other.idle()
    assert (slow.asked, desk.said()[-1]) == (2, "never ending")


async def test_a_command_that_was_cut_off_is_done_once_more_and_not_twice(desk: ChatDesk) -> None:
    async def works(event: Any, **_: Any) -> list[Any]:
        begun.append(event.event_id)
        await may_end.wait()
        return [OutgoingMessage(event.chat_id, "done")]

    begun, may_end, told = list[str](), asyncio.Event(), {"update_id": 700, "message": message("/work")}
    desk.surface.desk.register(IncomingCommand, "work", works)
    cut_off = asyncio.create_task(desk.takes(dict(told)))
    await until(lambda: len(begun) == 1)
    cut_off.cancel()
    await asyncio.gather(cut_off, return_exceptions=True)
    desk.surface = desk.made()
    desk.surface.desk.register(IncomingCommand, "work", works)
    beginning = asyncio.create_task(desk.surface.begins("desk", "bot:desk"))
    telling = asyncio.create_task(desk.takes(dict(told)))
    await until(lambda: len(begun) == 2)
    may_end.set()
    await asyncio.gather(beginning, telling)
    assert (len(begun), desk.said()) == (2, ["done"])


async def test_what_was_left_open_and_is_told_again_while_it_is_answered_is_asked_once(
    desk: ChatDesk,
) -> None:
    slow = Slowly(desk, ["never ", "ending", ""])
    told = {"update_id": 5000, "message": message("hello")}
    await desk.takes(dict(told), waits=False)
    await until(lambda: slow.asked == 1)
    await desk.surface.close()
    desk.surface = desk.made()
    await desk.surface.resume("desk")
    await until(lambda: slow.asked == 2)
    await desk.takes(dict(told), waits=False)
    slow.end()
    await desk.surface.idle()
    assert slow.asked == 2
    assert desk.said().count("never ending") == 1


async def test_a_listener_that_stays_open_forgets_every_hour_what_is_old(desk: ChatDesk) -> None:
    async def hour(seconds: float) -> None:
        slept.append(seconds)
        await hours.acquire()

    slept, hours, sent = list[float](), asyncio.Semaphore(0), desk.ways.folder / "sent"
    attending = asyncio.create_task(attend(desk.surface, hour))
    try:
        await until(lambda: len(slept) == 1)
        await desk.writes("hello")
        for name in ("old", "new"):
            (sent / name).mkdir(parents=True)
        days_ago = time.time() - 4 * 24 * 3600
        os.utime(sent / "old", (days_ago, days_ago))
        async with desk.database.command("let four days go by") as unit:
            await unit.session.exec(update(SurfaceTurn).values(done_at=unit.now - timedelta(days=4)))
        hours.release()
        await until(lambda: len(slept) == 2)
    finally:
        attending.cancel()
    assert slept == [3600, 3600]
    assert [folder.name for folder in sent.iterdir()] == ["new"]
    async with desk.database.read() as session:
        assert (await session.exec(select(SurfaceTurn))).all() == []


async def test_chats_survive_a_restart(desk: ChatDesk) -> None:
    await desk.writes("one")
    desk.surface = desk.made()
    await desk.writes("two")
    assert len({asked.chat_id for asked in desk.agents.clients["helm"].asked}) == 1
