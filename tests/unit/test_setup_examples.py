"""The examples lie where the roster looks for them, wherever the roster is."""

import os
from pathlib import Path

import pytest

from deployments.setup import place_examples
from quarterdeck.crew.roster import read_roster
from quarterdeck.kernel.settings import Settings


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("crew", [None, "~/etc/crew.yaml", "{tmp}/elsewhere/company.yaml"])
def test_every_agent_of_the_first_roster_can_be_launched(tmp_path: Path, crew: str | None) -> None:
    place = Path(crew.format(tmp=tmp_path)) if crew else None
    settings = Settings(home=tmp_path / "home", crew=place)
    assert place_examples(settings).outcome == "done"
    assert tmp_path in settings.crew_file.parents
    programs = [Path(agent.parameters["program"]) for agent in read_roster(settings.crew_file).agents]
    assert programs and all(os.access(program, os.X_OK) for program in programs), programs
    assert (settings.pipelines_folder / "default.yaml").exists()
    assert place_examples(settings).outcome == "already"
