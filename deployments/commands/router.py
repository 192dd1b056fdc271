"""`quarterdeck router …`: the process itself, its upkeep, its backups."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.commands import terminal
from deployments.commands.router_admin import asking, said
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.errors import Unavailable
from quarterdeck.kernel.words import counted

if TYPE_CHECKING:
    import httpx

app = typer.Typer(help="Model calls: the process itself, its upkeep, its backups.")

ASKING = "quarterdeck router ask"
"""The client of `ask`, made when calls need a key and no proxy token is known."""

NEXT = {
    401: f'If its client is disabled, `quarterdeck client enable "{ASKING}"` lets it in again.',
    429: f'If the budget of its client is used up, `quarterdeck client edit "{ASKING}"` changes it.',
    404: "`quarterdeck backend list` shows the models that there are.",
}
"""What to do when the router refuses."""


@app.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Without a command: run the router in this terminal; `up` starts one among others."""
    if context.invoked_subcommand is None:
        from deployments.commands.processes import become_router

        become_router()


@app.command()
def token() -> None:
    """Print the token of the dashboard and the admin API."""
    from quarterdeck.router.access import admin_token

    print(admin_token(terminal.here()))


@app.command()
def upkeep(
    job: Annotated[str, typer.Argument(help="probe, aggregate, retention, backup or rotate.")],
    as_json: AsJson = False,
) -> None:
    """Have the running router do one of its jobs now."""

    async def done(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.post(f"/upkeep/{job}", params={"by": "command line"}))

    result = asking(done, seconds=600)
    terminal.show(result, as_json, lambda console: console.print(result["text"]))
    raise typer.Exit(0 if result["ok"] else 1)


@app.command()
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
        lambda console: console.print(f"Restored {counted(sum(rows.values()), 'row')} from {path.name}."),
    )


@app.command()
def ask(
    model: Annotated[str, typer.Argument(help="As `quarterdeck backend list` names it.")],
    words: Annotated[str, typer.Argument(help="What to say.")] = "Say hello in five words.",
    as_json: AsJson = False,
) -> None:
    """Try it: one short chat through the router, with the proxy token or, if need be, a key of its own."""
    from quarterdeck.router import config

    proxy = config.load().proxy_token
    body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": words}]}

    async def chatted(admin: "httpx.AsyncClient") -> Any:
        answer = await _call(admin, body, proxy.get_secret_value() if proxy else ASKING)
        if answer.status_code == 401:
            answer = await _call(admin, body, await _own_key(admin))
        return _heard(answer)

    told = asking(chatted, seconds=120)
    text = told["choices"][0]["message"]["content"]
    terminal.show(told, as_json, lambda console: console.print(f"{told['backend']}: {text}", markup=False))


async def _call(admin: "httpx.AsyncClient", body: dict[str, Any], key: str) -> "httpx.Response":
    address = str(admin.base_url.join("/v1/chat/completions"))
    return await admin.post(address, json=body, headers={"Authorization": f"Bearer {key}"})


async def _own_key(admin: "httpx.AsyncClient") -> str:
    """The key of this command's own client: another one each time, for it is told only when it is made."""
    for card in said(await admin.get("/clients")):
        if card["name"] == ASKING:
            return str(said(await admin.post(f"/clients/{card['id']}/key"))["key"])
    return str(said(await admin.post("/clients", json={"name": ASKING}))["key"])


def _heard(answer: "httpx.Response") -> dict[str, Any]:
    from quarterdeck.kernel.http import json_of

    if answer.is_success:
        heard: dict[str, Any] = json_of(answer)
        return heard | {"backend": answer.headers.get("x-quarterdeck-backend", "")}
    try:
        told = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        told = answer.reason_phrase
    raise Unavailable(
        f"The router answered {answer.status_code}: {told}",
        NEXT.get(
            answer.status_code, "`quarterdeck backend list` shows who could answer, and how they stand."
        ),
        code="refused",
    )
