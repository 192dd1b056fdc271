"""`quarterdeck bot`: the Telegram bots of the agents."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.errors import Invalid

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.house import House
    from quarterdeck.telegram.requests import SendAnswer

app = typer.Typer(help="Telegram bots of the agents.")

Agent = Annotated[str, typer.Argument(help="The agent; the desk's own bot is that of `desk`.")]


@app.callback()
def _group() -> None:
    """Telegram bots of the agents."""


@app.command("list")
def list_bots(as_json: AsJson = False) -> None:
    """List bots, each with when it last routed a message and how many wait to be sent."""
    cards = terminal.in_house(lambda house: house.bots.list())

    def people(console: "Console") -> None:
        rows = [
            (c.agent_id, f"@{c.username}", c.bot_id, c.status, c.last_poll or "", c.queue_length, c.trouble)
            for c in cards
        ]
        head = ("Agent", "Bot", "Id", "Status", "Last poll", "Queue", "Trouble")
        terminal.table(console, head, rows, "No bots. Register one: quarterdeck bot register <agent>")

    terminal.show({"items": cards, "next_cursor": None}, as_json, people)


@app.command()
def register(
    agent: Agent,
    chat: Annotated[list[int] | None, typer.Option(help="Listen to this chat only; repeatable.")] = None,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Give an agent a bot. The token is asked for, or read from the input: it never stands in a command."""
    token = _token()
    done = terminal.in_house(lambda house: house.bots.register(agent, token, allowed_chats=chat, name=name))
    terminal.show(
        done, as_json, lambda console: console.print(f"@{done.username} ({done.bot_id}) speaks for {agent}.")
    )


def _token() -> str:
    token = (
        typer.prompt("Token from @BotFather", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    )
    if not token.strip():
        raise Invalid(
            "There is no token.", "Give it on the input: quarterdeck bot register analyst < token.txt"
        )
    return str(token).strip()


@app.command()
def forget(agent: Agent, as_json: AsJson = False) -> None:
    """Stop a bot and forget its token; what it still had to say is refused."""
    terminal.in_house(lambda house: house.bots.forget(agent))
    done = {"agent_id": agent, "status": "forgotten"}
    terminal.show(done, as_json, lambda console: console.print(f"The bot of {agent} is forgotten."))


@app.command()
def test(
    agent: Agent,
    chat: Annotated[int | None, typer.Argument(help="Also send a message there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask Telegram who the bot is, and send a message if a chat is given; exit code 1 when that fails."""

    async def trial(house: "House") -> dict[str, object]:
        token, base = await house.bots.token(agent)
        me = await house.bots.identify(token, base)
        sent = await _say(house, agent, chat) if chat is not None else None
        return {
            "agent_id": agent,
            "bot_id": me.bot_id,
            "username": me.username,
            "message": sent.model_dump() if sent else None,
            "ok": sent is None or sent.status == "sent",
        }

    found = terminal.in_house(trial)
    terminal.show(found, as_json, lambda console: _describe(console, found))
    raise typer.Exit(0 if found["ok"] else 1)


def _describe(console: "Console", found: "dict[str, Any]") -> None:
    sent = found["message"] or {}
    words = (sent.get("status"), sent.get("reason"))
    pairs = [("Agent", found["agent_id"]), ("Bot", f"@{found['username']}"), ("Id", found["bot_id"])]
    terminal.facts(console, [*pairs, ("Message", ": ".join(filter(None, words)))])


async def _say(house: "House", agent: str, chat: int) -> "SendAnswer":
    from quarterdeck.telegram.requests import SendRequest, answer_of

    request = SendRequest(agent_id=agent, chat_id=chat, text="Quarterdeck: ✓")
    return answer_of(await house.asked.send(request))


@app.command()
def move(
    agent: Agent,
    close: Annotated[
        bool, typer.Option("--close", help="Leave a local server for another one (`close`), not the cloud.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a bot out of its Bot API server, so that another one may serve it.

    Stop the listener first, then move, then set TELEGRAM_API_BASE; where the bot's block has an address of
    its own, that one. The way back opens after ten minutes.
    """
    method = "close" if close else "logOut"
    place = terminal.in_house(lambda house: house.bots.sign_out(agent, method))
    done = {"agent_id": agent, "status": "moved", "method": method, "address_from": place}
    wanted = f"the address in the connection {place}" if "/" in place else place
    terminal.show(
        done, as_json, lambda console: console.print(f"{agent}'s bot is signed out: now set {wanted}.")
    )


@app.command()
def run() -> None:
    """Run the listener in this terminal, without Prefect; Ctrl-C lets it finish what is under way."""
    import asyncio
    import signal

    from quarterdeck.house import open_house
    from quarterdeck.kernel import log as logs
    from quarterdeck.listener import listen

    settings = terminal.here()
    logs.set_up(settings)

    async def serve() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        async with open_house(settings) as house:
            await listen(house, stopping)

    asyncio.run(serve())
