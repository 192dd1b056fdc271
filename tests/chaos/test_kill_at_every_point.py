"""The desk is killed (kill -9) before and after every commit and every effect on an item's way.

Each desk is armed with one crash point, and finds what its predecessor left. Some items are always on
their way, and the points are in such an order that an item gets on for a while between two kills.
At the end every item is done, no program was started twice, and every message was sent, in order.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlmodel import col, select

from quarterdeck.board.cards import Draft, ProjectDraft, Wanted
from quarterdeck.board.model import State, WorkItem
from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.house import House
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.journal import Delivery, Event, OutboxMessage
from tests.fakes.forking import Forks
from tests.fakes.repositories import make_repository
from tests.services.one_prefect.conftest import RunningPrefect

pytestmark = [pytest.mark.services, pytest.mark.timeout(1500)]

OWNER = owner("test")
DESK = "tests.fakes.desk_process"
DIES_WITHIN = 300.0
DONE_WITHIN = 600.0
ON_THEIR_WAY = 2
"""Items that a desk has at hand when it dies."""
APART = 3
"""How many points of an item's way lie between one kill and the next."""
SLOW, SLOWER = 1, 4
"""Seconds that CI takes: so long that items wait for it, and that the first does on any machine."""
RENEWAL = "renew claim"
BY_CHANCE = (RENEWAL, "free CI runs")
"""Commands that only something slow needs (see the test below), or a desk that is closed during CI."""
TWICE = ("claim", "open run", "start run", "end run", "decide advance")
"""Commands whose second time is in another stage, and worth another kill."""


@pytest.fixture
def desks(client_of_prefect: RunningPrefect) -> Iterator[Forks]:
    """Desks that begin at once, and find their deployments."""
    client_of_prefect.must_be_set_up("core", "prefect")
    with (client_of_prefect.settings.folder / "desks.log").open("ab") as log:
        forks = Forks(client_of_prefect.environment, log)
        yield forks
        forks.close()


@pytest.fixture
async def approver(house: House) -> AsyncIterator[None]:
    """Somebody who approves whatever asks for it, as soon as the desk has made a form of it.

    Earlier there would be no form to make, and its crash points would not be reached.
    """

    async def approve() -> None:
        while True:
            for card in (await house.board.items(Wanted(state=(State.WAITING_APPROVAL,)))).items:
                asked = await house.engine.approval_of(card.key)
                if asked is None or not asked.flow_run:
                    continue
                with suppress(Conflict):
                    await house.engine.decide(card.key, OWNER, approved=True)
            await asyncio.sleep(0.25)

    approving = asyncio.create_task(approve())
    yield
    approving.cancel()


async def file(house: House, folder: Path, number: int, ci: int = SLOW) -> str:
    """An item of a project of its own, whose repository nobody has seen yet, and whose CI takes so long."""
    project, repository = f"P{number:02d}", folder / f"sample-{number}"
    tested = {".quarterdeck.yaml": f"test: sleep {ci} && python3 -m unittest\n"}
    await asyncio.to_thread(make_repository, repository, tested)
    draft = ProjectDraft(key=project, name=f"Project {number}", repository=str(repository))
    await house.board.create_project(OWNER, draft)
    return (await house.board.file(OWNER, Draft(project=project, title="Greet"))).key


@asynccontextmanager
async def items_on_their_way(house: House, folder: Path) -> AsyncIterator[list[str]]:
    """As many as there should be, whatever becomes of them: each that is done is followed by another."""
    keys: list[str] = []
    enough = asyncio.Event()

    async def supply() -> None:
        while not enough.is_set():
            done = [card.key for card in (await house.board.items(Wanted(state=(State.DONE,)))).items]
            for _ in range(ON_THEIR_WAY - len(set(keys) - set(done))):
                keys.append(await file(house, folder, len(keys) + 1))
            await asyncio.sleep(0.25)

    supplying = asyncio.create_task(supply())
    try:
        yield keys
    finally:
        enough.set()
        await supplying


async def all_done(house: House, keys: list[str]) -> None:
    """Wait until the items are done and everything is told."""
    give_up = time.monotonic() + DONE_WITHIN
    while left := await what_is_left(house, keys):
        assert time.monotonic() < give_up, left
        await asyncio.sleep(0.2)


async def what_is_left(house: House, keys: list[str]) -> list[str]:
    """Items that are not done, messages that are not sent; none of these items may be blocked.

    Items are looked at first: what an item has to tell is there by the time it is done.
    """
    async with house.database.read() as session:
        items = (await session.exec(select(WorkItem).where(col(WorkItem.key).in_(keys)))).all()
        unsent = select(OutboxMessage).where(col(OutboxMessage.state) != Delivery.SENT)
        messages = (await session.exec(unsent)).all()
    assert not {item.key: item.move for item in items if item.state is State.BLOCKED}
    going_on = [f"{item.key} {item.stage} {item.state}" for item in items if item.state is not State.DONE]
    return going_on + [f"{message.item_key} {message.kind} {message.state}" for message in messages]


async def story(house: House, key: str) -> list[str]:
    """What happened to an item. CI is left out: it speaks to the item only if that waits already."""
    async with house.database.read() as session:
        mine = (col(Event.item_key) == key, col(Event.kind) != "ci_finished")
        wanted = select(Event).where(*mine).order_by(col(Event.id))
        events = (await session.exec(wanted)).all()
    return [f"{event.kind} {event.data.get('agent') or event.data.get('gate') or ''}" for event in events]


async def points_on_the_way(house: House, desks: Forks, key: str, passed: Path) -> list[str]:
    """All points that an item passes, each once, in the order in which they are best tried."""
    async with desks.begin(DESK, QUARTERDECK_CRASH_LOG=str(passed)):
        await all_done(house, [key])
    points = [p for p in dict.fromkeys(passed.read_text().splitlines()) if not p.endswith(BY_CHANCE)]
    must = ("before agent start", "after agent start", "before record check_merged", "after decide wait")
    assert set(must) <= set(points)
    points += [f"{when} {command}#2" for command in TWICE for when in ("before", "after")]
    return [point for first in range(APART) for point in points[first::APART]]


async def kill(desks: Forks, point: str) -> None:
    async with desks.begin(DESK, QUARTERDECK_CRASH_AT=point) as armed:
        done, _ = await asyncio.wait([armed.ended], timeout=DIES_WITHIN)
        assert done, f"{point!r} was never reached"
    code = armed.ended.result().code
    assert code == -signal.SIGKILL, f"{point!r}: the desk ended with {code}"


async def test_a_desk_killed_at_any_point_loses_nothing_and_does_nothing_twice(
    client_of_prefect: RunningPrefect, house: House, approver: None, desks: Forks, tmp_path: Path
) -> None:
    home = client_of_prefect.settings.folder
    model = await file(house, tmp_path, 0, SLOWER)
    points = await points_on_the_way(house, desks, model, home / "points")
    async with items_on_their_way(house, tmp_path) as keys:
        for point in points:
            await kill(desks, point)
            print(f"killed at {point!r}, with {keys[-ON_THEIR_WAY:]} on their way")
    async with desks.begin(DESK):
        await all_done(house, keys)

    expected = await story(house, model)
    for key in keys:
        assert await story(house, key) == expected, key
    await _nothing_was_started_twice(house, home)
    await _messages_are_complete_and_in_order(house)
    print(f"{len(points)} crash points, {len(keys)} items done")


async def test_a_desk_killed_when_it_holds_on_to_a_slow_agent_starts_it_once(
    client_of_prefect: RunningPrefect, house: House, approver: None, desks: Forks, tmp_path: Path
) -> None:
    home = client_of_prefect.settings.folder
    held = home / "starts.held"
    held.touch()
    key = await file(house, tmp_path, 99)
    for when in ("before", "after"):
        await kill(desks, f"{when} {RENEWAL}")
    held.unlink()
    async with desks.begin(DESK):
        await all_done(house, [key])
    await _nothing_was_started_twice(house, home)


async def _nothing_was_started_twice(house: House, home: Path) -> None:
    starts = (home / "starts").read_text().splitlines()
    assert len(starts) == len(set(starts))
    async with house.database.read() as session:
        runs = (await session.exec(select(AgentRun))).all()
    assert {f"{run.item_key} {run.stage} {run.round}" for run in runs} == set(starts)
    assert len(runs) == len(starts)
    assert all(run.state is RunState.ENDED and run.exit_code == 0 for run in runs)


async def _messages_are_complete_and_in_order(house: House) -> None:
    async with house.database.read() as session:
        messages = (await session.exec(select(OutboxMessage).order_by(col(OutboxMessage.id)))).all()
        told = {message.event_id for message in messages}
        events = (await session.exec(select(Event))).all()
    kinds = {message.kind for message in messages}
    untold = [(e.item_key, e.kind) for e in events if e.kind in kinds and e.id not in told]
    assert not untold, "events whose message was lost"
    assert len(told) == len(messages), "one message per event"
    for key in {message.item_key for message in messages}:
        times = [message.sent_at for message in messages if message.item_key == key]
        assert times == sorted(filter(None, times)), f"the messages of {key} are out of order"
