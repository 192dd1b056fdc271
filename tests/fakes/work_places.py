"""Places where work waits, each with its source and a hand that puts work there."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from quarterdeck.board.cards import Draft, ProjectDraft
from quarterdeck.board.model import WorkItem
from quarterdeck.heartbeat.sources.every import Sources
from quarterdeck.heartbeat.work import Ref, Source, Watched
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source as Origin
from quarterdeck.kernel.identity import owner
from quarterdeck.pipeline import store as engine_store
from tests.fakes.installed import openclaw_program
from tests.fakes.installed.state_file import opened
from tests.fakes.multica import FakeMultica
from tests.fakes.plane import FakePlane
from tests.fakes.programs import installed

ADA, BOB = "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"


class Place(Protocol):
    """One place. Agents are `developer` and `reviewer`."""

    source: Source
    agents: tuple[Watched, ...]

    async def put(self, title: str, agent: str | None = "developer") -> Ref: ...

    async def comments(self, ref: Ref) -> list[str]: ...


async def connect(house: House, kind: str, value: dict[str, Any]) -> None:
    async with house.database.command("connect") as unit:
        await house.connections.put(unit, kind, "default", value, Origin.API)


def watched(folder: Path) -> tuple[Watched, ...]:
    return (
        Watched("developer", ADA, str(folder / "developer")),
        Watched("reviewer", BOB, str(folder / "reviewer")),
    )


class FakeOpenClaw:
    """The program `openclaw` and its state."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "openclaw.json"
        self.program = installed(folder / "bin", "openclaw", "openclaw_program.py", self.file)

    @property
    def connection(self) -> dict[str, Any]:
        return {"program": str(self.program)}

    def change(self, do: Callable[[dict[str, Any]], Any]) -> Any:
        with opened(self.file, openclaw_program.EMPTY) as state:
            return do(state)

    def set(self, **values: Any) -> None:
        self.change(lambda state: state.update(values))

    @property
    def calls(self) -> list[list[str]]:
        return list(self.change(lambda state: state["calls"]))

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Without those that OpenClaw brings along."""
        ours = (job for job in self.change(lambda state: state["jobs"]) if "built-in" not in job["name"])
        return list(ours)

    def card(self, title: Any, agent: str | None = "developer", **fields: Any) -> str:
        """Put a card there; its id."""

        def make(state: dict[str, Any]) -> str:
            made = openclaw_program.created(state, {"agent": agent or ""}, [str(title)])["card"]
            made.update(fields)
            return str(made["id"])

        found: str = self.change(make)
        return found


@dataclass
class WorkBoardPlace:
    openclaw: FakeOpenClaw
    sources: Sources
    agents: tuple[Watched, ...]
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.sources.workboard

    async def put(self, title: str, agent: str | None = "developer") -> Ref:
        return Ref("workboard", self.openclaw.card(title, agent))

    async def comments(self, ref: Ref) -> list[str]:
        return await self.sources.workboard._notes.said(ref)


@dataclass
class MulticaPlace:
    multica: FakeMultica
    source: Source
    agents: tuple[Watched, ...]

    async def put(self, title: str, agent: str | None = "developer") -> Ref:
        ids = {a.slug: a.multica_id for a in self.agents}
        fields = {"assignee_type": "agent", "assignee_id": ids[agent]} if agent else {}
        return Ref("multica", self.multica.file(title, **fields)["id"])

    async def comments(self, ref: Ref) -> list[str]:
        return self.multica.comments(ref.id)


@dataclass
class DocumentsPlace:
    sources: Sources
    agents: tuple[Watched, ...]
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.sources.documents

    async def put(self, title: str, agent: str | None = "developer") -> Ref:
        folder = Path(next(a.workspace for a in self.agents if a.slug == (agent or "developer")))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "TODO.md").open("a") as file:
            file.write(f"- [ ] {title}\n")
        self.sources.documents._glance.forget()
        answer = await self.source.look(self.agents)
        return next(found.ref for found in answer.found if found.title == title)

    async def comments(self, ref: Ref) -> list[str]:
        return await self.sources.documents._notes.said(ref)


@dataclass
class PlanePlace:
    plane: FakePlane
    source: Source
    agents: tuple[Watched, ...]
    project: str = ""

    async def put(self, title: str, agent: str | None = "developer") -> Ref:
        self.project = self.project or self.plane.books.project("OPS", "Operations")
        books = self.plane.books
        labels = [books.label(self.project, f"agent:{agent}")] if agent else []
        state = books.state_named(self.project, "Todo")
        issue = books.file(self.project, books.person("anna"), title, labels=labels, state=state)
        return Ref("plane", f"{self.project}/{issue}")

    async def comments(self, ref: Ref) -> list[str]:
        issue = ref.id.partition("/")[2]
        rows = (row for row in self.plane.books.comments.values() if row["issue"] == issue)
        return [str(row["comment_html"]) for row in rows]


@dataclass
class BoardPlace:
    house: House
    agents: tuple[Watched, ...]
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.house.sources.board

    async def put(self, title: str, agent: str | None = "developer") -> Ref:
        """Items are whose stage they stand in: here all in development."""
        card = await self.house.board.file(owner("test"), Draft(project="ET", title=title))
        self.house.sources.board._glance.forget()
        async with self.house.database.command("place an item") as unit:
            item: WorkItem = await engine_store.item_for_update(unit.session, card.key)
            item.stage, item.assignee = ("development" if agent == "developer" else "merge"), agent
            if agent == "reviewer":
                item.stage = "review"
        return Ref("board", card.key)

    async def comments(self, ref: Ref) -> list[str]:
        page = await self.house.board.events(ref.id)
        return [str(e.data.get("comment")) for e in page.items if e.kind == "item_remarked"]


Opening = Callable[[House, Path], AbstractAsyncContextManager[Place]]


@asynccontextmanager
async def board_place(house: House, folder: Path) -> AsyncIterator[Place]:
    await house.board.create_project(owner("test"), ProjectDraft(key="ET", name="Enduro"))
    yield BoardPlace(house, watched(folder))


@asynccontextmanager
async def workboard_place(house: House, folder: Path) -> AsyncIterator[Place]:
    openclaw = FakeOpenClaw(folder / "openclaw")
    await connect(house, "openclaw_cli", openclaw.connection)
    yield WorkBoardPlace(openclaw, house.sources, watched(folder))


def multica_place(via: str) -> Opening:
    @asynccontextmanager
    async def place(house: House, folder: Path) -> AsyncIterator[Place]:
        with FakeMultica(folder / "multica") as multica:
            await connect(house, "multica", multica.connection(via))
            yield MulticaPlace(multica, house.sources.multica, watched(folder))

    return place


@asynccontextmanager
async def documents_place(house: House, folder: Path) -> AsyncIterator[Place]:
    yield DocumentsPlace(house.sources, watched(folder / "workspaces"))


@asynccontextmanager
async def plane_place(house: House, folder: Path) -> AsyncIterator[Place]:
    with FakePlane() as plane:
        await connect(house, "plane", plane.connection)
        yield PlanePlace(plane, house.sources.plane, watched(folder))


PLACES: dict[str, Opening] = {
    "board": board_place,
    "workboard": workboard_place,
    "multica_cli": multica_place("cli"),
    "multica_rest": multica_place("rest"),
    "documents": documents_place,
    "plane": plane_place,
}
