"""An issue's way from Plane to done, with real agents, git and CI; only Prefect is left out.

Deliveries go through the door and the inbox, each twice and in no order; of one kind a time the first is
lost, and looking finds what it would have told.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from quarterdeck.board.cards import ProjectDraft, Wanted
from quarterdeck.board.model import State
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source
from quarterdeck.pipeline.doors import Ring
from quarterdeck.pipeline.mirror_sweep import sweep
from tests.fakes.plane import FakePlane
from tests.fakes.plane_hooks import Hook
from tests.fakes.quiet_desk import OWNER, OpenDesk, QuietDesk, Surroundings


class Post:
    """Between Plane and the desk: everything twice, shuffled; the first of one kind never arrives."""

    def __init__(self, plane: FakePlane, house: House, seed: int, lost: str) -> None:
        self._plane = plane
        self._house = house
        self._chance = Random(seed)
        self._lost = lost
        self._seen = 0

    async def bring(self) -> None:
        """What Plane told since the last time; then look for what was lost."""
        hooks = [hook for hook in self._plane.hooks[self._seen :] if not self._is_lost(hook)]
        self._seen = len(self._plane.hooks)
        twice = hooks * 2
        self._chance.shuffle(twice)
        fresh = [await self._ring(hook) for hook in twice]
        assert fresh.count(True) == len(hooks)
        await self._house.deliveries.work_off()
        await sweep(self._house.mirror)
        self._plane.rest()
        await self._house.posts.work_off()

    async def _ring(self, hook: Hook) -> bool:
        headers = {name.lower(): value for name, value in hook.headers.items()}
        return await self._house.deliveries.receive("plane", Ring(headers, hook.body, datetime.now(UTC)))

    def _is_lost(self, hook: Hook) -> bool:
        if hook.about == self._lost:
            self._lost = ""
            return True
        return False


@pytest.fixture
def plane() -> Iterator[FakePlane]:
    with FakePlane() as plane:
        yield plane


@pytest.fixture
async def desk(
    plane: FakePlane, surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> AsyncIterator[QuietDesk]:
    anna = plane.books.person("anna")
    surroundings.crew["people"] = [{"slug": "anna", "may_approve": True, "handles": {"plane": anna}}]
    desk = await open_desk()
    async with desk.house.database.command("connect") as unit:
        await desk.house.connections.put(unit, "plane", "default", plane.connection, Source.API)
    draft = ProjectDraft(key="ET", name="Enduro", repository=str(sample))
    await desk.house.board.create_project(OWNER, draft)
    plane.books.project("ORC")
    await desk.house.mirror.link(OWNER, "ET", "ORC")
    yield desk


@pytest.mark.parametrize(
    ("seed", "lost"),
    [
        (0, "nothing"),
        pytest.param(1, "issue created", marks=pytest.mark.services),
        pytest.param(2, "issue updated", marks=pytest.mark.services),
        (3, "issue_comment created"),
    ],
)
async def test_an_issue_becomes_an_item_is_approved_by_comment_and_ends_done(
    desk: QuietDesk, plane: FakePlane, seed: int, lost: str
) -> None:
    post, books = Post(plane, desk.house, seed, lost), plane.books
    [project] = books.projects
    anna = next(i for i, person in books.people.items() if person["display_name"] == "anna")
    issue = books.file(project, anna, "Greet the user", description_html="<p>By name</p>")
    books.change(issue, anna, name="Greet the user by name", priority="high")
    await post.bring()
    assert (await desk.rest("ET-001")).state is State.WAITING_APPROVAL
    await post.bring()
    assert plane.state(issue) == "In Progress"
    assert [text for text in plane.comments(issue) if ":approved:" in text]
    books.say(issue, anna, "<p>Looks right <b>:approved:</b></p>")
    await post.bring()
    card = await desk.rest("ET-001")
    assert (card.state, card.title, card.priority.value) == (State.DONE, "Greet the user by name", "high")
    await post.bring()
    assert plane.state(issue) == "Done"
    assert [card.key for card in (await desk.house.board.items(Wanted())).items] == ["ET-001"]
    assert len(plane.comments(issue)) == 2  # the question and anna's answer: nothing was said twice
    approval = await desk.house.engine.approval_of("ET-001")
    assert approval
    assert (approval.decided_by, approval.door) == ("anna", "plane")
