"""Work is called as people were shown it: by its number, its item, or the beginning of its id."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import select

from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.naming import named
from quarterdeck.heartbeat.work import Status
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Invalid, NotFound
from quarterdeck.kernel.journal import Event
from tests.fakes.surroundings import OWNER
from tests.fakes.watch import Watch

UUID = "9f0c2d1e-4b6a-4c1d-8e55-0a1b2c3d4e5f"
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def work(ref: str, *names: str, title: str = "", is_done: bool = False) -> Work:
    facts = {"title": title, "told": {"names": list(names)}, "finished_at": NOW if is_done else None}
    return Work(source="multica", ref=ref, agent="developer", updated_at=NOW, **facts)


@pytest.mark.parametrize("name", [f"multica:{UUID}", "multica:ENG-12", "eng-12", "multica:9f0c", "9f0c2d1e"])
def test_work_is_found_by_every_name_that_people_see(name: str) -> None:
    rows = [work(UUID, "multica:ENG-12"), work("9aaa", "multica:ENG-1")]
    assert named(rows, name).ref == UUID


def test_a_name_that_moved_on_to_other_work_means_the_work_that_has_it_now() -> None:
    rows = [work("a1", "multica:TODO.md:8", "multica:TODO.md:7"), work("a2", "multica:TODO.md:7")]
    assert named(rows, "TODO.md:7").ref == "a2"
    assert named(rows, "multica:TODO.md:8").ref == "a1"


def test_where_several_may_be_meant_they_are_named_and_what_is_open_comes_first() -> None:
    rows = [work("abcd1", "multica:ENG-1"), work("abcd2", "multica:ENG-1")]
    with pytest.raises(Invalid, match="may be several") as told:
        named(rows, "ENG-1")
    assert "abcd1" in told.value.instruction
    rows[0].finished_at = NOW
    assert named(rows, "ENG-1").ref == "abcd2"


def test_of_unknown_work_the_newest_is_named_with_its_title() -> None:
    rows = [work(f"id{n}", f"multica:ENG-{n}", is_done=True) for n in range(40)]
    rows.append(work(UUID, "multica:ENG-99", title="Pay the invoice"))
    with pytest.raises(NotFound) as told:
        named(rows, "abc")
    assert "multica:ENG-99 «Pay the invoice»" in told.value.instruction


async def test_what_waits_for_a_yes_is_listed_told_with_its_name_and_allowed_by_it(
    database: Database, tmp_path: Path
) -> None:
    watch = Watch(database, tmp_path)
    await watch.enrol()
    watch.multica.put(UUID, "Pay the invoice", shown="ENG-12", labels=("money",))
    watch.multica.put("gone", shown="ENG-13", labels=("money",))
    await watch.sweep()
    watch.multica.change("gone", status=Status.CANCELLED)
    await watch.sweep()
    [card] = [c for c in await watch.sweeper.overview() if c.agent == "developer"]
    assert [(w.name, w.title) for w in card.waiting] == [("multica:ENG-12", "Pay the invoice")]
    async with database.read() as session:
        events = (await session.exec(select(Event).where(Event.kind == "work_needs_approval"))).all()
    assert {e.data["name"] for e in events} == {"multica:ENG-12", "multica:ENG-13"}
    await watch.sweeper.allow(OWNER, "developer", "multica:ENG-12")
    assert (await watch.sweep()).started == 1
    [card] = [c for c in await watch.sweeper.overview() if c.agent == "developer"]
    assert card.waiting == []
