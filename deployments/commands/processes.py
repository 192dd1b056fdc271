"""`quarterdeck setup | up | demo | desk | web | runner`: what starts something."""

import os
import subprocess
import sys
from typing import Annotated, Literal

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson


def up(as_json: AsJson = False) -> None:
    """Open the desk: database, Prefect, router, web, desk, runner; Ctrl-C closes it."""
    import deployments.up

    raise typer.Exit(deployments.up.main(terminal.here(), as_json=as_json))


def setup(
    apply: Annotated[bool, typer.Option(help="Let roster and pipeline files win over the tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make everything that must be there; doing it again changes nothing."""
    import deployments.setup

    raise typer.Exit(deployments.setup.main(terminal.here(), apply=apply, as_json=as_json))


def demo(
    keep_open: Annotated[bool, typer.Option(help="Leave the desk open afterwards, until Ctrl-C.")] = False,
    heartbeat: Annotated[bool, typer.Option(help="Simulate a week of fifteen agents instead.")] = False,
    days: Annotated[float, typer.Option(min=0.5, max=31, help="Days of that simulation.")] = 7,
    seed: Annotated[int, typer.Option(help="What goes wrong in it; the same seed is the same week.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Watch one work item go from filing to done, in a home of its own; or a week of heartbeats."""
    from rich.console import Console

    if heartbeat:
        import deployments.simulation.demo

        raise typer.Exit(
            deployments.simulation.demo.main(Console(highlight=False), days=days, seed=seed, as_json=as_json)
        )
    if as_json:
        raise typer.BadParameter("only the simulation says anything as JSON: add --heartbeat")
    import deployments.demo

    raise typer.Exit(deployments.demo.main(Console(highlight=False), keep_open=keep_open))


def desk() -> None:
    """Run one desk in this terminal; `up` starts one among others."""
    _become("desk")


def web() -> None:
    """Run the web process in this terminal."""
    _become("web")


def runner() -> None:
    """Run the runner in this terminal: it serves the catalogue to Prefect."""
    _become("runner")


def become_router() -> None:
    """Be the router from now on; its tables are made first if they are not there."""
    from deployments import home, parts, supervisor

    settings = terminal.here()
    home.make(settings)
    program = parts.router(settings)
    core = [sys.executable, "-m", "deployments.setup", "core", "--only-changes"]
    if code := subprocess.run(core, env=dict(program.environment), cwd=supervisor.ROOT).returncode:
        raise typer.Exit(code)
    os.execve(sys.executable, [sys.executable, "-m", *program.arguments], dict(program.environment))


def _become(part: Literal["desk", "web", "runner"]) -> None:
    """Be that process from now on, in the environment that `up` would give it."""
    from deployments import home, parts
    from quarterdeck.kernel.postgres import explain_os

    settings = terminal.here()
    home.make(settings)
    with explain_os(settings.folder):
        settings = settings.model_copy(update={"prefect_port": home.prefect_port(settings)})
        environment = parts.environment(settings, os.environ)
    os.execve(sys.executable, [sys.executable, "-m", f"deployments.{part}"], environment)
