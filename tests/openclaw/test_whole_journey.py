"""The item of `tests/flows/test_whole_journey.py`, its analysis by a turn of the real gateway.

make test-openclaw
"""

from pathlib import Path

import pytest

from tests.fakes.plane import FakePlane
from tests.fakes.quiet_desk import OpenDesk, Surroundings
from tests.fakes.world import ANALYSIS, prepare, travel, world
from tests.openclaw.gateway import chain

pytestmark = pytest.mark.timeout(400)


async def test_an_issue_travels_from_plane_past_the_real_gateway_and_gitea_to_done(
    surroundings: Surroundings, open_desk: OpenDesk, tmp_path: Path, database_url: str
) -> None:
    with FakePlane() as plane:
        prepare(surroundings, plane)
        desk = await open_desk()
        async with (
            chain(tmp_path, database_url, ANALYSIS) as real,
            world(desk, tmp_path / "gitea", plane, real.gateway.connection) as here,
        ):
            await travel(here)
            analysis, *others = await desk.house.crew.runs_of("ET-001")
        calls = real.provider.to("native-gpt")
    assert (analysis.runtime, analysis.stage, analysis.exit_code) == ("openclaw", "analysis", 0)
    assert analysis.tokens and analysis.cost_usd
    assert len(calls) == 1, "one turn, one call through our router"
    print(f"analysis: {analysis.seconds:.1f} s, {analysis.tokens} tokens, {analysis.cost_usd} USD")
    print(f"then {[f'{run.agent} {run.seconds:.1f} s' for run in others]}")
