"""`quarterdeck item …`"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

from deployments.commands import terminal
from deployments.commands.terminal import AsJson, Cursor, Limit
from quarterdeck.kernel.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from rich.console import Console

    from quarterdeck.board.cards import Card
    from quarterdeck.crew.cards import RunCard
    from quarterdeck.house import House

app = typer.Typer(help="Work items: file, show, edit, decide, follow.")

Priority = Literal["urgent", "high", "medium", "low", "none"]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The item's key, for example ET-007.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="May stand several times.")]
Needs = Annotated[
    list[str] | None,
    typer.Option("--depends-on", help="An item that must be done first; may stand several times."),
]
Comment = Annotated[str, typer.Option("--comment", "-c", help="Why; kept in the journal.")]
By = Annotated[str | None, typer.Option(help="Whose decision it is, if not yours.")]
Approval = Annotated[
    UUID | None,
    typer.Option(help="The request that is answered, as `item show` says; refused if another waits now."),
]
RequestKey = Annotated[
    str, typer.Option("--request-key", help="A word of yours: said again with it, the decision counts once.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the item rests.")]


@app.command()
def create(
    project: Annotated[str, typer.Argument(help="The project's key.")],
    title: Annotated[str, typer.Argument(help="What is to be done, in a line.")],
    description: Annotated[str, typer.Option("--description", "-d", help="All of it, in Markdown.")] = "",
    priority: Annotated[Priority, typer.Option(help="How soon.")] = "none",
    assignee: Annotated[str | None, typer.Option(help="An agent or a person.")] = None,
    labels: Labels = None,
    depends_on: Needs = None,
    parent: Annotated[str | None, typer.Option(help="The item it is a part of.")] = None,
    by: Annotated[str | None, typer.Option(help="Who asks for it, if not you.")] = None,
    as_json: AsJson = False,
) -> None:
    """File a work item."""
    from quarterdeck.board.cards import Draft

    draft = terminal.form(
        Draft,
        project=project,
        title=title,
        description=description,
        priority=priority,
        assignee=assignee,
        labels=labels or [],
        depends_on=depends_on or [],
        parent=parent,
        by=by,
    )
    card = terminal.in_house(lambda house: house.board.file(terminal.owner(), draft))
    terminal.show(
        card, as_json, lambda console: console.print(f"Filed {card.key}; it waits in {card.stage}.")
    )


@app.command("list")
def list_items(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="For example blocked; may stand several times.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Only in this stage.")] = None,
    assignee: Annotated[str | None, typer.Option(help="Only this agent's or person's.")] = None,
    label: Annotated[str | None, typer.Option(help="Only with this label.")] = None,
    search: Annotated[str, typer.Option(help="In key, title or description.")] = "",
    cursor: Cursor = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List work items, newest first."""
    from quarterdeck.board.cards import Wanted

    wanted = terminal.form(
        Wanted, project=project, state=state or [], stage=stage, assignee=assignee, label=label, q=search
    )
    page = terminal.in_house(lambda house: house.board.items(wanted, cursor, limit))

    def people(console: "Console") -> None:
        rows = [(c.key, c.stage, c.state.value, c.priority.value, c.assignee, c.title) for c in page.items]
        terminal.table(console, ("Key", "Stage", "State", "Priority", "Assignee", "Title"), rows, "No items.")
        if page.next_cursor:
            console.print(f"There are more: --cursor {page.next_cursor}")

    terminal.show(page, as_json, people)


@app.command()
def show(key: Key, as_json: AsJson = False) -> None:
    """Show a work item."""
    _answer(as_json, lambda house: house.board.item(key))


@app.command()
def edit(
    key: Key,
    title: Annotated[str | None, typer.Option(help="What is to be done, in a line.")] = None,
    description: Annotated[str | None, typer.Option("--description", "-d", help="All of it.")] = None,
    priority: Annotated[Priority | None, typer.Option(help="How soon.")] = None,
    assignee: Annotated[str | None, typer.Option(help="An agent or a person; '' = nobody.")] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help="All labels; '' = none.")] = None,
    depends_on: Annotated[
        list[str] | None, typer.Option("--depends-on", help="All items that must be done first; '' = none.")
    ] = None,
    parent: Annotated[str | None, typer.Option(help="The item it is a part of; '' = none.")] = None,
    version: Annotated[int | None, typer.Option(help="Refuse if the item has moved on since.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a work item; what is not named stays as it is."""
    from quarterdeck.board.cards import Changes

    texts = {"title": title, "description": description, "priority": priority, "version": version}
    links = {"assignee": assignee, "parent": parent}
    lists = {"labels": labels, "depends_on": depends_on}
    named: dict[str, Any] = {name: value for name, value in texts.items() if value is not None}
    named |= {name: value or None for name, value in links.items() if value is not None}
    named |= {name: [v for v in values if v] for name, values in lists.items() if values}
    changes = terminal.form(Changes, **named)
    _answer(as_json, lambda house: house.board.edit(terminal.owner(), key, changes))


@app.command()
def approve(
    key: Key,
    comment: Comment = "",
    by: By = None,
    approval: Approval = None,
    request_key: RequestKey = "",
    as_json: AsJson = False,
) -> None:
    """Approve what waits for a decision."""
    said = {"approved": True, "comment": comment, "by": by, "asked": approval, "request_key": request_key}
    _decide(as_json, key, said)


@app.command()
def reject(
    key: Key,
    comment: Annotated[str, typer.Option("--comment", "-c", help="What must change.")],
    by: By = None,
    approval: Approval = None,
    request_key: RequestKey = "",
    as_json: AsJson = False,
) -> None:
    """Reject what waits for a decision; the comment goes back to the agent."""
    said = {"approved": False, "comment": comment, "by": by, "asked": approval, "request_key": request_key}
    _decide(as_json, key, said)


@app.command()
def cancel(key: Key, comment: Comment = "", as_json: AsJson = False) -> None:
    """Stop a work item; `retry` takes it up again."""

    async def cancelled(house: "House") -> "Card":
        return await house.engine.cancel(key, terminal.owner(), comment)

    _answer(as_json, cancelled)


@app.command()
def retry(key: Key, comment: Comment = "", as_json: AsJson = False) -> None:
    """Take a blocked or cancelled work item up again; the comment goes to the agent."""

    async def retried(house: "House") -> "Card":
        return await house.engine.retry(key, terminal.owner(), comment)

    _answer(as_json, retried)


@app.command()
def move(
    key: Key,
    stage: Annotated[str, typer.Argument(help="Its own stage, or one before it.")],
    comment: Comment = "",
    version: Annotated[int | None, typer.Option(help="Refuse if the item has moved on since.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a work item back into a stage, for another round there; the comment goes to the agent."""

    async def moved(house: "House") -> "Card":
        return await house.engine.move(key, terminal.owner(), stage, comment, version)

    _answer(as_json, moved)


@app.command()
def events(key: Key, follow: Follow = False, as_json: AsJson = False) -> None:
    """Show what happened to a work item, oldest first."""

    terminal.in_house(lambda house: _tell(house, key, follow, as_json))


async def _tell(house: "House", key: str, follow: bool, as_json: bool) -> None:
    import asyncio

    seen, is_over = 0, False
    while not is_over:
        is_over = not follow or (await house.board.item(key)).is_resting
        seen = await _tell_events(house, key, seen, as_json)
        if not is_over:
            await asyncio.sleep(0.5)


async def _tell_events(house: "House", key: str, seen: int, as_json: bool) -> int:
    """Print the events after `seen`, one a line; the id of the last one."""
    while True:
        page = await house.board.events(key, seen)
        for entry in page.items:
            seen = entry.id
            at = terminal.clock(entry.at, seconds=True)
            print(entry.model_dump_json() if as_json else f"{at}  {entry.text}", flush=True)
        if page.next_cursor is None:
            return seen


@app.command()
def runs(key: Key, as_json: AsJson = False) -> None:
    """List the agent runs of a work item, in their order."""

    async def found(house: "House") -> "list[RunCard]":
        await house.board.item(key)
        return await house.crew.runs_of(key)

    cards = terminal.in_house(found)

    def people(console: "Console") -> None:
        rows = [
            (r.id, r.stage, r.round, r.agent, r.started_at, r.seconds and f"{r.seconds:.1f}", _ending(r))
            for r in cards
        ]
        head = ("Run", "Stage", "Round", "Agent", "Started", "Seconds", "End")
        terminal.table(console, head, rows, "No agent has worked on it yet.")

    terminal.show({"items": cards, "next_cursor": None}, as_json, people)


@app.command()
def stop(
    key: Key,
    run: Annotated[
        int | None, typer.Option(help="Which run; the newest that goes on and was given by hand.")
    ] = None,
    comment: Comment = "",
    as_json: AsJson = False,
) -> None:
    """Stop an agent that was given something to do by hand; the item goes on as it was."""

    async def stopped(house: "House") -> "RunCard":
        number = await _given_by_hand(house, key, run)
        return await house.assignments.cancel(terminal.owner(), number, comment)

    card = terminal.in_house(stopped)
    terminal.show(card, as_json, lambda console: console.print(f"Run {card.id} of {card.agent} has ended."))


async def _given_by_hand(house: "House", key: str, wanted: int | None) -> int:
    """The run of this item that is meant. Raises `NotFound`."""
    from quarterdeck.crew.model import ASSIGNED

    await house.board.item(key)
    known = await house.crew.runs_of(key)
    if wanted is not None:
        return _one_of(key, [run.id for run in known], wanted)
    going_on = [run.id for run in known if run.stage == ASSIGNED and run.ended_at is None]
    if not going_on:
        raise NotFound(
            f"No run that was given by hand goes on for {key}.",
            f"`quarterdeck item runs {key}` lists all runs; `quarterdeck item cancel {key}` stops a stage's.",
            code="unknown_run",
        )
    return max(going_on)


def _one_of(key: str, known: list[int], wanted: int | None) -> int:
    """The run that is meant; without a wish the newest. Raises `NotFound`."""
    if not known:
        fix = f"`quarterdeck item events {key}` says what happened so far."
        raise NotFound(f"There is no run of {key} yet.", fix, code="unknown_run")
    if wanted is not None and wanted not in known:
        there = ", ".join(map(str, known[-20:]))
        raise NotFound(f"There is no run {wanted} of {key}.", f"There is: {there}.", code="unknown_run")
    return known[-1] if wanted is None else wanted


def _ending(run: "RunCard") -> str:
    if run.ended_at is None:
        return run.state.value
    if run.cancelled:
        return f"cancelled: {run.error}"
    if run.timed_out:
        return "killed at its limit"
    if run.exit_code is None:
        return f"never launched: {run.error}"
    return "finished" if run.exit_code == 0 and not run.error else f"failed ({run.exit_code}) {run.error}"


@app.command()
def log(
    key: Key,
    run: Annotated[int | None, typer.Option(help="Which run; the newest if not said.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what an agent said while it worked on a work item."""
    said = terminal.in_house(lambda house: _say(house, key, run, follow, as_json))
    if as_json:
        terminal.show({"log": said}, as_json, lambda console: None)


async def _say(house: "House", key: str, run_id: int | None, follow: bool, as_json: bool) -> str:
    """Print the log as it comes, or only collect it for JSON."""
    await house.board.item(key)
    number = _one_of(key, [run.id for run in await house.crew.runs_of(key)], run_id)
    said: list[str] = []
    async for piece in await house.crew.log(number, live=follow):
        if as_json:
            said.append(piece)
        else:
            print(piece, end="", flush=True)
    return "".join(said)


def _decide(as_json: bool, key: str, said: dict[str, Any]) -> None:
    async def decided(house: "House") -> "Card":
        await house.engine.decide(key, terminal.owner(), **said)
        return await house.board.item(key)

    _answer(as_json, decided)


def _answer(as_json: bool, work: "Callable[[House], Awaitable[Card]]") -> None:
    """Do it, then show the item as it is now."""
    card = terminal.in_house(work)

    def people(console: "Console") -> None:
        console.print(f"{card.key}  {card.title}", style="bold", markup=False)
        move = card.move or {}
        terminal.facts(
            console,
            [
                ("State", f"{card.state.value} in {card.stage}, round {card.round}"),
                ("Whose move", move.get("whose")),
                ("Since", terminal.moment(move.get("since"))),
                ("Why", move.get("why")),
                ("What to do", move.get("todo")),
                ("Approval", move.get("approval")),
                ("Waits for", card.waiting_for),
                ("Priority", card.priority.value),
                ("Assignee", card.assignee),
                ("Labels", card.labels),
                ("Parent", card.parent),
                ("Depends on", card.depends_on),
                ("Reporter", card.reporter),
                ("Filed", card.created_at),
                ("Version", card.version),
                ("Description", card.description),
            ],
        )

    terminal.show(card, as_json, people)
