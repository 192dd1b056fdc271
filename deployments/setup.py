"""`quarterdeck setup`: makes everything that must be there; doing it again changes nothing.

    python -m deployments.setup core        # home, keys, database, roster, pipelines, the owner's token
    python -m deployments.setup prefect     # forms, deployments, the rule for dead runs

The first half works while Prefect is down. The second needs its server, and runs in a process whose
environment knows the way to it, because Prefect reads its settings when it is imported.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from deployments import home, parts, prefect_server, schema, supervisor
from deployments.prefect_api import is_healthy
from deployments.supervisor import Supervised
from quarterdeck.crew.roster import Roster, read_roster
from quarterdeck.heartbeat.roster import complaints
from quarterdeck.house import House, open_house
from quarterdeck.kernel import log as logs
from quarterdeck.kernel import postgres
from quarterdeck.kernel.documents import load_yaml
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError, Unauthorized, Unavailable
from quarterdeck.kernel.ids import new_token
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.postgres import server_for
from quarterdeck.kernel.settings import Settings, load
from quarterdeck.kernel.words import counted
from quarterdeck.pipeline.pipelines import read_pipelines

EXAMPLES = Path(__file__).parent / "examples"
CORE, PREFECT = "core", "prefect"

PATIENCE = 120.0
"""Seconds that Prefect's server has to become healthy."""


@dataclass(frozen=True)
class Step:
    """What a step did: something, nothing (all was well), or less than it could (see `detail`)."""

    name: str
    outcome: Literal["done", "already", "differs", "skipped", "failed"]
    detail: str = ""
    token: str = ""

    def __str__(self) -> str:
        mark = {"done": "+", "already": "=", "differs": "?", "skipped": "-", "failed": "!"}[self.outcome]
        return f"{mark} {self.name}: {self.detail or self.outcome}"


def _step(name: str, changed: object, detail: str = "") -> Step:
    return Step(name, "done" if changed else "already", detail)


# The first half: what needs no Prefect


async def set_up_core(settings: Settings, *, apply: bool = False) -> AsyncIterator[Step]:
    """Make the home, its keys and its database, and import what people wrote in files.

    With `apply`, files win over tables that differ from them; else the differences are told.
    """
    for make in (_folders, _keys):
        with postgres.explain_os(settings.folder):
            step = make(settings)
        yield step
    server = server_for(settings)
    with server.running():
        for name in (postgres.CORE, postgres.PREFECT):
            await asyncio.to_thread(schema.ensure_database, server.url(name))
        before = await asyncio.to_thread(schema.current_revision, server.url())
        await asyncio.to_thread(schema.migrate, server.url())
        yield _step("database", before != schema.newest(), f"tables at step {schema.newest()}")
        async with open_house(settings) as house:
            async for step in _contents(house, apply):
                yield step


def _folders(settings: Settings) -> Step:
    wanted = [
        settings.folder,
        settings.keys_folder,
        settings.runs_folder,
        settings.work_folder,
        settings.forge_folder,
        settings.pipelines_folder,
        home.folder(settings),
        home.logs(settings),
        prefect_server.folder(settings),
    ]
    missing = [folder for folder in wanted if not folder.is_dir()]
    home.make(settings, *missing)
    return _step("home", missing, str(settings.folder))


def _keys(settings: Settings) -> Step:
    before = set(settings.keys_folder.iterdir())
    Keyring(settings.keys_folder)
    prefect_server.auth_string(settings)
    prefect_server.encryption_key(settings)
    return _step("keys", set(settings.keys_folder.iterdir()) - before, str(settings.keys_folder))


def place_examples(settings: Settings) -> Step:
    """Copy what is shipped where nothing is; what people have changed is theirs."""
    shipped = [file for file in sorted(EXAMPLES.rglob("*")) if file.is_file() and file.suffix != ".pyc"]
    copied = [file for file in shipped if _copied(file, _place(settings, file))]
    return _step("examples", copied, ", ".join(str(file.relative_to(EXAMPLES)) for file in copied))


def _place(settings: Settings, source: Path) -> Path:
    """Agents lie beside the roster, which names them as seen from itself."""
    if source.name == "crew.yaml":
        return settings.crew_file
    place = source.relative_to(EXAMPLES)
    return (settings.crew_file.parent if place.parts[0] == "agents" else settings.folder) / place


def _copied(source: Path, target: Path) -> bool:
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    return True


async def _contents(house: House, apply: bool) -> AsyncIterator[Step]:
    if await house.crew.is_empty():  # a file that is missed later was taken away, or lies elsewhere
        with postgres.explain_os(house.settings.folder):
            step = place_examples(house.settings)
        yield step
    yield await _roster(house, apply)
    yield await _pipelines(house, apply)
    yield await _token(house)
    filled = await house.connections.fill_from_environment(house.settings)
    yield _step("connections from environment", filled, ", ".join(filled))


async def _roster(house: House, apply: bool) -> Step:
    """The tables are the truth: the file is taken the first time, and when somebody says so."""
    file = house.settings.crew_file
    if not file.exists():
        return Step("crew", "skipped", f"there is no {file}")
    roster = read_roster(file, complaints)
    wishes = await notification_drift(house, roster)
    differences = [*await house.crew.drift(roster), *wishes]
    served = [agent.slug for agent in roster.agents]
    read_pipelines(house.settings.pipelines_folder, served)  # it raises before anything is taken
    is_first = await house.crew.is_empty()
    if not (apply or is_first):
        return _told_only("crew", differences)
    told = await house.crew.import_roster(roster, os.environ)
    async with house.database.command("import subscriptions") as unit:
        await house.notify.import_subscriptions(unit, roster.notifications)
    agents, people = counted(len(roster.agents), "agent"), counted(len(roster.people), "person", "people")
    who = f"{agents} and {people}, as in {file}"
    return _step("crew", differences, who if is_first else _taken(file, [*told, *wishes]))


def _taken(file: Path, differences: Sequence[str]) -> str:
    return f"taken from {file}. Before: {' '.join(differences)}" if differences else ""


async def notification_drift(house: House, roster: Roster) -> list[str]:
    """Whether its `notifications:` are not those of the table. Raises `Misconfigured` with file and line."""
    try:
        return await house.notify.drift(roster.notifications)
    except Misconfigured as error:
        file = house.settings.crew_file
        line = load_yaml(file).line_of(("notifications", error.data["entry"] - 1))
        raise Misconfigured(f"{file}:{line}: {error.detail}", error.instruction) from None


async def _pipelines(house: House, apply: bool) -> Step:
    folder = house.settings.pipelines_folder
    agents = [agent.slug for agent in await house.crew.agents()]
    pipelines = house.engine.pipelines
    if not apply and await pipelines.load() and (differences := await pipelines.drift(folder, agents)):
        return _told_only("pipelines", differences + await pipelines.orphans(folder, agents))
    changed = await pipelines.import_from(folder, agents)
    if orphans := await pipelines.orphans(folder, agents):
        return Step("pipelines", "differs", f"{'; '.join([*changed, *orphans])}.")
    return _step("pipelines", changed, ", ".join(changed))


def _told_only(name: str, differences: Sequence[str]) -> Step:
    if not differences:
        return Step(name, "already")
    return Step(name, "differs", f"{'; '.join(differences)}. `quarterdeck setup --apply` takes the files.")


async def _token(house: House) -> Step:
    """The owner's API token: as the environment says, else made once and shown once."""
    given = house.settings.token
    if given is not None:
        return await _take_token(house, given.get_secret_value())
    if await house.crew.has_owner_token():
        return Step("token", "already", "shown when it was made; set QUARTERDECK_TOKEN to change it")
    token = new_token()
    await house.crew.set_owner_token(token)
    return Step("token", "done", f"your API token, shown only this once: {token}", token)


async def _take_token(house: House, token: str) -> Step:
    try:
        is_known = (await house.crew.who(token)).is_owner
    except Unauthorized:
        is_known = False
    if not is_known:
        await house.crew.set_owner_token(token)
    return _step("token", not is_known, "as QUARTERDECK_TOKEN says")


# The second half: what Prefect's server must know


async def set_up_prefect(settings: Settings) -> AsyncIterator[Step]:
    """Register forms, deployments and the rule for dead runs. For `python -m deployments.setup prefect`."""
    from deployments import registration
    from deployments.catalogue import CATALOGUE, sweeps
    from tasks.connections import copy_blocks

    if settings.blocks:
        yield _step("block types", await registration.register_block_types())
        filled = await registration.fill_blocks(settings)
        yield _step("blocks from environment", filled, ", ".join(filled))
        async with open_house(settings) as house:
            copied = await copy_blocks(house)
        yield _step("connections from blocks", copied, ", ".join(copied))
    else:
        yield Step("blocks", "skipped", "QUARTERDECK_BLOCKS is off")
    new = [entry.name for entry in CATALOGUE if await registration.register_deployment(entry)]
    yield _step("deployments", new, ", ".join(new))
    async with open_house(settings) as house:
        entries = sweeps(await house.sweeper.heartbeats())
    new = [entry.name for entry in entries if await registration.register_deployment(entry)]
    gone = await registration.forget_sweeps({entry.name for entry in entries})
    yield _step("heartbeats", new or gone, ", ".join([*new, *(f"{name} taken away" for name in gone)]))
    yield _step("rule for dead runs", await registration.create_zombie_rule())


# The command


async def set_up(settings: Settings, tell: Callable[[Step], None], *, apply: bool = False) -> bool:
    """Both halves; True when nothing failed. The second is left out, loudly, when Prefect cannot start."""
    if not await _told(set_up_core(settings, apply=apply), tell):
        return False
    try:
        async with prefect_at_hand(settings) as port:
            return await _second_half(settings.model_copy(update={"prefect_port": port}), tell)
    except QuarterdeckError as error:
        tell(Step("prefect", "failed", f"{error} Everything else is set up."))
        return False


async def _told(steps: AsyncIterator[Step], tell: Callable[[Step], None]) -> bool:
    """Report steps as they are taken; the first error ends them."""
    try:
        async for step in steps:
            tell(step)
    except QuarterdeckError as error:
        tell(Step("setup", "failed", str(error)))
        return False
    return True


@asynccontextmanager
async def prefect_at_hand(settings: Settings) -> AsyncIterator[int]:
    """The port of Prefect's server: the one that runs, or one started for the occasion."""
    port = home.prefect_port(settings)
    if port and await is_healthy(port):
        yield port
        return
    chosen = settings.model_copy(
        update={"prefect_port": parts.free_port("QUARTERDECK_PREFECT_PORT", prefect_server.HOST, 0)}
    )
    async with server_for(settings).using() as server:
        prefect = Supervised(parts.prefect(chosen, server), home.logs(settings), lambda _: None)
        try:
            prefect.start()
            await _healthy(prefect)
            yield chosen.prefect_port
        finally:
            await prefect.stop(3)


async def _healthy(prefect: Supervised) -> None:
    try:
        await asyncio.wait_for(prefect.healthy.wait(), PATIENCE)
    except TimeoutError:
        lines = "\n".join(supervisor.tail(prefect.log_file))
        raise Unavailable(
            f"Prefect's server did not become healthy within {PATIENCE:.0f} seconds.",
            f"See {prefect.log_file}:\n{lines}\n",
        ) from None


async def _second_half(settings: Settings, tell: Callable[[Step], None]) -> bool:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deployments.setup", PREFECT, "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=parts.environment(settings, os.environ),
        cwd=supervisor.ROOT,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        for told in json.loads(line)["steps"]:
            tell(Step(**told))
    return await process.wait() == 0


def main(settings: Settings, *, apply: bool = False, as_json: bool = False) -> int:
    """The command: 0 when nothing failed. The owner's token is shown once, by the run that makes it."""
    _only_warnings(settings)
    told = Report(as_json=as_json)
    told.close(asyncio.run(set_up(settings, told, apply=apply)))
    return told.exit_code


def _only_warnings(settings: Settings) -> None:
    """The steps are what is told."""
    logs.set_up(settings.model_copy(update={"log_level": "warning"}))


class Report:
    """Tells the steps: line by line for people, all at once for programs."""

    def __init__(self, *, as_json: bool, only_changes: bool = False) -> None:
        self.exit_code = 0
        self._as_json = as_json
        self._only_changes = only_changes
        self._steps: list[Step] = []

    def __call__(self, step: Step) -> None:
        self._steps.append(step)
        if not self._as_json and (not self._only_changes or step.outcome in ("done", "differs", "failed")):
            print(step, flush=True)

    def close(self, is_well: bool) -> None:
        """The end; sets the exit code."""
        self.exit_code = 0 if is_well else 1
        if self._as_json:
            print(json.dumps({"ok": is_well, "steps": [asdict(step) for step in self._steps]}), flush=True)


def _half(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments.setup")
    parser.add_argument("half", choices=[CORE, PREFECT])
    parser.add_argument("--apply", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only-changes", action="store_true")
    wanted = parser.parse_args(arguments)
    settings = load()
    _only_warnings(settings)
    told = Report(as_json=wanted.json, only_changes=wanted.only_changes)
    steps = set_up_core(settings, apply=wanted.apply) if wanted.half == CORE else set_up_prefect(settings)
    told.close(asyncio.run(_told(steps, told)))
    return told.exit_code


if __name__ == "__main__":
    sys.exit(_half(sys.argv[1:]))
