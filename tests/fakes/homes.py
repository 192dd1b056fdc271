"""A furnished home: a house with a roster and a pipeline, ready to work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quarterdeck.crew.roster import read_roster
from quarterdeck.house import House, opened
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings

ROSTER = """
agents:
  - {slug: analyst, parameters: {program: "true"}}
  - {slug: developer, parameters: {program: "true"}}
people:
  - {slug: anna, role: member, may_approve: true, token_env: ANNA_TOKEN}
  - {slug: vera, role: viewer, token_env: VERA_TOKEN}
"""
TOKENS = {"ANNA_TOKEN": "anna-token", "VERA_TOKEN": "vera-token"}


@asynccontextmanager
async def furnished(
    database: Database, settings: Settings, *, pipeline: str, roster: str = ROSTER
) -> AsyncIterator[House]:
    """The house on a test's own database, after the imports that `setup` would do."""
    settings.pipelines_folder.mkdir(parents=True)
    (settings.pipelines_folder / "default.yaml").write_text(pipeline, encoding="utf-8")
    settings.crew_file.write_text(roster, encoding="utf-8")
    async with opened(House(settings, database)) as house:
        crew = read_roster(settings.crew_file)
        await house.crew.import_roster(crew, TOKENS)
        await house.engine.pipelines.import_from(settings.pipelines_folder, [a.slug for a in crew.agents])
        yield house
