"""What heartbeats may do with items of the board: the engine's moves that are asked for from outside.

It answers `heartbeat.sources.own_board.Items`, without either room knowing the other.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from quarterdeck.board import store as board_store
from quarterdeck.board.cards import Card, Wanted
from quarterdeck.board.model import FINAL, State, WorkItem
from quarterdeck.board.service import Board
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict
from quarterdeck.pipeline import rules, store, transitions
from quarterdeck.pipeline.definition import Pipeline
from quarterdeck.pipeline.service import Engine

BY = "heartbeat"
PAGE = 200


class BoardItems:
    """Items as heartbeats see and move them."""

    def __init__(self, database: Database, board: Board, engine: Engine) -> None:
        self._database = database
        self._board = board
        self._engine = engine
        self._pipelines: Mapping[str, Pipeline] = {}

    async def unfinished(self) -> Sequence[Card]:
        """All items that are neither done nor cancelled."""
        self._pipelines = await self._engine.pipelines.load()
        wanted = Wanted(state=tuple(state for state in State if state not in FINAL))
        found: list[Card] = []
        after: str | None = None
        while True:
            page = await self._board.items(wanted, after, PAGE)
            found += page.items
            if (after := page.next_cursor) is None:
                return found

    async def item(self, key: str) -> Card:
        self._pipelines = await self._engine.pipelines.load()
        return await self._board.item(key)

    async def worker(self, card: Card) -> str | None:
        """The agent of the stage it stands in; where the engine itself works, or none does, its assignee.

        By its pipeline as it was when the card was read.
        """
        pipeline = self._pipelines.get(card.pipeline)
        stage = pipeline.stage(card.stage) if pipeline else None
        return stage.agent if stage and not stage.is_engine else card.assignee

    async def states(self, keys: Sequence[str]) -> dict[str, State]:
        """Where these items stand."""
        async with self._database.read() as session:
            return await board_store.states_of(session, keys)

    async def filed_since(self, moment: datetime) -> Sequence[str]:
        """The titles of unfinished items that were filed since; not of adopted ones."""
        async with self._database.read() as session:
            return await board_store.titles_since(session, moment)

    async def take_up(self, key: str) -> None:
        """Have a queued item looked at now; one that runs is left alone."""
        async with self._database.command("take up item") as unit:
            item = await store.item_for_update(unit.session, key)
            if item.state is State.RUNNING:
                return
            if item.state is not State.QUEUED:
                raise _not_now(item)
            if item.wake_at is not None:
                item.wake_at = None
                transitions.touch(unit, item)
            unit.wake("items", key)

    async def remark(self, key: str, text: str) -> None:
        """Keep a remark in the item's history."""
        async with self._database.command("remark on item") as unit:
            item = await store.item_for_update(unit.session, key)
            _say(unit, item, text)

    async def give_back(self, key: str, why: str) -> None:
        """Another round of the stage it stands in; whoever is at work on it is stopped by the desk."""
        async with self._database.command("give item back") as unit:
            item = await store.item_for_update(unit.session, key)
            if item.state is State.QUEUED:
                return
            if item.state is not State.RUNNING:
                raise _not_now(item)
            _say(unit, item, why)
            await transitions.put(unit, item, rules.Standing(item.stage, State.QUEUED, item.spent, why))

    async def reopen(self, key: str, why: str) -> None:
        """Another try of the stage where it is blocked; what goes on, or is about to, is left alone."""
        async with self._database.command("reopen item") as unit:
            item = await store.item_for_update(unit.session, key)
            if item.state in (State.QUEUED, State.RUNNING):
                return
            if item.state is not State.BLOCKED:
                raise _not_now(item)
            _, stage = await self._engine.pipelines.way_of(unit.session, item)
            await transitions.put(unit, item, rules.retried(transitions.standing(item), stage, why))
            unit.record("item_retried", item=key, by=BY, stage=item.stage, comment=why)

    async def block(self, key: str, why: str) -> None:
        """Stop here until a person retries it."""
        async with self._database.command("block item") as unit:
            item = await store.item_for_update(unit.session, key)
            if item.state is State.BLOCKED:
                return
            if item.state in FINAL or item.state is State.WAITING_APPROVAL:
                raise _not_now(item)
            transitions.block(unit, item, rules.Block(why, "See what holds it up; then retry."))

    async def done_elsewhere(self, key: str, result: str, *, is_reviewed: bool) -> None:
        """The same work was finished in another place.

        Reviewed = it is done here too. Else a person looks at it. What runs ends by its own pipeline.
        """
        async with self._database.command("finish item from elsewhere") as unit:
            item = await store.item_for_update(unit.session, key)
            if item.state in FINAL:
                return
            _say(unit, item, result)
            if item.state in (State.RUNNING, State.WAITING_GATE, State.WAITING_APPROVAL):
                return
            if is_reviewed:
                done = rules.Standing(item.stage, State.DONE, item.spent, item.note)
                await transitions.put(unit, item, done)
                unit.record("item_done", item=key)
            elif item.state is not State.BLOCKED:
                why = f"The same work was finished elsewhere: {result}"
                transitions.block(unit, item, rules.Block(why, "Look at the result; then cancel or retry."))


def _say(unit: Unit, item: WorkItem, text: str) -> None:
    unit.record("item_remarked", item=item.key, by=BY, comment=text)


def _not_now(item: WorkItem) -> Conflict:
    return Conflict(
        f"{item.key} is {item.state.value}: nothing of the kind can be done now.",
        "Wait for the person or the pipeline that has it.",
        code="other_state",
    )
