"""The real `openclaw workboard` and `openclaw cron`, through our source and our automations.

make test-openclaw
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.heartbeat.automations import Automations, Step, plan, wanted
from quarterdeck.heartbeat.roster import read_all
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.openclaw_cli import OpenClawProgram
from quarterdeck.heartbeat.sources.polling import Polling, Turns
from quarterdeck.heartbeat.sources.workboard import WorkBoard
from quarterdeck.heartbeat.work import Ref, Status, Trouble, Watched
from quarterdeck.kernel.connections import Connections, Source
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.keyring import Keyring
from tests.openclaw.gateway import TOKEN, RealGateway, install

pytestmark = pytest.mark.timeout(1500)
AGENTS = (Watched("main"),)


@dataclass
class Scene:
    program: OpenClawProgram
    board: WorkBoard


@pytest.fixture
async def scene(tmp_path: Path, database: Database) -> AsyncIterator[Scene]:
    install()
    async with RealGateway(tmp_path / "gateway", "http://127.0.0.1:9/v1", "none", "gpt") as gateway:
        connections = Connections(database, Keyring(tmp_path / "keys"))
        async with database.command("connect") as unit:
            await connections.put(unit, "openclaw_cli", "default", gateway.program, Source.API)
            token = {"url": gateway.url, "token": TOKEN}
            await connections.put(unit, "openclaw", "default", token, Source.API)
        program = OpenClawProgram(connections, Turns(database, "openclaw", timedelta(0)))
        polling = Polling(database, "workboard")
        yield Scene(program, WorkBoard(program, polling, Notes(database, "workboard"), database.clock))


async def test_cards_are_found_moved_and_finished_and_a_plug_in_that_is_off_is_told(scene: Scene) -> None:
    off = await scene.board.look(AGENTS)
    assert off.trouble is Trouble.NOT_CONFIGURED and "openclaw plugins enable workboard" in off.detail
    with pytest.raises(Exception, match="JSON"):
        await scene.program.call_with("plugins", "enable", "workboard")
    await scene.board._polling.invalidate()
    identity = await scene.board.create("--json is a title", "Some text", "main")
    ref = Ref("workboard", identity)
    [found] = (await scene.board.look(AGENTS)).found
    assert (found.ref, found.title, found.status, found.agent) == (
        ref, "--json is a title", Status.TODO, "main",
    )  # fmt: skip
    await scene.board.start(ref, "main")
    now = await scene.board.read(ref)
    assert now is not None and now.status is Status.IN_PROGRESS and now.started_at
    await scene.board.block(ref, "It stood still.")
    await scene.board.finish(ref, "Done.", is_reviewed=True)
    assert (await scene.board.look(AGENTS)).found == ()
    assert await scene.board.read(Ref("workboard", "00000000-0000-4000-8000-000000000000")) is None


async def test_automations_are_created_updated_kept_and_removed(scene: Scene) -> None:
    automations = Automations(scene.program)

    async def steps(entries: dict[str, Any]) -> list[Step]:
        planned = await automations.planned(read_all(entries))
        await automations.apply(planned)
        return [one.step for one in planned]

    entry = {"category": "development", "scheduler": "openclaw", "zone": "Asia/Shanghai"}
    assert await steps({"main": entry}) == [Step.CREATE]
    assert await steps({"main": entry}) == [Step.KEEP]
    assert await steps({"main": entry | {"interval": 10}}) == [Step.UPDATE]
    assert await steps({"main": entry | {"interval": 10}}) == [Step.KEEP]
    assert await steps({"main": entry | {"scheduler": "prefect"}}) == [Step.REMOVE]
    assert plan(wanted({}), []) == []
    with pytest.raises(Conflict, match="agent is unavailable: nobody") as refused:
        await steps({"nobody": entry})
    assert "openclaw agents add" in refused.value.instruction
