"""What setup takes from files: all that belongs together, or nothing."""

import json
from pathlib import Path

import pytest

from deployments.setup import Step, set_up_core
from quarterdeck.board.cards import Draft, ProjectChanges, ProjectDraft
from quarterdeck.house import House
from quarterdeck.kernel.errors import Misconfigured
from tests.fakes.company import company
from tests.fakes.stage_work import OWNER

PIPELINE = """name: default
stages:
  - name: analysis
    agent: analyst
"""


async def test_a_roster_without_an_agent_that_a_pipeline_needs_is_refused_whole(
    tmp_path: Path, database_url: str
) -> None:
    async with company(tmp_path, database_url) as house:
        settings = house.settings
        settings.pipelines_folder.mkdir(parents=True, exist_ok=True)
        (settings.pipelines_folder / "default.yaml").write_text(PIPELINE)
        settings.crew_file.write_text("agents:\n  - slug: somebody\n    parameters: {program: sh}\n")
        before = await slugs(house)
        with pytest.raises(Misconfigured, match="needs the agent 'analyst', who is not in the roster"):
            await applied(house)
        assert await slugs(house) == before
        settings.crew_file.write_text("agents:\n  - slug: analyst\n    parameters: {program: sh}\n")
        await applied(house)
        assert await slugs(house) == ["analyst"]


async def test_a_roster_that_was_lost_is_not_replaced_by_the_shipped_one(
    tmp_path: Path, database_url: str
) -> None:
    async with company(tmp_path, database_url) as house:
        ours = await slugs(house)
        house.settings.crew_file.unlink(missing_ok=True)
        await applied(house)
        assert await slugs(house) == ours
        assert not house.settings.crew_file.exists()


async def test_notifications_that_differ_are_told_and_wrong_ones_are_refused_before_anything_is_taken(
    tmp_path: Path, database_url: str
) -> None:
    async with company(tmp_path, database_url) as house:
        agents = "agents:\n  - slug: analyst\n    parameters: {program: sh}\n"
        house.settings.pipelines_folder.mkdir(parents=True, exist_ok=True)
        (house.settings.pipelines_folder / "default.yaml").write_text(PIPELINE)
        house.settings.crew_file.write_text(agents + "notifications:\n  - channel: pigeon\n")
        before = await slugs(house)
        with pytest.raises(Misconfigured, match=r"crew\.yaml:5: .*there is no channel 'pigeon'"):
            await applied(house)
        assert await slugs(house) == before
        house.settings.crew_file.write_text(agents)
        await applied(house)
        assert await crew_step(house) == "already"
        house.settings.crew_file.write_text(agents + "notifications:\n  - channel: log\n")
        assert await crew_step(house) == "differs"
        assert await crew_step(house, apply=True) == "done"
        assert await crew_step(house) == "already"


async def crew_step(house: House, *, apply: bool = False) -> str:
    """What setup says of the crew."""
    return (await step_of(house, "crew", apply=apply)).outcome


async def step_of(house: House, name: str, *, apply: bool = False) -> Step:
    """What setup says of a part."""
    steps = [step async for step in set_up_core(house.settings, apply=apply)]
    return next(step for step in steps if step.name == name)


async def applied(house: House) -> None:
    """As `quarterdeck setup --apply` does."""
    async for _ in set_up_core(house.settings, apply=True):
        pass


async def slugs(house: House) -> list[str]:
    return sorted(agent.slug for agent in await house.crew.agents())


async def test_a_pipeline_whose_file_was_deleted_is_told_until_nobody_files_into_it_any_more(
    tmp_path: Path, database_url: str
) -> None:
    async with company(tmp_path, database_url) as house:
        settings = house.settings
        settings.pipelines_folder.mkdir(parents=True, exist_ok=True)
        for name in ("default", "old"):
            text = PIPELINE.replace("default", name)
            (settings.pipelines_folder / f"{name}.yaml").write_text(text)
        settings.crew_file.write_text("agents:\n  - slug: analyst\n    parameters: {program: sh}\n")
        await applied(house)
        await house.board.create_project(OWNER, ProjectDraft(key="OLD", name="Old", pipeline="old"))
        key = (await house.board.file(OWNER, Draft(project="OLD", title="Greet"))).key
        (settings.pipelines_folder / "old.yaml").unlink()
        for apply in (False, True):
            told = await step_of(house, "pipelines", apply=apply)
            assert told.outcome == "differs"
            assert "`quarterdeck project edit OLD --pipeline …`" in told.detail
        await house.board.edit_project(OWNER, "OLD", ProjectChanges(pipeline="default"))
        assert (await step_of(house, "pipelines")).outcome == "already"
        assert (await house.engine.claim(await house.engine.current(key))).stage.name == "analysis"


async def test_the_project_of_what_heartbeats_found_needs_no_pipeline_and_is_no_difference(
    tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "TODO.md").write_text("- [ ] Fix the login\n")
    async with company(tmp_path, database_url) as house:
        entry = {
            "slug": "analyst",
            "parameters": {"program": "true"},
            "heartbeat": {"category": "development", "workspace": str(tmp_path)},
        }
        house.settings.crew_file.write_text(json.dumps({"agents": [entry]}))
        folder = house.settings.pipelines_folder
        folder.mkdir(parents=True)
        (folder / "default.yaml").write_text(PIPELINE)
        await applied(house)
        assert (await house.sweeper.sweep("analyst")).started == 1
        assert (await house.board.project("HB")).key == "HB"
        assert (await step_of(house, "pipelines")).outcome == "already"
