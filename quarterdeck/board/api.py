"""The board's HTTP routes. `app.state.board` is the service."""

import re
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Query, Request, Response
from pydantic import Field

from quarterdeck.board.cards import (
    Card,
    Changes,
    Draft,
    Entry,
    ProjectCard,
    ProjectChanges,
    ProjectDraft,
    Wanted,
)
from quarterdeck.board.service import Board
from quarterdeck.kernel.errors import Invalid
from quarterdeck.kernel.paging import MOST, Page
from quarterdeck.kernel.web import Known, RequestKey, problems, room

router = room("Board")

Shown = TypeVar("Shown", Card, ProjectCard)


def _board(request: Request) -> Board:
    board: Board = request.app.state.board
    return board


TheBoard = Annotated[Board, Depends(_board)]
Cursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="The most that a page holds.")]
IfMatch = Annotated[str, Header(description="The ETag that was read.", examples=['"3"'])]


class ItemQuery(Wanted):
    """Which items, and which page of them."""

    cursor: str | None = Field(default=None, max_length=300, description="`next_cursor` of the page before.")
    limit: int = Field(default=50, ge=1, le=MOST, description="The most that a page holds.")


@router.post("/projects", status_code=201, summary="Create a project", responses=problems(403, 404, 409))
async def create_project(
    board: TheBoard, caller: Known, draft: ProjectDraft, request_key: RequestKey = ""
) -> ProjectCard:
    """The key is the beginning of the keys of its items: `ET` gives `ET-001`."""
    return await board.create_project(caller, draft, request_key)


@router.get("/projects", summary="List the projects")
async def list_projects(board: TheBoard, cursor: Cursor = None, limit: Limit = 50) -> Page[ProjectCard]:
    """By key."""
    return await board.projects(cursor, limit)


@router.get("/projects/{key}", summary="Show a project", responses=problems(404))
async def show_project(board: TheBoard, key: str, response: Response) -> ProjectCard:
    """One project. The ETag is its version."""
    return _tagged(response, await board.project(key))


@router.patch("/projects/{key}", summary="Edit a project", responses=problems(403, 404, 409, 412))
async def edit_project(
    board: TheBoard,
    caller: Known,
    key: str,
    changes: ProjectChanges,
    response: Response,
    if_match: IfMatch = "*",
) -> ProjectCard:
    """Only the named fields change. In an archived project nothing is filed; what is open there goes on."""
    return _tagged(response, await board.edit_project(caller, key, changes, _version(if_match)))


@router.post("/items", status_code=201, summary="File a work item", responses=problems(403, 404, 409))
async def file_item(
    board: TheBoard, caller: Known, draft: Draft, response: Response, request_key: RequestKey = ""
) -> Card:
    """It gets the next key of its project and waits in the first stage of the project's pipeline."""
    return _tagged(response, await board.file(caller, draft, request_key))


@router.get("/items", summary="List work items", responses=problems(404))
async def list_items(board: TheBoard, query: Annotated[ItemQuery, Query()]) -> Page[Card]:
    """Newest first. Filters add up; `state` may stand several times."""
    wanted = Wanted.model_validate(query.model_dump(exclude={"cursor", "limit"}))
    return await board.items(wanted, query.cursor, query.limit)


@router.get("/items/{key}", summary="Show a work item", responses=problems(404))
async def show_item(board: TheBoard, key: str, response: Response) -> Card:
    """`move` says whose move it is when the item is blocked. The ETag is its version."""
    return _tagged(response, await board.item(key))


@router.patch("/items/{key}", summary="Edit a work item", responses=problems(403, 404, 409, 412))
async def edit_item(
    board: TheBoard,
    caller: Known,
    key: str,
    changes: Changes,
    response: Response,
    if_match: IfMatch = "*",
) -> Card:
    """Only the named fields change. With `If-Match` or `version` a change to an old version is refused."""
    return _tagged(response, await board.edit(caller, key, changes, _version(if_match)))


@router.get("/items/{key}/events", summary="What happened to an item", responses=problems(404))
async def list_events(
    board: TheBoard,
    key: str,
    cursor: Annotated[int, Query(ge=0, lt=2**63, description="The id of the last event seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=500, description="The most that a page holds.")] = 100,
) -> Page[Entry]:
    """In the order in which it happened. To follow an item, ask again with the last id seen as `cursor`."""
    return await board.events(key, cursor, limit)


def _tagged(response: Response, card: Shown) -> Shown:
    response.headers["ETag"] = f'"{card.version}"'
    return card


def _version(if_match: str) -> int | None:
    if if_match == "*":
        return None
    found = re.fullmatch(r'"?([0-9]{1,9})"?', if_match)
    if not found:
        raise Invalid(
            "If-Match is not an ETag of an item or a project.",
            'Send it as it was read: `"3"`.',
            field="If-Match",
        )
    return int(found[1])
