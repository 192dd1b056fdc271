"""The doctor sees what is wrong, says what it means and how to mend it, and mends what is safe."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.checks import CHECKS
from deployments.doctor import Check, Finding, Patient, Result, examine
from deployments.setup import set_up_core
from quarterdeck.board.cards import ProjectChanges, ProjectDraft
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.service import Crew
from quarterdeck.house import House, open_house
from quarterdeck.kernel.connections import Source
from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.inbox import Delivery
from quarterdeck.kernel.settings import Settings
from quarterdeck.pipeline.service import Engine
from tests.fakes.company import company, settings_of
from tests.fakes.stage_work import OWNER, filed
from tests.fakes.telegram import TOKEN, FakeTelegram


async def looked(settings: Settings, *, fix: bool = False) -> dict[str, Result]:
    return {result.check: result async for result in examine(settings, CHECKS, fix=fix)}


async def look_at(name: str, settings: Settings, *, fix: bool = False) -> Result:
    """One check alone: all of them start programs and ask everybody."""
    (check,) = (check for check in CHECKS if check.name == name)
    (result,) = [result async for result in examine(settings, [check], fix=fix)]
    return result


@pytest.fixture
async def settings(tmp_path: Path, database_url: str) -> Settings:
    """A desk that `setup` has made, in a home of its own."""
    settings = settings_of(tmp_path / "home", database_url)
    async for _ in set_up_core(settings):
        pass
    return settings


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    async with open_house(settings) as house:
        yield house


async def test_what_setup_made_is_well_but_for_what_does_not_run(settings: Settings):
    found = await looked(settings)
    not_ok = {name: result.verdict for name, result in found.items() if result.verdict != "ok"}
    assert not_ok == {"prefect": "warn", "deployments": "warn", "router": "warn", "backends": "warn"}


async def test_everything_that_is_not_well_says_what_to_do(tmp_path: Path, database_url: str):
    async with company(tmp_path / "home", database_url):
        found = await looked(settings_of(tmp_path / "home", database_url))
    for result in found.values():
        assert result.verdict == "ok" or result.fix, result


async def test_a_password_in_what_a_check_saw_is_not_shown(settings: Settings):
    async def look(_: Patient) -> Finding:
        return Finding("ok", "https://desk:hunter-2@agents.example.org/ is there.")

    (result,) = [result async for result in examine(settings, [Check("a part", look)], fix=False)]
    assert result.detail == "https://desk:***@agents.example.org/ is there."


async def test_keys_that_others_can_read_are_a_failure_and_made_private(settings: Settings):
    exposed = next(settings.keys_folder.glob("prefect-*"))
    exposed.chmod(0o644)
    before = await look_at("keys", settings)
    assert before.verdict == "fail"
    assert exposed.name in before.detail
    mended = await look_at("keys", settings, fix=True)
    assert (mended.verdict, bool(mended.mended)) == ("ok", True)
    assert stat.S_IMODE(exposed.stat().st_mode) == 0o600


async def test_a_variable_that_was_mistyped_is_told_with_the_one_that_is_meant(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    assert (await look_at("variables", settings)).verdict == "ok"
    monkeypatch.setenv("QUARTERDECK_CONCURENCY", "canary")
    found = await look_at("variables", settings)
    assert (found.verdict, "canary" in str(found)) == ("warn", False)
    assert "QUARTERDECK_CONCURENCY means nothing here; is QUARTERDECK_CONCURRENCY meant?" in found.detail


async def test_a_roster_that_differs_from_the_tables_is_told_and_left_alone(settings: Settings):
    text = settings.crew_file.read_text()
    settings.crew_file.write_text(text.replace("slug: reviewer", "slug: critic"))
    found = await look_at("crew", settings, fix=True)
    assert found.verdict == "warn"
    assert "critic" in found.detail
    assert "--apply" in found.fix


async def test_a_roster_that_cannot_be_read_names_file_and_line(settings: Settings):
    settings.crew_file.write_text("agents:\n  - slug: UPPER\n")
    found = await look_at("crew", settings)
    assert found.verdict == "fail"
    assert "crew.yaml" in found.detail and "2" in found.detail


async def test_a_pipeline_file_that_cannot_be_loaded_is_a_failure(settings: Settings):
    (settings.pipelines_folder / "odd.yaml").write_text("name: odd\nstages:\n  - {name: a, agent: nobody}\n")
    found = await look_at("pipelines", settings)
    assert found.verdict == "fail"
    assert "odd.yaml" in found.detail


async def test_a_pipeline_without_a_file_is_told_while_a_project_files_into_it(
    settings: Settings, house: House
):
    await house.board.create_project(OWNER, ProjectDraft(key="ET", name="Enduro"))
    (settings.pipelines_folder / "default.yaml").unlink()
    found = await look_at("pipelines", settings)
    assert found.verdict == "warn"
    assert "`quarterdeck project edit ET --pipeline …`" in found.detail
    await house.board.edit_project(OWNER, "ET", ProjectChanges(archived=True))
    assert (await look_at("pipelines", settings)).verdict == "ok"


async def test_runs_of_a_host_that_is_silent_are_told_with_the_command_that_gives_it_up(
    settings: Settings, house: House, tmp_path: Path
):
    assert (await look_at("hosts", settings)).verdict == "ok"
    elsewhere = Crew(house.database, {"command": CommandRuntime()}, tmp_path / "elsewhere")
    key = await filed(house)
    work = await Engine(house.database, elsewhere).claim(await house.engine.current(key))
    await work.open_run("0" * 40)
    assert (await look_at("hosts", settings)).verdict == "ok"  # a desk there holds the item
    await work.release(0)
    found = await look_at("hosts", settings)
    assert found.verdict == "warn"
    assert f"{elsewhere.host}: 1 of analyst on {key}" in found.detail
    assert f"`quarterdeck host gone {elsewhere.host}`" in found.fix


async def agents_when(settings: Settings, house: House, **changed: Any) -> Result:
    """What the doctor says of the agents when the developer is another."""
    async with house.database.command("change an agent") as unit:
        agent = await house.crew.agent("developer")
        agent.sqlmodel_update(changed)
        unit.session.add(agent)
    return await look_at("agents", settings)


async def test_an_agent_without_a_program_is_a_failure(settings: Settings, house: House):
    found = await agents_when(settings, house, parameters={"program": "/nowhere/agent"})
    assert (found.verdict, "developer: There is no program /nowhere/agent" in found.detail) == ("fail", True)


async def test_an_agent_behind_a_socket_that_does_not_answer_is_a_failure(settings: Settings, house: House):
    nobody = {"base_url": "ws://127.0.0.1:9"}
    found = await agents_when(settings, house, runtime="agent_api", parameters=nobody)
    assert (found.verdict, found.detail.startswith("developer: ")) == ("fail", True)


async def test_an_agent_that_only_waits_for_the_router_is_a_warning(settings: Settings, house: House):
    found = await agents_when(settings, house, runtime="model", model="echo", parameters={})
    assert (found.verdict, found.detail.startswith("developer: ")) == ("warn", True)


async def test_a_webhook_that_failed_is_told_with_its_reason(settings: Settings, house: House):
    async def refuses(delivery: Delivery) -> str:
        raise Conflict("Nobody knows this repository.")

    house.deliveries.add("gitea", refuses)
    await house.inbox.accept("gitea", "d-1", "push", {}, b"{}")
    await house.deliveries.work_off()
    found = await look_at("webhooks", settings)
    assert (found.verdict, "Nobody knows this repository." in found.detail) == ("warn", True)


async def test_doors_are_told_and_those_without_their_secret_are_a_warning(settings: Settings, house: House):
    async def webhooks_when(kind: str, **value: str) -> Finding:
        async with house.database.command("connect") as unit:
            await house.connections.put(unit, kind, "default", value, Source.API)
        return await look_at("webhooks", settings)

    assert (await look_at("webhooks", settings)).detail.endswith("Open doors: none.")
    found = await webhooks_when("generic_webhook", secret="a-secret-of-the-test")
    assert (found.verdict, "Open doors: generic." in found.detail) == ("ok", True)
    assert "quarterdeck webhook test generic" in found.fix
    assert (await webhooks_when("openclaw", url="http://127.0.0.1:9")).verdict == "ok"
    found = await webhooks_when("gitea", url="http://127.0.0.1:9", token="a-token-of-the-test")
    assert (found.verdict, "gitea" in found.detail) == ("warn", True)
    assert "block `Quarterdeck Gitea`" in found.fix


async def test_the_bot_is_asked_after_where_the_setting_says(settings: Settings, house: House):
    with FakeTelegram(TOKEN) as telegram:
        async with house.database.command("connect") as unit:
            value = {"bot_token": TOKEN, "chat_id": "1001", "api_base": "https://api.telegram.org"}
            await house.connections.put(unit, "telegram", "default", value, Source.API)
        found = await look_at("telegram", settings.model_copy(update={"telegram_api_base": telegram.base}))
        assert found.verdict == "ok" and telegram.done("getMe", token=TOKEN)


async def test_messages_that_no_listener_sends_are_told(settings: Settings, house: House):
    value = {"bot_token": "7000000001:AAFake", "chat_id": "1001", "api_base": "http://127.0.0.1:9"}
    async with house.database.command("connect") as unit:
        await house.connections.put(unit, "telegram", "default", value, Source.API)
    checks = [check for check in CHECKS if check.name == "messages"]
    assert [found.verdict async for found in examine(settings, checks, fix=False)] == ["ok"]
    async with house.database.command("tell") as unit:
        unit.record("error", reason="nobody hears it")
    (found,) = [found async for found in examine(settings, checks, fix=False)]
    assert found.verdict == "warn" and "no listener" in found.detail and "bot run" in found.fix


async def test_without_its_database_the_rest_is_looked_at_all_the_same(tmp_path: Path):
    gone = settings_of(tmp_path, "postgresql://nobody@127.0.0.1:9/none")
    found = await looked(gone)
    assert found["database"].verdict == "fail"
    assert "doctor" not in found["database"].detail
    assert found["disk"].verdict == found["git"].verdict == "ok"
    assert found["crew"].verdict == "warn"


async def test_where_there_is_no_desk_nothing_is_made(tmp_path: Path):
    settings = Settings(home=tmp_path / "nowhere", prefect_port=9)
    found = await looked(settings)
    assert found["home"].verdict == found["database"].verdict == "fail"
    assert "setup" in found["home"].fix
    assert not settings.folder.exists()


async def test_a_check_or_a_cure_that_breaks_is_told_and_the_others_go_on(settings: Settings):
    async def breaks(patient: Patient) -> Finding:
        raise ZeroDivisionError

    async def is_ill(patient: Patient) -> Finding:
        return Finding("fail", "ill", "bad", "take care")

    async def refuses(patient: Patient) -> str:
        raise Conflict("not now", "later")

    checks = [Check("broken", breaks), Check("stubborn", is_ill, refuses), Check("last", is_ill)]
    broken, stubborn, last = [result async for result in examine(settings, checks, fix=True)]
    assert (broken.verdict, "ZeroDivisionError" in broken.detail) == ("warn", True)
    assert (stubborn.verdict, "not now" in stubborn.mended) == ("fail", True)
    assert last == Result("last", "fail", "ill", "bad", "take care")
