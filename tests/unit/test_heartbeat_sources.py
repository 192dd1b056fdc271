"""What the protocol of sources promises, over every source there is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.heartbeat.work import Found, Ref, Status
from quarterdeck.house import House
from quarterdeck.kernel.errors import QuarterdeckError
from quarterdeck.kernel.identity import owner
from quarterdeck.kernel.settings import Settings
from tests.fakes.clock import ManualClock
from tests.fakes.company import company
from tests.fakes.installed import multica_books
from tests.fakes.work_places import PLACES, MulticaPlace, Place, PlanePlace


def test_settings_of_sources_have_defaults_that_spare_the_outside() -> None:
    settings = Settings()
    assert (settings.source_fresh, settings.source_spacing) == (60, 1)


@pytest.fixture
async def house(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("QUARTERDECK_SOURCE_SPACING", "0")
    async with company(tmp_path / "home", database_url) as house:
        yield house


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, house: House, tmp_path: Path) -> AsyncIterator[Place]:
    async with PLACES[request.param](house, tmp_path / "places") as place:
        yield place


async def seen(place: Place) -> dict[Ref, Found]:
    answer = await place.source.look(place.agents)
    assert answer.trouble is None, answer.detail
    assert not answer.is_cached
    return {found.ref: found for found in answer.found}


async def status(place: Place, ref: Ref) -> Status:
    found = await place.source.read(ref)
    assert found is not None
    return found.status


async def test_one_look_tells_the_work_of_all_agents(place: Place) -> None:
    mine, others = await place.put("Renew the certificate"), await place.put("Review it", "reviewer")
    found = await seen(place)
    assert (found[mine].title, found[mine].agent, found[mine].status) == (
        "Renew the certificate", "developer", Status.TODO,
    )  # fmt: skip
    assert found[others].agent == "reviewer"
    assert found[mine].shown and found[mine].ref.source == place.source.name


async def test_the_work_of_agents_that_were_not_asked_for_is_left_out(place: Place) -> None:
    mine, others = await place.put("Renew the certificate"), await place.put("Review it", "reviewer")
    answer = await place.source.look(place.agents[:1])
    assert [f.ref for f in answer.found if f.ref in (mine, others)] == [mine]
    if others.source not in ("board", "documents"):  # those have no work of strangers
        assert [f.ref for f in answer.strange] == [others]


async def test_work_that_is_there_no_more_is_nothing(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    gone = {"documents": "developer:TODO.md:0000000000000000", "board": "ET-999"}
    plane = f"{ref.id.partition('/')[0]}/99999999-9999-4999-8999-999999999999"
    other = gone.get(ref.source) or (
        plane if ref.source == "plane" else "99999999-9999-4999-8999-999999999999"
    )
    assert await place.source.read(Ref(ref.source, other)) is None


async def test_finished_work_is_told_no_more_and_its_result_stands_with_it(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    await place.source.finish(ref, "It is renewed.", is_reviewed=True)
    await place.source.finish(ref, "It is renewed.", is_reviewed=True)  # may be repeated
    assert ref not in await seen(place)
    assert any("It is renewed." in said for said in await place.comments(ref))
    found = await place.source.read(ref)
    assert found is None or found.status is Status.DONE


async def test_work_that_somebody_must_look_at_is_not_done_and_not_to_do(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    await place.source.start(ref, "developer")
    await place.source.finish(ref, "Please look.", is_reviewed=False)
    assert await status(place, ref) not in (Status.DONE, Status.TODO)


async def test_work_that_was_done_elsewhere_is_not_to_do_here_any_more(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    await place.source.finish(ref, "It was done as multica:ENG-1.", is_reviewed=False)
    assert await status(place, ref) not in (Status.DONE, Status.TODO)


async def test_blocked_work_says_why_and_is_taken_by_nobody(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    for _ in range(2):
        await place.source.block(ref, "It stood still for an hour.")
    assert await status(place, ref) in (Status.BLOCKED, Status.OTHER)
    if ref.source != "board":  # there the item itself says why
        assert any("It stood still for an hour." in said for said in await place.comments(ref))


async def test_a_remark_stands_with_the_work(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    await place.source.comment(ref, "Half of it is done.")
    assert any("Half of it is done." in said for said in await place.comments(ref))


@pytest.mark.parametrize("name", ["multica_cli", "plane"])
async def test_what_somebody_else_says_is_a_sign_of_life_and_what_we_say_is_none(
    house: House, tmp_path: Path, name: str
) -> None:
    async with PLACES[name](house, tmp_path / "places") as place:
        ref = await place.put("Renew the certificate")
        await place.source.start(ref, "developer")
        begun = await place.source.read(ref)
        await place.source.comment(ref, "No progress for 46 minutes.")
        await place.source.note_rounds(ref, 3)
        ours = await place.source.read(ref)
        say(place, ref, "Half of it is done.")
        theirs = await place.source.read(ref)
        assert begun and begun.updated_at and ours and theirs and theirs.updated_at
        assert (ours.updated_at, theirs.updated_at > begun.updated_at) == (begun.updated_at, True)


def say(place: Place, ref: Ref, text: str) -> None:
    """Whoever works on it tells how far it is."""
    if isinstance(place, PlanePlace):
        place.plane.books.say(ref.id.partition("/")[2], place.plane.books.person("anna"), text)
    elif isinstance(place, MulticaPlace):
        place.multica.change(lambda state: multica_books.comment(state, ref.id, text))


async def test_the_number_of_rounds_is_kept_in_place_of_the_former(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    for rounds in (3, 4, 12):
        await place.source.note_rounds(ref, rounds)
    found = await place.source.read(ref)
    assert found is not None and found.rounds == 12


async def test_what_was_started_is_in_progress_and_can_be_given_back(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    await place.source.start(ref, "developer")
    await place.source.start(ref, "developer")
    if ref.source != "board":  # there the desk itself takes it up
        assert await status(place, ref) is Status.IN_PROGRESS
    await place.source.release(ref, "Its agent was silent.")
    expected = Status.BLOCKED if ref.source == "workboard" else Status.TODO
    assert await status(place, ref) is expected


async def test_a_change_is_seen_by_the_next_look(place: Place) -> None:
    ref = await place.put("Renew the certificate")
    assert (await seen(place))[ref].status is Status.TODO
    await place.source.block(ref, "Hopeless.")
    found = (await seen(place)).get(ref)
    assert found is None or found.status in (Status.BLOCKED, Status.OTHER)


async def test_our_own_board_tells_at_once_what_was_filed_since(house: House, tmp_path: Path) -> None:
    async with PLACES["board"](house, tmp_path / "places") as place:
        await place.put("Before")
        since = house.database.clock.now()
        await place.put("Renew the certificate")
        done = await place.put("Done by now")
        await house.engine.cancel(done.id, owner("test"))
        assert await house.sources.board.filed_since(since) == ["Renew the certificate"]


async def test_the_oldest_work_of_a_large_plane_project_is_found_and_read_whole(
    house: House, tmp_path: Path
) -> None:
    async with PLACES["plane"](house, tmp_path / "places") as place:
        assert isinstance(place, PlanePlace)
        books, ref = place.plane.books, await place.put("Renew the certificate")
        anna, done = books.person("anna"), books.state_named(place.project, "Done")
        books.issues[ref.id.partition("/")[2]]["description_html"] = "<p>By hand</p>"
        for number in range(1001):
            books.file(place.project, anna, f"Number {number}", state=done)
        assert list(await seen(place)) == [ref]
        found = await place.source.read(ref)
        assert found is not None and found.description == "By hand"
        assert place.plane.count("GET", "work-items/") == 3


async def test_projects_for_which_a_minutes_requests_do_not_suffice_have_their_turn_at_the_next_look(
    house: House, tmp_path: Path
) -> None:
    async with PLACES["plane"](house, tmp_path / "places") as place:
        assert isinstance(place, PlanePlace)
        place.plane.most_per_page, house.database.clock = 100, (clock := ManualClock())
        refs = []
        for _ in range(3):
            place.project = ""
            refs.append(await place.put("Renew the certificate"))
            done = place.plane.books.state_named(place.project, "Done")
            for number in range(1500):
                place.plane.books.file(place.project, place.plane.bot, f"Number {number}", state=done)
        looks = []
        for _ in range(2):
            answer = await place.source.look(place.agents)
            looks.append((answer.trouble, {found.ref for found in answer.found}))
            clock.go(120)
            place.plane.rest()
        assert {trouble for trouble, _ in looks} == {"too large"}
        assert looks[0][1] | looks[1][1] == set(refs)


@pytest.mark.parametrize("name", ["workboard", "multica", "plane"])
async def test_a_source_that_nobody_connected_is_not_an_empty_one(house: House, name: str) -> None:
    source = {s.name: s for s in house.sources.all}[name]
    answer = await source.look(())
    assert answer.trouble == "not configured" and answer.detail and not answer.found
    with pytest.raises(QuarterdeckError):
        await source.start(Ref(name, "a/b"), "developer")
