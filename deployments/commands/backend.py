"""`quarterdeck backend …`: who answers model calls."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deployments.commands import terminal
from deployments.commands.router_admin import Which, asking, card_of, changed, getting, id_of, said
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.errors import Invalid

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

app = typer.Typer(help="Providers of models: keys and addresses that the router calls.")

Pool = Literal["primary", "fallback"]


@app.command("list")
def list_backends(as_json: AsJson = False) -> None:
    """List the backends: where they stand, and the models that they have."""
    found = asking(getting("/backends"))

    def people(console: "Console") -> None:
        rows = [
            (b["name"], b["pool"], standing(b), b["rpm_limit"], sorted(b["model_mappings"]), b["id"])
            for b in found
        ]
        terminal.table(
            console,
            ("Backend", "Pool", "Status", "RPM", "Models", "Id"),
            rows,
            "There is no backend yet; `quarterdeck backend add` makes one.",
        )

    terminal.show({"items": found, "next_cursor": None}, as_json, people)


def standing(card: dict[str, Any]) -> str:
    """How a backend stands, in words: its status, or what probes and failures say where that is worse."""
    if not card["enabled"]:
        return "disabled"
    word = card.get("health", "healthy") if card["status"] == "healthy" else card["status"]
    reason = card.get("reason") or ""
    until = f" until {card['cooldown_until']}" if card.get("cooldown_until") else ""
    return f"{word}{until}{f': {reason}' if reason else ''}"


def may_be_called(card: dict[str, Any]) -> bool:
    """Whether calls are sent to it now, as routing decides it."""
    return card["enabled"] and card["status"] == "healthy" and card.get("health") != "down"


def is_out(card: dict[str, Any]) -> bool:
    """Whether it is out of use until it is mended: its key was refused, or it does not answer."""
    return card["enabled"] and (card["status"] == "error" or card.get("health") == "down")


@app.command()
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
    pool: Annotated[
        Pool, typer.Option(help="Those of fallback are called when primary is used up.")
    ] = "primary",
    rpm: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Requests per minute; unset = SIDECAR_RATE_RPM.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a backend. The key is never an argument: others could read it in the list of processes."""
    wanted: dict[str, Any] = {
        "name": name,
        "api_base_url": url,
        "api": api,
        "pool": pool,
        "model_mappings": dict(map(_mapping, model)),
    }
    wanted |= {} if rpm is None else {"rpm_limit": rpm}
    wanted |= {"key_connection": key_connection} if key_connection else {"api_key": _key(key_file)}

    async def added(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.post("/backends", json=wanted))

    made = asking(added)
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


@app.command()
def edit(
    which: Which,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    url: Annotated[str | None, typer.Option(help="Base URL.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="canonical=native id: a model more, or called otherwise there.")
    ] = None,
    without_model: Annotated[list[str] | None, typer.Option(help="A model that it has no more.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with the new API key.")] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="The key is another: it is asked for, or read from a pipe.")
    ] = False,
    key_connection: Annotated[
        str | None, typer.Option(help="Name of a `Quarterdeck provider key` block, instead of a key.")
    ] = None,
    api: Annotated[str | None, typer.Option(help="Dialect.")] = None,
    pool: Annotated[Pool | None, typer.Option(help="Which of the pools.")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, max=1000, help="Requests per minute.")] = None,
    timeout: Annotated[int | None, typer.Option(min=10, max=600, help="Longest silence, in seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a backend; what is not said stays. A cooldown or an error is ended by `reset`."""
    said_so = {
        "name": name,
        "api_base_url": url,
        "key_connection": key_connection,
        "api": api,
        "pool": pool,
        "rpm_limit": rpm,
        "timeout_seconds": timeout,
    }
    values: dict[str, Any] = {field: value for field, value in said_so.items() if value is not None}
    if key_file or new_key:
        values["api_key"] = _key(key_file)
    if model or without_model:
        mappings = asking(lambda admin: card_of(admin, "/backends", which))["model_mappings"]
        values["model_mappings"] = _remapped(mappings, model or [], without_model or [])
    card = changed("/backends", which, values)
    terminal.show(card, as_json, lambda console: console.print(f"Changed {card['name']}."))


def _remapped(present: dict[str, Any], more: list[str], fewer: list[str]) -> dict[str, Any]:
    """What is known of a model besides its native id stays. Raises `Invalid` for one that is not there."""
    mappings = dict(present)
    for canonical, mapping in map(_mapping, more):
        mappings[canonical] = mappings.get(canonical, {}) | mapping
    for canonical in fewer:
        if mappings.pop(canonical, None) is None:
            there = ", ".join(sorted(present))
            raise Invalid(f"It has no model {canonical!r}.", f"It has: {there}.", field="without-model")
    return mappings


@app.command()
def enable(which: Which, as_json: AsJson = False) -> None:
    """Let a backend be called again."""
    card = changed("/backends", which, {"enabled": True})
    terminal.show(card, as_json, lambda console: console.print(f"{card['name']} may be called."))


@app.command()
def disable(which: Which, as_json: AsJson = False) -> None:
    """Call a backend no more, until it is enabled again."""
    card = changed("/backends", which, {"enabled": False})
    terminal.show(card, as_json, lambda console: console.print(f"{card['name']} is called no more."))


@app.command()
def remove(which: Which, as_json: AsJson = False) -> None:
    """Remove a backend; what it did stays in the ledger."""

    async def removed(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.delete(f"/backends/{await id_of(admin, '/backends', which)}"))

    done = asking(removed)
    terminal.show(done, as_json, lambda console: console.print(f"Removed {which}."))


@app.command()
def reset(which: Which, as_json: AsJson = False) -> None:
    """End a backend's cooldown or error now."""

    async def done(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.post(f"/backends/{await id_of(admin, '/backends', which)}/reset"))

    card = asking(done)
    terminal.show(card, as_json, lambda console: console.print(f"{which} may be called again."))


@app.command("test")
def test_backend(which: Which, as_json: AsJson = False) -> None:
    """Probe the backends now, and say how this one is; exit code 1 when it cannot be used."""

    async def probed(admin: "httpx.AsyncClient") -> Any:
        identity = await id_of(admin, "/backends", which)
        before = said(await admin.get(f"/backends/{identity}"))
        said(await admin.post("/upkeep/probe", params={"by": "command line"}))
        return before, said(await admin.get(f"/backends/{identity}"))

    before, card = asking(probed, seconds=60)
    terminal.show(card, as_json, lambda console: console.print(f"{card['name']}: {standing(card)}"))
    has_failed = card.get("failures", 0) > before.get("failures", 0)
    raise typer.Exit(0 if may_be_called(card) and not has_failed else 1)
