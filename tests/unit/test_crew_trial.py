"""`quarterdeck agent test`: an agent is reached and asked, and what is wrong is told apart."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.crew.openclaw_runtime import OpenClawRuntime
from quarterdeck.crew.roster import AgentEntry
from quarterdeck.crew.runtime import Runtime
from quarterdeck.crew.service import Crew
from quarterdeck.crew.trial import Fault, Trial, try_agent
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.identity import owner
from tests.fakes.far_sides import REMOTE, Bench, Gateway, Socket, far_side
from tests.fakes.openclaw import HOOKS_TOKEN

MODELS = {"model": {"model": "openclaw/main"}}
"""The fake lists the gateway's own models only."""


@pytest.fixture(params=REMOTE)
async def remote(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with far_side(request.param, tmp_path) as bench:
        bench.says("Ready.")
        yield bench


async def tried(
    database: Database, folder: Path, bench: Bench, runtime: Runtime | None = None, **options: Any
) -> Trial:
    """The trial of an agent of that far side, hired for it."""
    kind = bench.far.name.partition("-")[0]
    crew = Crew(database, {kind: runtime or bench.runtime}, folder / "crew-runs")
    changes: Mapping[str, Any] = options.pop("parameters", MODELS.get(kind, {}))
    entry = AgentEntry(slug="analyst", runtime=kind, parameters=bench.far.parameters | changes)
    await crew.create_agent(owner("test"), entry)
    trial = await try_agent(crew, "analyst", **{"seconds": 20.0, **options})
    assert not list((folder / "crew-runs").glob("trial-*")), "nothing is left behind"
    assert (await crew.agent_card("analyst")).current_tasks == 0
    return trial


async def test_an_agent_that_answers_is_told_with_time_tokens_and_cost(
    remote: Bench, database: Database, tmp_path: Path
) -> None:
    trial = await tried(database, tmp_path, remote)
    assert (trial.ok, trial.fault, trial.answer) == (True, None, "Ready."), trial
    assert trial.found and trial.seconds and trial.seconds > 0
    known = remote.far.name != "agent_api"
    assert (trial.tokens, str(trial.cost_usd)) == ((120, "0.00045") if known else (None, "None"))
    assert remote.far.begun() == 1


async def test_without_a_prompt_nothing_is_asked(remote: Bench, database: Database, tmp_path: Path) -> None:
    trial = await tried(database, tmp_path, remote, prompt="")
    assert (trial.ok, trial.answer, remote.far.begun()) == (True, "", 0)


async def test_nobody_there_is_down(remote: Bench, database: Database, tmp_path: Path) -> None:
    far = remote.far
    assert isinstance(far, Gateway | Socket)
    await (far.gateway.stop() if isinstance(far, Gateway) else far.agent.__aexit__(None, None, None))
    trial = await tried(database, tmp_path, remote)
    if isinstance(far, Gateway):
        await far.gateway.start()
    assert (trial.ok, trial.fault) == (False, Fault.DOWN)
    assert "cannot be reached" in trial.problem and trial.instruction


@pytest.mark.parametrize("name", ["openclaw", "model", "agent_api"])
async def test_an_answer_that_does_not_come_is_silence(name: str, database: Database, tmp_path: Path) -> None:
    async with far_side(name, tmp_path) as bench:
        bench.says("Never.", seconds=60)
        trial = await tried(database, tmp_path, bench, seconds=1.5)
    assert (trial.ok, trial.fault) == (False, Fault.SILENT)
    assert "1.5 s" in trial.problem


async def test_an_answer_that_says_nothing_is_a_failure(database: Database, tmp_path: Path) -> None:
    async with far_side("openclaw", tmp_path) as bench:
        bench.says(" ")
        trial = await tried(database, tmp_path, bench)
    assert (trial.fault, "answered nothing" in trial.problem) == (Fault.FAILED, True)


class WrongKey:
    """Knows where the far side is, and has a key that is not known there."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, kind: str, name: str = "default") -> dict[str, Any] | None:
        return {"url": self._url, "token": "somebody-elses-token", "hooks_token": HOOKS_TOKEN}


async def test_a_token_that_is_not_taken_is_refused(database: Database, tmp_path: Path) -> None:
    async with far_side("openclaw", tmp_path) as bench:
        assert isinstance(bench.far, Gateway)
        runtime = OpenClawRuntime(WrongKey(bench.far.gateway.url))
        trial = await tried(database, tmp_path, bench, runtime)
    assert (trial.fault, "401" in trial.problem) == (Fault.REFUSED, True)
    assert "somebody-elses-token" not in str(trial)


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("openclaw", {"agent_id": "nobody"}, "There is: default, main"),
        ("model", {"model": "no-such-model"}, "openclaw/main"),
    ],
)
async def test_what_the_far_side_does_not_have_is_wrong(
    database: Database, tmp_path: Path, name: str, parameters: dict[str, Any], named: str
) -> None:
    async with far_side(name, tmp_path) as bench:
        trial = await tried(database, tmp_path, bench, parameters=parameters)
        assert bench.far.begun() == 0
    assert (trial.fault, named in trial.instruction) == (Fault.WRONG, True), trial


async def test_somebody_else_at_the_address_is_wrong(database: Database, tmp_path: Path) -> None:
    async with far_side("openclaw", tmp_path) as bench:
        assert isinstance(bench.far, Gateway)
        runtime = OpenClawRuntime(WrongKey(f"{bench.far.gateway.url}/a/page"))
        trial = await tried(database, tmp_path, bench, runtime)
    assert trial.fault is Fault.WRONG, trial


async def test_a_program_is_looked_for_and_never_started(database: Database, tmp_path: Path) -> None:
    async with far_side("command", tmp_path) as bench:
        trial = await tried(database, tmp_path, bench)
        assert (trial.ok, trial.found, bench.far.begun()) == (True, "/bin/sh", 0)


async def test_a_program_that_may_not_be_run_is_wrong(database: Database, tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text("not executable")
    async with far_side("command", tmp_path) as bench:
        trial = await tried(database, tmp_path, bench, parameters={"program": str(program)})
    assert (trial.fault, str(program) in trial.problem) == (Fault.WRONG, True)
