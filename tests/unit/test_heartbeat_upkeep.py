"""What heartbeats need around them: HEARTBEAT.md, OpenClaw's automations, health, and looking now."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.checks import multica_can_be_asked, workboard_can_be_asked
from deployments.doctor import Patient
from quarterdeck.heartbeat import rendering
from quarterdeck.heartbeat.automations import Automations, Step
from quarterdeck.heartbeat.context import too_long
from quarterdeck.heartbeat.health import Checkup
from quarterdeck.heartbeat.roster import read_all
from quarterdeck.house import House
from quarterdeck.kernel.errors import Conflict, Misconfigured, NotFound
from tests.fakes.company import company
from tests.fakes.multica import FakeMultica
from tests.fakes.work_places import FakeOpenClaw, connect

ENTRY: dict[str, Any] = {"category": "development", "scheduler": "openclaw", "zone": "Asia/Shanghai"}


@pytest.fixture
async def house(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("QUARTERDECK_SOURCE_SPACING", "0")
    async with company(tmp_path / "home", database_url) as house:
        yield house


@pytest.fixture
async def openclaw(house: House, tmp_path: Path) -> FakeOpenClaw:
    fake = FakeOpenClaw(tmp_path / "openclaw")
    await connect(house, "openclaw_cli", fake.connection)
    return fake


async def brought_in_line(house: House, entries: dict[str, Any]) -> list[Step]:
    automations = Automations(house.sources.openclaw)
    planned = await automations.planned(read_all(entries))
    await automations.apply(planned)
    return [one.step for one in planned]


async def test_automations_follow_the_roster_and_doing_it_again_changes_nothing(
    house: House, openclaw: FakeOpenClaw
) -> None:
    entries = {"developer": ENTRY, "architect": ENTRY, "analyst": ENTRY | {"scheduler": "prefect"}}
    assert await brought_in_line(house, entries) == [Step.CREATE, Step.CREATE]
    assert await brought_in_line(house, entries) == [Step.KEEP, Step.KEEP]
    one, two = openclaw.jobs
    assert {one["agentId"], two["agentId"]} == {"developer", "architect"}, "Prefect wakes the analyst alone"
    assert one["schedule"]["tz"] == "Asia/Shanghai" and one["schedule"]["expr"] != two["schedule"]["expr"]
    assert (one["sessionTarget"], one["payload"]["kind"], one["delivery"]) == (
        "isolated", "agentTurn", {"mode": "none"},
    )  # fmt: skip
    assert (
        "quarterdeck heartbeat" in one["payload"]["message"] and "HEARTBEAT.md" in one["payload"]["message"]
    )


async def test_what_was_changed_is_mended_what_is_ours_is_removed_and_the_rest_left_alone(
    house: House, openclaw: FakeOpenClaw
) -> None:
    await brought_in_line(house, {"developer": ENTRY})

    def spoil(state: dict[str, Any]) -> None:
        [job] = (job for job in state["jobs"] if job.get("declarationKey"))
        job["enabled"], job["delivery"] = False, {"mode": "announce"}

    openclaw.change(spoil)
    assert await brought_in_line(house, {"developer": ENTRY}) == [Step.UPDATE]
    assert openclaw.jobs[0]["enabled"] and openclaw.jobs[0]["delivery"] == {"mode": "none"}
    assert await brought_in_line(house, {"developer": ENTRY | {"scheduler": "prefect"}}) == [Step.REMOVE]
    assert openclaw.jobs == []
    assert len(openclaw.change(lambda state: state["jobs"])) == 3, "those that OpenClaw brought along"


async def test_an_agent_that_openclaw_does_not_know_is_told_and_what_to_do(
    house: House, openclaw: FakeOpenClaw
) -> None:
    openclaw.set(agents=["main", "developer"])
    with pytest.raises(Conflict, match="agent is unavailable: architect") as refused:
        await brought_in_line(house, {"architect": ENTRY})
    assert "openclaw agents add" in refused.value.instruction and openclaw.jobs == []
    assert await brought_in_line(house, {"developer": ENTRY}) == [Step.CREATE]


@pytest.mark.parametrize("category", ["development", "business", "high-frequency"])
def test_heartbeat_md_is_below_5_kb_and_says_the_agents_own_numbers(category: str, tmp_path: Path) -> None:
    entry = {"category": category, "workspace": str(tmp_path), "checks": ["coding progress"] * 8}
    [one] = read_all({"developer": entry}).values()
    made = rendering.rendered(one)
    assert made.outcome is rendering.Outcome.WRITE
    rendering.write(made)
    text = (tmp_path / "HEARTBEAT.md").read_text()
    assert len(text.encode()) < 5 * 1024
    assert f"At most {one.limits.max_rounds} rounds" in text and "- coding progress" in text
    assert rendering.ADDITIONS[one.category] in text, "added to its own checks"
    assert rendering.rendered(one).outcome is rendering.Outcome.SAME
    assert too_long(str(tmp_path)) == []
    (tmp_path / "AGENTS.md").write_text("x" * 5 * 1024)
    assert too_long(str(tmp_path)) == ["AGENTS.md has 5120 bytes; it must stay below 5120."]


def test_checks_that_make_the_file_too_long_are_refused() -> None:
    [one] = read_all({"developer": {"category": "business", "checks": ["x" * 300] * 20}}).values()
    with pytest.raises(Misconfigured, match="must stay below 5120"):
        rendering.text_of(one)


async def test_health_tells_what_is_missing_and_calls_nobody(
    house: House, openclaw: FakeOpenClaw, tmp_path: Path
) -> None:
    checkup = Checkup(house.database, house.connections, house.sources)
    heartbeats = read_all({"developer": ENTRY})
    well = await checkup.look("developer", heartbeats)
    assert well.ok and well.programs["openclaw"]["path"] == str(openclaw.program)
    assert well.last_success is None and well.lock["held"] is False and well.cache_age["workboard"] is None
    await house.sources.workboard.look(())
    assert (await checkup.look("developer", heartbeats)).cache_age["workboard"] is not None
    await connect(house, "multica", {"via": "cli", "program": str(tmp_path / "nowhere"), "workspace_id": ""})
    ill = await checkup.look("developer", heartbeats)
    assert not ill.ok and "MULTICA_WORKSPACE_ID" in ill.workspace_id["detail"]
    assert len(openclaw.calls) == 1
    json.dumps(ill.programs)
    with pytest.raises(NotFound, match="developer"):
        await checkup.look("nobody", heartbeats)


async def test_the_doctor_looks_into_both(house: House, openclaw: FakeOpenClaw, tmp_path: Path) -> None:
    patient = Patient(house.settings, house)
    assert (await workboard_can_be_asked(patient)).verdict == "ok"
    assert (await multica_can_be_asked(patient)).verdict == "ok", "nobody connected it"
    with FakeMultica(tmp_path / "multica") as multica:
        await connect(house, "multica", multica.connection("cli") | {"token": "mul_wrong"})
        found = await multica_can_be_asked(patient)
        assert found.verdict == "fail" and found.fix
    openclaw.set(workboard=False)
    found = await workboard_can_be_asked(patient)
    assert found.verdict == "fail" and "openclaw plugins enable workboard" in found.detail
