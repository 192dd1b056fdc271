"""One item's way through all that the desk knows: Plane, OpenClaw, Gitea; only Prefect is left out.

Every delivery arrives twice, the first of each kind never. `tests/openclaw` sends the same item on the same
way past a real gateway.
"""

from pathlib import Path

from tests.fakes.openclaw import GATEWAY_TOKEN, HOOKS_TOKEN, FakeOpenClaw
from tests.fakes.plane import FakePlane
from tests.fakes.quiet_desk import OpenDesk, Surroundings
from tests.fakes.world import ANALYSIS, prepare, travel, world


async def test_an_issue_is_analysed_approved_developed_reviewed_merged_and_done(
    surroundings: Surroundings, open_desk: OpenDesk, tmp_path: Path
) -> None:
    with FakePlane() as plane:
        prepare(surroundings, plane)
        async with FakeOpenClaw() as gateway:
            gateway.says(ANALYSIS)
            secrets = {"url": gateway.url, "token": GATEWAY_TOKEN, "hooks_token": HOOKS_TOKEN}
            async with world(await open_desk(), tmp_path / "gitea", plane, secrets) as here:
                await travel(here)
                analysis, *_ = await here.desk.house.crew.runs_of("ET-001")
    assert (analysis.agent, analysis.runtime, analysis.stage) == ("analyst", "openclaw", "analysis")
    assert (analysis.exit_code, analysis.tokens, str(analysis.cost_usd)) == (0, 120, "0.00045")
    assert [turn.session for turn in gateway.turns] == ["agent:main:task:et-001"]
