"""`quarterdeck doctor`: is every part well?"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson
from quarterdeck import __version__

if TYPE_CHECKING:
    from deployments.doctor import Result

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended safely.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every part; exit code 1 when something is broken."""
    import asyncio

    results = asyncio.run(_examine(fix, as_json))
    is_well = all(result.verdict != "fail" for result in results)
    if as_json:
        answer = {"ok": is_well, "version": __version__, "checks": [asdict(result) for result in results]}
        terminal.show(answer, as_json, lambda console: None)
    raise typer.Exit(0 if is_well else 1)


async def _examine(fix: bool, as_json: bool) -> "list[Result]":
    from deployments.checks import CHECKS
    from deployments.doctor import examine

    results = []
    if not as_json:
        print(f"quarterdeck {__version__}")
    async for result in examine(terminal.here(), CHECKS, fix=fix):
        results.append(result)
        if not as_json:
            _tell(result)
    return results


def _tell(result: "Result") -> None:
    from rich.console import Console
    from rich.text import Text

    mark, color = _MARKS[result.verdict]
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(mark, style=color), Text(f"{result.check}: {result.detail}"))
    told = (result.meaning, result.mended or result.fix) if result.verdict != "ok" else (result.mended,)
    for line in filter(None, told):
        console.print(Text(f"       {line}"))
