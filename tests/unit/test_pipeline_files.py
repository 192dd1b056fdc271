"""Pipelines come from files, and count for everybody as soon as they are imported."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.model import OUTSIDE, Project, State
from quarterdeck.house import House
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, Misconfigured
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.service import Engine
from tests.fakes.homes import furnished
from tests.fakes.stage_work import OWNER, PIPELINE, filed, pass_stage, state, taken

SHORT = """
name: default
stages:
  - {name: development, agent: developer}
"""
AGENTS = ["analyst", "developer"]


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(database, Settings(home=tmp_path), pipeline=PIPELINE) as house:
        yield house


async def applied(house: House, pipeline: str) -> None:
    """What `setup --apply` does, in a process of its own."""
    folder = house.settings.pipelines_folder
    (folder / "default.yaml").write_text(pipeline)
    assert await Engine(house.database, house.crew).pipelines.import_from(folder, AGENTS) == ["default"]


async def test_a_pipeline_file_with_a_stage_without_a_known_agent_is_refused_with_its_line(
    house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    file = folder / "odd.yaml"
    file.write_text("name: odd\nstages:\n  - name: first\n    agent: nobody\n")
    with pytest.raises(Misconfigured, match=r"odd\.yaml:4.*nobody"):
        await house.engine.pipelines.import_from(folder, ["analyst"])
    file.write_text("name: odd\nstages:\n  - name: first\n    agent: analyst\n    gates: [check_moon]\n")
    with pytest.raises(Misconfigured, match=r"odd\.yaml:5"):
        await house.engine.pipelines.import_from(folder, ["analyst"])
    file.write_text("name: odd\nstages:\n  - name: first\n")
    with pytest.raises(Misconfigured, match=r"odd\.yaml:3.*agent"):
        await house.engine.pipelines.import_from(folder, ["analyst"])
    assert set(await house.engine.pipelines.load()) == {"default"}, "nothing was imported"


@pytest.mark.parametrize(
    ("gates", "why"),
    [
        ("[check_documents: [brd], check_documents: [report]]", "check_documents stands twice"),
        ("[check_documents]", "check_documents names no document"),
        ("[check_documents: []]", "check_documents names no document"),
        ("[check_pr_open: [brd]]", "check_pr_open takes no names"),
    ],
)
async def test_a_gate_that_would_never_ask_is_refused_with_its_line(
    house: House, tmp_path: Path, gates: str, why: str
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    file = folder / "odd.yaml"
    file.write_text(f"name: odd\nstages:\n  - name: first\n    agent: analyst\n    gates: {gates}\n")
    with pytest.raises(Misconfigured, match=rf"odd\.yaml:5.*{why}"):
        await house.engine.pipelines.import_from(folder, AGENTS)


async def test_importing_the_same_pipelines_again_changes_nothing(house: House, tmp_path: Path) -> None:
    folder, agents = tmp_path / "pipelines", ["analyst", "developer"]
    assert await house.engine.pipelines.import_from(folder, agents) == []
    file = folder / "default.yaml"
    file.write_text(PIPELINE.replace("rounds: 1", "rounds: 2"))
    assert await house.engine.pipelines.drift(folder, agents) == ["pipeline 'default': the file differs"]
    assert await house.engine.pipelines.import_from(folder, agents) == ["default"]


async def test_nothing_is_filed_where_the_work_of_other_sources_is_kept(house: House) -> None:
    async with house.database.command("find work") as unit:
        unit.session.add(Project(key="HB", name="Found", pipeline=OUTSIDE, created_at=unit.now))
    with pytest.raises(Conflict, match="heartbeats found elsewhere"):
        await house.board.file(OWNER, Draft(project="HB", title="Greet"))
    with pytest.raises(Conflict, match="heartbeats found elsewhere"):
        await house.board.create_project(OWNER, ProjectDraft(key="ODD", name="Odd", pipeline=OUTSIDE))


async def test_an_item_whose_stage_was_taken_away_becomes_a_persons_move(house: House) -> None:
    key = await filed(house)
    await applied(house, SHORT)
    with pytest.raises(Conflict, match="no longer has"):
        await taken(house, key)
    item = await state(house, key)
    assert item.state is State.BLOCKED
    assert item.move is not None
    assert item.move["why"] == "ET-001 stands in 'analysis', which pipeline 'default' no longer has."
    assert (
        "`quarterdeck item move ET-001 STAGE` puts it into one that is there: development."
        in (item.move["todo"])
    )
    with pytest.raises(Conflict, match="no longer has"):
        await house.engine.retry(key, OWNER)
    await applied(house, PIPELINE)
    await house.engine.retry(key, OWNER)
    assert (await taken(house, key)).stage.name == "analysis"


async def test_a_stage_that_is_held_is_left_to_its_holder_whatever_becomes_of_the_pipeline(
    house: House,
) -> None:
    key = await filed(house)
    await taken(house, key)
    await applied(house, SHORT)
    with pytest.raises(Conflict, match="already claimed"):
        await taken(house, key)
    assert (await state(house, key)).state is State.RUNNING


async def test_desks_that_are_open_see_a_changed_pipeline(house: House) -> None:
    await pass_stage(house, await filed(house))
    await applied(house, SHORT)
    key = await filed(house)
    assert (await taken(house, key)).stage.name == "development"
    await applied(house, SHORT.replace("agent: developer", "agent: developer, rounds: 7"))
    assert (await taken(house, await filed(house))).stage.rounds == 7
