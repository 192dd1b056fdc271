"""The command line, put together. Exit codes: 0 ok, 1 failed, 2 wrong use, 130 stopped by Ctrl-C."""

import sys
from typing import Annotated

import typer
from typer._click.exceptions import ClickException  # typer has its own click, and no other name for this

from deployments.commands import (
    agent,
    backend,
    bot,
    client,
    connection,
    doctor,
    forge,
    host,
    item,
    keys,
    letters,
    plane,
    processes,
    project,
    router,
    routes,
    status,
    terminal,
    webhook,
)
from deployments.commands.heartbeat_upkeep import app as heartbeat_app
from quarterdeck import __version__
from quarterdeck.kernel.errors import Invalid, QuarterdeckError

app = typer.Typer(
    name="quarterdeck",
    help="The desk from which a small company runs a crew of AI agents.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        print(f"quarterdeck {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything and show tracebacks.")] = False,
) -> None:
    """The desk from which a small company runs a crew of AI agents."""


app.command(rich_help_panel="Everything at once")(processes.setup)
app.command(rich_help_panel="Everything at once")(processes.up)
app.command(rich_help_panel="Everything at once")(processes.demo)
app.command(rich_help_panel="Look")(status.status)
app.command(rich_help_panel="Look")(doctor.doctor)
app.command("check-agents", rich_help_panel="Look")(routes.check_agents)
app.add_typer(project.app, name="project", rich_help_panel="Work")
app.add_typer(item.app, name="item", rich_help_panel="Work")
app.add_typer(forge.app, name="forge", rich_help_panel="Work")
app.add_typer(agent.app, name="agent", rich_help_panel="Work")
app.add_typer(heartbeat_app, name="heartbeat", rich_help_panel="Work")
app.add_typer(host.app, name="host", rich_help_panel="Upkeep")
app.add_typer(bot.app, name="bot", rich_help_panel="Messages")
app.add_typer(plane.app, name="plane", rich_help_panel="Work")
app.add_typer(backend.app, name="backend", rich_help_panel="Models")
app.add_typer(client.app, name="client", rich_help_panel="Models")
app.add_typer(router.app, name="router", rich_help_panel="Models")
app.add_typer(letters.notify, name="notify", rich_help_panel="Messages")
app.add_typer(letters.outbox, name="outbox", rich_help_panel="Messages")
app.add_typer(letters.dead_letters, name="dead-letters", rich_help_panel="Messages")
app.add_typer(webhook.app, name="webhook", rich_help_panel="Messages")
app.add_typer(connection.app, name="connection", rich_help_panel="Upkeep")
app.add_typer(keys.app, name="keys", rich_help_panel="Upkeep")
for single in (processes.desk, processes.web, processes.runner):
    app.command(rich_help_panel="Single processes")(single)


def run(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    as_json = "--json" in arguments
    try:
        _must_be_text(arguments)
        code = app(args=arguments, prog_name="quarterdeck", standalone_mode=not as_json)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except ClickException as error:
        return terminal.complain(_wrong_use(error), as_json)
    except QuarterdeckError as error:
        if "--debug" in arguments:
            raise
        return terminal.complain(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if "--debug" in arguments:
            raise
        return terminal.complain(_unexpected(error), as_json)


def _must_be_text(arguments: list[str]) -> None:
    """Bytes that are no UTF-8 come as what no table and no file of ours can hold. Raises `Invalid`."""
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise Invalid(
                f"Argument {number} is not text in UTF-8.", "Write it in UTF-8.", code="usage"
            ) from None


def _wrong_use(error: ClickException) -> Invalid:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "quarterdeck"
    return Invalid(error.format_message(), f"`{command} --help` says how it is used.", code="usage")


def _unexpected(error: Exception) -> QuarterdeckError:
    return QuarterdeckError(
        f"Something unexpected happened: {type(error).__name__}.",
        "The same command with `quarterdeck --debug …` shows where.",
        code="internal",
    )


def main() -> None:
    """The program `quarterdeck`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
