"""What `quarterdeck doctor` looks at, in the order in which one part needs another."""

import asyncio
import os
import re
import shutil
import stat
import sys
from datetime import timedelta
from pathlib import Path

import httpx
from sqlmodel import func, select

from deployments import catalogue, home, parts, prefect_server, schema, variables
from deployments.commands.backend import is_out
from deployments.commands.forge import upkeep
from deployments.commands.plane import tried as tried_plane
from deployments.doctor import Check, Finding, Patient
from deployments.prefect_api import is_healthy, prefect_api, schema_of
from deployments.setup import notification_drift
from deployments.source_checks import multica_can_be_asked, workboard_can_be_asked
from quarterdeck.crew import agent_api_runtime
from quarterdeck.crew.model import Role
from quarterdeck.crew.roster import read_roster
from quarterdeck.crew.route_check import Options, Route, check, check_gateway
from quarterdeck.crew.trial import Fault, Trial, try_agent
from quarterdeck.forge.tracker_model import PostState
from quarterdeck.heartbeat.roster import complaints
from quarterdeck.kernel import disk, http, keyring
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.errors import QuarterdeckError, Unavailable
from quarterdeck.kernel.inbox import Standing
from quarterdeck.kernel.words import counted
from quarterdeck.pipeline.doors import DOORS
from quarterdeck.router import access
from quarterdeck.telegram.model import DESK

SCARCE, TOO_LITTLE = 2_000_000_000, 300_000_000
"""Free bytes below which to warn, and below which nothing can be relied on."""

FAILURES_OF = timedelta(days=7)
"""How far back failed deliveries are told."""

AGENTS_AT_ONCE = 5
"""How many agents are tried at the same time."""

OLDEST_GIT = (2, 30)
OLDEST_POSTGRES = 14

SETUP = "Run `quarterdeck setup`."
UP = "Run `quarterdeck up`."
DRIFT = "The tables count; the file is not what works."
REFUSED = "All that it tells is refused."
APPLY = "`quarterdeck setup --apply` takes the file."


async def home_exists(patient: Patient) -> Finding:
    folder = patient.settings.folder
    if not folder.is_dir():
        return Finding("fail", f"{folder} does not exist.", "No desk was ever set up here.", SETUP)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("fail", f"{folder} cannot be written.", "Nothing can be kept.", "Make it yours.")
    return Finding("ok", str(folder))


async def variables_mean_something(patient: Patient) -> Finding:
    if strangers := variables.meaningless(os.environ):
        fix = "docs/reference/settings.md and router.md name them all."
        return Finding("warn", " ".join(strangers), "What they should change is as ever.", fix)
    return Finding("ok", "Every variable of ours that is set here is known.")


async def disk_has_room(patient: Patient) -> Finding:
    free = disk.free(patient.settings.folder)
    told = f"{free / 1e9:.2f} GB free."
    if free < disk.RESERVE:
        fix = "Free some space; it goes on by itself afterwards."
        return Finding("fail", told, "Nothing new is begun, and the database may have stopped.", fix)
    if free < TOO_LITTLE:
        return Finding("fail", told, "The database will stop writing.", "Free some space.")
    if free < SCARCE:
        return Finding("warn", told, "Logs and work trees may soon fill it.", "Free some space.")
    return Finding("ok", told)


async def database_answers(patient: Patient) -> Finding:
    async with patient.open_house().database.read() as session:
        found = int((await session.exec(select(func.current_setting("server_version_num")))).one()) // 10_000
    if found < OLDEST_POSTGRES:
        fix = f"Use PostgreSQL {OLDEST_POSTGRES} or newer."
        return Finding("fail", f"PostgreSQL {found} is too old.", "Queries will fail.", fix)
    kind = "your own" if patient.settings.database_url else "embedded"
    return Finding("ok", f"PostgreSQL {found}, {kind}.")


async def tables_are_current(patient: Patient) -> Finding:
    present = await asyncio.to_thread(schema.current_revision, patient.open_house().database.url)
    if present != schema.newest():
        detail = f"Tables at step {present or 'none'}, this version needs {schema.newest()}."
        return Finding("fail", detail, "Nothing works on old tables.", SETUP)
    return Finding("ok", f"Tables at step {present}.")


async def migrate(patient: Patient) -> str:
    await asyncio.to_thread(schema.migrate, patient.open_house().database.url)
    return "Brought the tables up to date."


async def keys_are_private(patient: Patient) -> Finding:
    folder = patient.settings.keys_folder
    names = {path.name for path in _files(folder)}
    if not any(name.startswith("master-") for name in names) and keyring.VARIABLE not in os.environ:
        return Finding("fail", f"No master key in {folder}.", "Secrets can neither be kept nor read.", SETUP)
    if not prefect_server.key_file(patient.settings).exists():
        return Finding("fail", "Prefect's encryption key is missing.", "Its blocks cannot be read.", SETUP)
    if exposed := _exposed(folder):
        shown = ", ".join(str(path) for path in exposed)
        return Finding(
            "fail", f"Others may read {shown}.", "They can read every secret.", "chmod go-rwx them."
        )
    return Finding("ok", f"{counted(len(names), 'key file')}, private.")


async def make_keys_private(patient: Patient) -> str:
    exposed = _exposed(patient.settings.keys_folder)
    for path in exposed:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    return f"Made {counted(len(exposed), 'file or folder', 'files and folders')} private."


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _exposed(folder: Path) -> list[Path]:
    return [path for path in (folder, *_files(folder)) if path.exists() and path.stat().st_mode & 0o077]


async def git_is_there(patient: Patient) -> Finding:
    git = shutil.which("git")
    if git is None:
        return Finding("fail", "There is no git.", "Items cannot get work trees.", "Install git.")
    process = await asyncio.create_subprocess_exec(git, "--version", stdout=asyncio.subprocess.PIPE)
    said = (await process.communicate())[0].decode("utf-8", "replace").strip()
    found = re.search(r"(\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < OLDEST_GIT:
        newer = ".".join(map(str, OLDEST_GIT))
        return Finding("fail", f"{said} is too old.", "Merges may fail.", f"Install git {newer} or newer.")
    return Finding("ok", f"{said}.")


async def prefect_answers(patient: Patient) -> Finding:
    port = home.prefect_port(patient.settings)
    if not await is_healthy(port):
        meaning = "Stages wait; everything else works."
        return Finding("warn", f"Nothing answers at {prefect_server.address(port)}.", meaning, UP)
    async with httpx.AsyncClient(timeout=5) as stranger:
        answer = await stranger.get(f"{prefect_server.address(port)}/api/admin/version")
    if answer.is_success:
        meaning = "Anybody on this machine can read every block."
        return Finding(
            "fail", "It lets anybody in without a login.", meaning, "Let `quarterdeck up` start it."
        )
    async with prefect_api(patient.settings) as api:
        answer = await api.get("/admin/version")
    if not answer.is_success:
        fix = "Stop that server, or set QUARTERDECK_PREFECT_PORT to another port."
        return Finding("fail", f"Port {port} is a Prefect of somebody else's.", "Stages wait.", fix)
    return Finding("ok", f"Prefect {answer.json()}, with a login.")


async def deployments_are_registered(patient: Patient) -> Finding:
    if (await prefect_answers(patient)).verdict != "ok":
        return Finding("warn", "Not looked at: it needs our Prefect server.", fix=UP)
    async with prefect_api(patient.settings) as api:
        missing = [e.name for e in catalogue.CATALOGUE if await schema_of(api, e.name) is None]
    if missing:
        detail = f"Prefect does not know: {', '.join(missing)}."
        return Finding("fail", detail, "They never run.", SETUP)
    return Finding("ok", f"All {len(catalogue.CATALOGUE)} are registered.")


async def register_deployments(patient: Patient) -> str:
    settings = patient.settings.model_copy(update={"prefect_port": home.prefect_port(patient.settings)})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deployments.setup", "prefect"),
        stdout=asyncio.subprocess.DEVNULL,
        env=parts.environment(settings, os.environ),
    )
    if await process.wait():
        raise QuarterdeckError("Registering failed.", SETUP)
    return "Registered the deployments."


async def crew_is_the_file(patient: Patient) -> Finding:
    crew, file = patient.open_house().crew, patient.settings.crew_file
    if await crew.is_empty():
        return Finding("fail", "The crew is empty.", "Nobody works on anything.", SETUP)
    if not file.exists():
        meaning = "The tables count; nobody can see from a file who works here."
        return Finding("warn", f"There is no {file}.", meaning, "Write the roster down there.")
    roster = read_roster(file, complaints)
    wishes = await notification_drift(patient.open_house(), roster)
    if differences := [*await crew.drift(roster), *wishes]:
        return Finding("warn", "; ".join(differences), DRIFT, APPLY)
    return Finding("ok", f"{counted(len(await crew.agents()), 'agent')}, as in {file}.")


async def pipelines_are_the_files(patient: Patient) -> Finding:
    house, folder = patient.open_house(), patient.settings.pipelines_folder
    loaded = await house.engine.pipelines.load()
    if not loaded:
        return Finding("fail", "There is no pipeline.", "Items cannot be filed.", SETUP)
    agents = [agent.slug for agent in await house.crew.agents()]
    used = (await house.engine.pipelines.in_use()).values()
    if missing := sorted({s.agent for p in used for s in p.stages if not s.is_engine} - {*agents}):
        fix = f"Put them into the roster, or change the pipelines. {APPLY}"
        return Finding("fail", f"No such agent: {', '.join(missing)}.", "Their stages never start.", fix)
    if differences := await house.engine.pipelines.drift(folder, agents):
        return Finding("warn", "; ".join(differences), DRIFT, APPLY)
    if orphans := await house.engine.pipelines.orphans(folder, agents):
        fix = "Put the file back, or let the project file into another pipeline."
        return Finding("warn", f"{'; '.join(orphans)}.", "New items go the way that is stored.", fix)
    return Finding("ok", f"As in {folder}; there is {', '.join(sorted(loaded))}.")


async def agents_can_be_reached(patient: Patient) -> Finding:
    crew = patient.open_house().crew
    room = asyncio.Semaphore(AGENTS_AT_ONCE)

    async def tried(slug: str) -> Trial:
        async with room:
            return await try_agent(crew, slug, seconds=5, prompt="")

    trials = await asyncio.gather(*(tried(card.slug) for card in await crew.agents() if card.is_enabled))
    failed = [trial for trial in trials if not trial.ok]
    if not failed:
        return Finding("ok", f"{counted(len(trials), 'agent')} can be started.")
    told = " ".join(f"{trial.agent}: {trial.problem}" for trial in failed)
    if all(trial.runtime == "model" and trial.fault is Fault.DOWN for trial in failed):
        return Finding("warn", told, "They wait for the router.", UP)
    fix = "`quarterdeck agent test AGENT` tries one again, and says what to correct."
    return Finding("fail", told, "Their runs end with an error and use up rounds.", fix)


async def other_hosts_see_to_their_runs(patient: Patient) -> Finding:
    others = [card for card in await patient.open_house().hosts.all() if not card.is_here]
    silent = [card for card in others if card.silent]
    if not silent:
        theirs = ", ".join(card.host for card in others)
        return Finding("ok", f"Open runs of other hosts: {theirs or 'none'}.")
    told = "; ".join(
        f"{card.host}: {card.silent} of {', '.join(card.agents)} on {', '.join(card.items)}, "
        f"the oldest since {card.since:%Y-%m-%d %H:%M} UTC"
        for card in silent
    )
    meaning = "They hold their agents' slots, and their items wait."
    fix = f"Open the desk there; or if it is gone for good: `quarterdeck host gone {silent[0].host}`."
    return Finding("warn", f"Open runs of hosts that are silent: {told}.", meaning, fix)


async def somebody_may_approve(patient: Patient) -> Finding:
    people = await patient.open_house().crew.people()
    known = [p.slug for p in people if p.token_hash and (p.may_approve or p.role is Role.OWNER)]
    if not known:
        meaning = "Over HTTP nobody can approve; on this command line the owner still can."
        return Finding("warn", "Nobody who may approve has a token.", meaning, SETUP)
    return Finding("ok", f"{', '.join(known)} may approve.")


async def router_answers(patient: Patient) -> Finding:
    where = access.address(patient.settings)
    async with http.client("the router", seconds=5, attempts=1) as stranger:
        try:
            answer = await stranger.get(f"{where}/health")
        except Unavailable:
            return Finding("warn", f"Nothing answers at {where}.", "No model can be called.", UP)
    if not answer.is_success:
        why = "Calls go on from memory; nothing that is changed now is kept."
        return Finding(
            "fail", f"It says it is {_word(answer, 'status')}.", why, "Look at the database first."
        )
    return Finding("ok", f"Router {_word(answer, 'version')} at {where}.")


def _word(answer: httpx.Response, name: str) -> str:
    try:
        return str(answer.json()[name])
    except (ValueError, KeyError, TypeError):
        return "something else"


async def backends_can_be_called(patient: Patient) -> Finding:
    if (await router_answers(patient)).verdict != "ok":
        return Finding("warn", "Not looked at: it needs the router.", fix=UP)
    async with access.admin(patient.settings, seconds=5) as router:
        cards = http.json_of(await router.get("/backends"))
    if not cards:
        fix = "`quarterdeck backend add` or the router's dashboard adds one."
        return Finding("ok", "No backend yet; only the built-in rehearsal answers.", fix=fix)
    broken = [f"{card['name']} ({card['reason']})" for card in cards if is_out(card)]
    if broken:
        fix = "Correct its key or address; `quarterdeck backend test` looks again."
        return Finding("fail", f"Cannot be used: {', '.join(broken)}.", "Calls go to the others.", fix)
    return Finding("ok", f"{counted(len(cards), 'backend')}.")


async def telegram_knows_the_bot(patient: Patient) -> Finding:
    house = patient.open_house()
    value = await house.connections.get("telegram")
    if not value:
        fix = (
            "Fill the block `Quarterdeck Telegram` in Prefect, or set ORCH_TELEGRAM_BOT_TOKEN and"
            " ORCH_TELEGRAM_CHAT_ID."
        )
        return Finding("ok", "Not configured; messages go to the log.", fix=fix)
    base = await house.bots.base_of("telegram/default")
    async with http.client("Telegram", seconds=5, attempts=1) as client:
        answer = await client.get(f"{base}/bot{value['bot_token']}/getMe")
    if not answer.is_success:
        fix = "Correct the token in the block `Quarterdeck Telegram`; @BotFather gives a new one."
        return Finding(
            "fail", f"Telegram answers {answer.status_code}.", "Messages become dead letters.", fix
        )
    return Finding("ok", f"The bot is @{http.json_of(answer)['result']['username']}.")


async def gitea_lets_us_work(patient: Patient) -> Finding:
    house = patient.open_house()
    if not await house.forge.gitea.is_connected():
        fix = "Fill the block `Quarterdeck Gitea` in Prefect, or set GITEA_URL and GITEA_TOKEN."
        return Finding("ok", "Not configured; code lives in the local forge.", fix=fix)
    trial = await upkeep(house).test()
    if denied := [sight.repository for sight in trial.repositories if not sight.ok]:
        meaning = "Work on them cannot be published."
        fix = f"Let {trial.login} write there, or unarchive them."
        return Finding("fail", f"No right to push to {', '.join(denied)}.", meaning, fix)
    if silent := [sight.repository for sight in trial.repositories if not sight.has_hook]:
        meaning = "What happens there is seen seconds later."
        fix = "`quarterdeck forge install-hooks`"
        return Finding("warn", f"No hook of ours in {', '.join(silent)}.", meaning, fix)
    return Finding("ok", f"Gitea {trial.version}; we are {trial.login}.")


async def plane_is_followed(patient: Patient) -> Finding:
    house = patient.open_house()
    if not await house.plane.is_connected():
        fix = (
            "Fill the block `Quarterdeck Plane` in Prefect, or set PLANE_URL, PLANE_WORKSPACE and"
            " PLANE_API_KEY."
        )
        return Finding("ok", "Not configured; work is filed here.", fix=fix)
    trial = await tried_plane(house)
    if trial.problems:
        meaning = "Some of what happens in Plane is not obeyed, or not shown there."
        return Finding("warn", " ".join(trial.problems), meaning, "docs/how-to/plane.md.")
    if dead := await house.posts.page(PostState.DEAD, 1):
        fix = "`quarterdeck plane posts --dead` shows why; `resend` tells it again, `dismiss` forgets it."
        return Finding("warn", f"Plane refused: {dead[0].reason}", "Its issues may be behind.", fix)
    return Finding("ok", f"{', '.join(trial.followed) or 'No project follows one of its projects'}.")


async def openclaw_takes_both_tokens(patient: Patient) -> Finding:
    value = await patient.open_house().connections.get("openclaw")
    if not value:
        fix = "Fill the block `Quarterdeck OpenClaw` in Prefect, or set OPENCLAW_URL and OPENCLAW_TOKEN."
        return Finding("ok", "Not connected; no agent works there.", fix=fix)
    found = await check_gateway("openclaw", value)
    if wrong := [f"{step.stage}: {step.error}" for step in found if not step.ok]:
        fix = "Correct the block `Quarterdeck OpenClaw`."
        return Finding("fail", " ".join(wrong), "Its agents cannot work.", fix)
    return Finding("ok", f"{value['url']}: {', '.join(step.stage for step in found)}.")


async def websocket_agent_is_ready(patient: Patient) -> Finding:
    """Only where agents are that have no address of their own; the others' are looked at by `agents`."""
    wanted = agent_api_runtime.Parameters()
    base = await agent_api_runtime.base_url(wanted, patient.open_house().connections, os.environ)
    if not base:
        fix = "Fill the block `Quarterdeck WebSocket agent` in Prefect, or set AGENT_BASE_URL."
        return Finding("ok", "Not connected; agents behind WebSockets bring their own address.", fix=fix)
    found = await check(0, Route(id="agent_api", label="The block's", base_url=base), Options(timeout=5))
    if not found.ok:
        meaning = "Agents without an address of their own cannot work."
        fix = "Correct the block `Quarterdeck WebSocket agent`."
        return Finding("fail", f"{found.stage}: {found.error}", meaning, fix)
    return Finding("ok", f"{found.ws_url}: it says that it is ready.")


async def messages_arrive(patient: Patient) -> Finding:
    house = patient.open_house()
    waiting = await house.notify.waiting("telegram")
    if waiting and not await house.bots.is_served(DESK):
        told = counted(waiting, "message waits", "messages wait")
        detail = f"{told}, and no listener serves the desk's bot."
        fix = "`quarterdeck up` starts one; without Prefect: `quarterdeck bot run`."
        return Finding("warn", detail, "They arrive, in order, once somebody serves it.", fix)
    dead = (await house.notify.dead_letters(limit=1)).items
    if dead:
        fix = "`quarterdeck dead-letters list` shows why; `resend` sends one again, `dismiss` forgets it."
        return Finding("warn", "There are dead letters.", "Some messages did not arrive.", fix)
    return Finding("ok", "No dead letters.")


async def deliveries_are_worked_on(patient: Patient) -> Finding:
    house = patient.open_house()
    opened, locked = await _doors(house.connections)
    if locked:
        fix = f"Enter the secret in the block `{DOORS[locked[0]].block}`; docs/how-to/webhooks.md."
        return Finding("warn", f"No secret to check deliveries by: {', '.join(locked)}.", REFUSED, fix)
    recently = house.database.clock.now() - FAILURES_OF
    failed = await house.inbox.entries(None, Standing.FAILED, 2**63 - 1, 1)
    if failed and failed[0].received_at > recently:
        detail = f"Delivery {failed[0].id} of {failed[0].source} failed: {failed[0].outcome}"
        fix = "`quarterdeck webhook list --state failed` shows them; `replay` tries one again."
        return Finding("warn", detail, "What it told was not taken in.", fix)
    fix = f"`quarterdeck webhook test {opened[0]}` tries one." if opened else ""
    return Finding("ok", f"No delivery failed lately. Open doors: {', '.join(opened) or 'none'}.", fix=fix)


async def _doors(connections: Connections) -> tuple[list[str], list[str]]:
    """Sources that may ring here, and those that are connected without the secret."""
    found = [(source, door, await connections.get(door.kind)) for source, door in DOORS.items()]
    opened = [source for source, door, value in found if value and value.get(door.field)]
    locked = [source for source, _, value in found if value and source not in opened]
    return opened, [source for source in locked if source != "openclaw"]  # few hear of its cron jobs


CHECKS: tuple[Check, ...] = (
    Check("home", home_exists),
    Check("variables", variables_mean_something),
    Check("disk", disk_has_room),
    Check("database", database_answers),
    Check("tables", tables_are_current, migrate, needs_house=True),
    Check("keys", keys_are_private, make_keys_private),
    Check("git", git_is_there),
    Check("prefect", prefect_answers),
    Check("deployments", deployments_are_registered, register_deployments),
    Check("crew", crew_is_the_file, needs_house=True),
    Check("pipelines", pipelines_are_the_files, needs_house=True),
    Check("people", somebody_may_approve, needs_house=True),
    Check("hosts", other_hosts_see_to_their_runs, needs_house=True),
    Check("router", router_answers),
    Check("backends", backends_can_be_called),
    Check("gitea", gitea_lets_us_work, needs_house=True),
    Check("plane", plane_is_followed, needs_house=True),
    Check("telegram", telegram_knows_the_bot, needs_house=True),
    Check("openclaw", openclaw_takes_both_tokens, needs_house=True),
    Check("agent-api", websocket_agent_is_ready, needs_house=True),
    Check("workboard", workboard_can_be_asked, needs_house=True),
    Check("multica", multica_can_be_asked, needs_house=True),
    Check("agents", agents_can_be_reached, needs_house=True),
    Check("messages", messages_arrive, needs_house=True),
    Check("webhooks", deliveries_are_worked_on, needs_house=True),
)
