"""How commands speak: tables for people, JSON for programs, errors with what to do next."""

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from quarterdeck.kernel.errors import Invalid, Misconfigured, QuarterdeckError

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic import BaseModel
    from rich.console import Console

    from quarterdeck.house import House
    from quarterdeck.kernel.identity import Caller
    from quarterdeck.kernel.settings import Settings

DOOR = "command line"
WIDEST = 1000
"""Columns of what nobody reads in a terminal."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="The most that is shown.")]
Cursor = Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")]

T = TypeVar("T")
M = TypeVar("M", bound="BaseModel")


def in_house(work: "Callable[[House], Awaitable[T]]") -> T:
    """Open the house, do the work, close it.

    Raises `Misconfigured` where no desk was ever set up.
    """
    import asyncio

    from quarterdeck.house import open_house

    settings = here()
    if settings.database_url is None and not settings.folder.exists():
        raise Misconfigured(
            f"There is no desk in {settings.folder}.",
            "Run `quarterdeck setup` to make one, or set QUARTERDECK_HOME to the folder where it is.",
            code="no_home",
        )

    async def opened() -> T:
        async with open_house(settings) as house:
            return await work(house)

    return asyncio.run(_with_tables(opened()))


async def _with_tables(work: "Awaitable[T]") -> T:
    from psycopg.errors import UndefinedColumn, UndefinedTable
    from sqlalchemy.exc import ProgrammingError

    try:
        return await work
    except ProgrammingError as error:
        if isinstance(error.orig, UndefinedTable | UndefinedColumn):
            raise Misconfigured(
                "The database does not have the tables of this version yet.",
                "Run `quarterdeck setup`; it changes only what is missing.",
                code="not_set_up",
            ) from error
        raise


def here() -> "Settings":
    """The settings of this process, with logs kept to warnings: what a command prints is its answer."""
    from quarterdeck.kernel import log
    from quarterdeck.kernel.settings import load

    settings = load()
    log.set_up(settings, level="debug" if "--debug" in sys.argv else "warning")
    return settings


def owner() -> "Caller":
    """Whoever can run commands in the home is the owner."""
    from quarterdeck.kernel import identity

    return identity.owner(DOOR)


def form(kind: type[M], **fields: Any) -> M:
    """What the options say, checked as the API would check it. Raises `Invalid` naming the option."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "options"
        raise Invalid(
            f"{name}: {first['msg'].removeprefix('Value error, ')}.",
            "See the command's --help.",
            field=name,
        ) from None


def show(value: Any, as_json: bool, people: "Callable[[Console], None]") -> None:
    """The answer of a command."""
    if as_json:
        print(json.dumps(plain(value), ensure_ascii=False, indent=2, default=str))
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDEST  # what goes into a file or a pipe is not cut
    console = Console(highlight=False, markup=False, emoji=False, width=width, soft_wrap=width is not None)
    people(console)  # names may have brackets and colons


def plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def table(console: "Console", head: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Rows under a head, or a sentence when there are none. Cells are shown as they are, without markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(*head, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    if shown.row_count:
        console.print(shown)
    else:
        console.print(empty)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "strftime"):
        return str(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def clock(moment: "datetime | None", *, seconds: bool = False) -> str:
    """A time as it stands on the wall; of another day with its date."""
    if moment is None:
        return "-"
    here = moment.astimezone()
    is_today = here.date() == here.now(here.tzinfo).date()
    return here.strftime(("" if is_today else "%m-%d ") + ("%H:%M:%S" if seconds else "%H:%M"))


def moment(written: str | None) -> "datetime | None":
    """A time that JSON holds."""
    from datetime import datetime

    return datetime.fromisoformat(written) if written else None


def facts(console: "Console", pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values; what is empty is left out."""
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2))
    for name, value in pairs:
        if value not in (None, "", (), []):
            shown.add_row(Text(name, style="bold"), Text(_cell(value)))
    console.print(shown)


def complain(error: QuarterdeckError, as_json: bool) -> int:
    """Say what is wrong and what to do; the exit code."""
    if as_json:
        problem = {"code": error.code, "detail": error.detail, "instruction": error.instruction}
        print(json.dumps(problem | ({"data": plain(error.data)} if error.data else {})), file=sys.stderr)
    else:
        print(f"{error.detail}\n{error.instruction}".strip(), file=sys.stderr)
    return 2 if isinstance(error, Invalid) else 1
