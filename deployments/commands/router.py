"""`quarterdeck router …`, `backend …` and `client …`: model calls, who answers them, who may make them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

T = TypeVar("T")

router = typer.Typer(help="Model calls: the process itself, its upkeep, its backups.")
backend = typer.Typer(help="Providers of models: keys and addresses that the router calls.")
client = typer.Typer(help="Who may call the router: keys, whom calls are booked to, budgets.")

Which = Annotated[str, typer.Argument(help="Name or id.")]


@router.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Without a command: run the router in this terminal; `up` starts one among others."""
    if context.invoked_subcommand is None:
        from deployments.commands.processes import become_router

        become_router()


@router.command()
def token() -> None:
    """Print the token of the dashboard and the admin API."""
    from quarterdeck.router.access import admin_token

    print(admin_token(terminal.here()))


@router.command()
def upkeep(
    job: Annotated[str, typer.Argument(help="probe, aggregate, retention, backup or rotate.")],
    as_json: AsJson = False,
) -> None:
    """Have the running router do one of its jobs now."""

    async def done(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.post(f"/upkeep/{job}", params={"by": "command line"}))

    result = _asking(done, seconds=600)
    terminal.show(result, as_json, lambda console: console.print(result["text"]))
    raise typer.Exit(0 if result["ok"] else 1)


@router.command()
def restore(
    path: Annotated[Path, typer.Argument(help="A backup that the router wrote.")], as_json: AsJson = False
) -> None:
    """Put a backup in place of the router's tables; the router must not be running."""
    from quarterdeck.kernel.postgres import server_for
    from quarterdeck.router.storage import backup

    with server_for(terminal.here()).running() as server:
        rows = backup.restore(server.url(), path)
    terminal.show(
        {"restored": str(path), "rows": rows},
        as_json,
        lambda console: console.print(f"Restored {sum(rows.values())} rows from {path.name}."),
    )


@router.command()
def ask(
    model: Annotated[str, typer.Argument(help="As `quarterdeck backend list` names it.")],
    words: Annotated[str, typer.Argument(help="What to say.")] = "Say hello in five words.",
    as_json: AsJson = False,
) -> None:
    """Try it: one short chat through the router."""

    async def chatted(admin: "httpx.AsyncClient") -> Any:
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": words}]}
        answer = await admin.post(str(admin.base_url.join("/v1/chat/completions")), json=body)
        if not answer.is_success:
            error = answer.json().get("error", {})
            raise Unavailable(f"The router answered {answer.status_code}: {error.get('message', '')}")
        return answer.json() | {"backend": answer.headers.get("x-quarterdeck-backend", "")}

    said = _asking(chatted, seconds=120)
    text = said["choices"][0]["message"]["content"]
    terminal.show(said, as_json, lambda console: console.print(f"{said['backend']}: {text}", markup=False))


@backend.command("list")
def list_backends(as_json: AsJson = False) -> None:
    """List the backends: where they stand, and the models that they have."""
    found = _asking(_getting("/backends"))

    def people(console: "Console") -> None:
        rows = [
            (b["name"], b["pool"], _standing(b), b["rpm_limit"], sorted(b["model_mappings"])) for b in found
        ]
        terminal.table(
            console,
            ("Backend", "Pool", "Status", "RPM", "Models"),
            rows,
            "There is no backend yet; `quarterdeck backend add` makes one.",
        )

    terminal.show({"items": found, "next_cursor": None}, as_json, people)


def _standing(card: dict[str, Any]) -> str:
    if not card["enabled"]:
        return "disabled"
    reason = card.get("reason") or ""
    until = f" until {card['cooldown_until']}" if card.get("cooldown_until") else ""
    return f"{card['status']}{until}{f': {reason}' if reason else ''}"


@backend.command()
def add(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    url: Annotated[str, typer.Argument(help="Base URL, for example https://api.example/v1.")],
    model: Annotated[
        list[str], typer.Option(help="canonical=native id; again for each model; `=native` may be left out.")
    ],
    key_file: Annotated[
        Path | None, typer.Option(help="File with the API key; else it is asked for, or read from a pipe.")
    ] = None,
    key_connection: Annotated[
        str, typer.Option(help="Name of a `Quarterdeck provider key` block, instead of a key.")
    ] = "",
    api: Annotated[
        str, typer.Option(help="Dialect: openai-completions, anthropic-messages, gemini, …")
    ] = "openai-completions",
    pool: Annotated[str, typer.Option(help="primary or fallback.")] = "primary",
    rpm: Annotated[int, typer.Option(help="Requests per minute.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Add a backend. The key is never an argument: others could read it in the list of processes."""
    wanted = {
        "name": name,
        "api_base_url": url,
        "api": api,
        "pool": pool,
        "rpm_limit": rpm,
        "model_mappings": dict(map(_mapping, model)),
    }
    wanted |= {"key_connection": key_connection} if key_connection else {"api_key": _key(key_file)}

    async def added(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.post("/backends", json=wanted))

    made = _asking(added)
    terminal.show(made, as_json, lambda console: console.print(f"Added {made['name']} ({made['id']})."))


def _mapping(text: str) -> tuple[str, dict[str, str]]:
    canonical, _, native = text.partition("=")
    return canonical, {"native_id": native or canonical}


def _key(file: Path | None) -> str:
    import sys

    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(
                f"The key cannot be read: {error}.", "Name another file.", field="key-file"
            ) from None
    if sys.stdin.isatty():
        return str(typer.prompt("API key", hide_input=True))
    return sys.stdin.readline().strip()


@backend.command()
def remove(which: Which, as_json: AsJson = False) -> None:
    """Remove a backend; what it did stays in the ledger."""

    async def removed(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.delete(f"/backends/{await _id_of(admin, '/backends', which)}"))

    done = _asking(removed)
    terminal.show(done, as_json, lambda console: console.print(f"Removed {which}."))


@backend.command()
def reset(which: Which, as_json: AsJson = False) -> None:
    """End a backend's cooldown or error now."""

    async def done(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.post(f"/backends/{await _id_of(admin, '/backends', which)}/reset"))

    card = _asking(done)
    terminal.show(card, as_json, lambda console: console.print(f"{which} may be called again."))


@backend.command("test")
def test_backend(which: Which, as_json: AsJson = False) -> None:
    """Probe the backends now, and say how this one is; exit code 1 when it cannot be used."""

    async def probed(admin: "httpx.AsyncClient") -> Any:
        identity = await _id_of(admin, "/backends", which)
        _said(await admin.post("/upkeep/probe", params={"by": "command line"}))
        return _said(await admin.get(f"/backends/{identity}"))

    card = _asking(probed, seconds=60)
    terminal.show(card, as_json, lambda console: console.print(f"{card['name']}: {_standing(card)}"))
    raise typer.Exit(0 if card["enabled"] and card["status"] == "healthy" else 1)


@client.command("list")
def list_clients(as_json: AsJson = False) -> None:
    """List who may call, with budgets and what they used today."""
    found = _asking(_getting("/clients"))

    def people(console: "Console") -> None:
        rows = [
            (c["name"], c["agent"], "yes" if c["enabled"] else "no", c["tokens_per_day"], c["cost_per_day"])
            for c in found
        ]
        terminal.table(
            console,
            ("Client", "Agent", "Enabled", "Tokens a day", "USD a day"),
            rows,
            "There is no client yet; `quarterdeck client add` makes one.",
        )

    terminal.show({"items": found, "next_cursor": None}, as_json, people)


@client.command("add")
def add_client(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    agent: Annotated[str, typer.Option(help="Agent that its calls are booked to.")] = "",
    tokens_per_day: Annotated[int | None, typer.Option(help="Budget of a UTC day.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(help="Budget of a UTC day.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for somebody who calls; it is shown only this once."""
    wanted = {
        "name": name,
        "agent": agent,
        "tokens_per_day": tokens_per_day,
        "cost_per_day": usd_per_day,
    }

    async def added(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.post("/clients", json=wanted))

    made = _asking(added)
    terminal.show(made, as_json, lambda console: console.print(f"Key of {name}, shown once: {made['key']}"))


@client.command("remove")
def remove_client(which: Which, as_json: AsJson = False) -> None:
    """Take somebody's key away; what was booked stays."""

    async def removed(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.delete(f"/clients/{await _id_of(admin, '/clients', which)}"))

    done = _asking(removed)
    terminal.show(done, as_json, lambda console: console.print(f"Removed {which}."))


async def _id_of(admin: "httpx.AsyncClient", path: str, which: str) -> str:
    """The id of a name or an id. Raises `NotFound` naming those that exist."""
    cards = _said(await admin.get(path))
    for card in cards:
        if which in (card["id"], card["name"]):
            return str(card["id"])
    raise NotFound.among(path.strip("/").removesuffix("s"), which, (card["name"] for card in cards))


def _getting(path: str) -> "Callable[[httpx.AsyncClient], Awaitable[Any]]":
    async def got(admin: "httpx.AsyncClient") -> Any:
        return _said(await admin.get(path))

    return got


def _said(answer: "httpx.Response") -> Any:
    """The JSON of an answer. Raises what its refusal says, in the router's own words."""
    from quarterdeck.kernel.http import json_of

    if answer.is_client_error and answer.status_code not in (401, 429):
        try:
            told = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            told = f"The router refused: {answer.status_code}"
        raise (NotFound if answer.status_code == 404 else Invalid)(told, "See the command's --help.")
    return json_of(answer)


def _asking(work: "Callable[[httpx.AsyncClient], Awaitable[T]]", *, seconds: float = 10.0) -> T:
    """Do something with the admin API of the running router.

    Raises `Unavailable` when none runs.
    """
    import asyncio

    from quarterdeck.router.access import admin

    settings = terminal.here()

    async def asked() -> T:
        async with admin(settings, seconds=seconds) as open_admin:
            return await work(open_admin)

    try:
        return asyncio.run(asked())
    except Unavailable as error:
        if error.code != "unreachable":
            raise
        raise Unavailable(
            "The router does not run.", "Start it with `quarterdeck up`, or alone with `quarterdeck router`."
        ) from error
