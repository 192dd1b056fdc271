"""Projects and work items, as they are asked for and as they are shown."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from quarterdeck.board.model import FINAL, Priority, State
from quarterdeck.kernel.outside import STORABLE, Spelled

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300), STORABLE]
ProjectName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), STORABLE]
LongText = Annotated[str, StringConstraints(max_length=100_000), STORABLE]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=50), STORABLE]
Slug = Annotated[str, StringConstraints(min_length=1, max_length=50), STORABLE]
Key = Annotated[str, StringConstraints(min_length=1, max_length=20), STORABLE]
Address = Annotated[str, StringConstraints(max_length=300), STORABLE]
Search = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), STORABLE]
Branch = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Spelled(r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", "letters, digits and . _ / -, the first one a letter or digit"),
]


ProjectKey = Annotated[
    str,
    Spelled(
        r"^[A-Z][A-Z0-9]{1,9}$", "2 to 10 capital letters and digits, the first one a letter, such as ET"
    ),
]


class ProjectDraft(BaseModel):
    """A project to create. An empty `repository` means one named like the key, in small letters."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"key": "ET", "name": "Enduro", "pipeline": "default", "repository": "enduro"}]
        },
    )

    key: ProjectKey
    name: ProjectName
    description: LongText = ""
    pipeline: Slug = "default"
    repository: Address = ""
    default_branch: Branch = "main"


class ProjectChanges(BaseModel):
    """What to change of a project; a field that is not named stays as it is.

    `pipeline` is for items to come. `repository` and `default_branch` can be changed while no item is open.
    `version` is the one that was read: the change is refused if the project has changed since.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"name": "Enduro Trails", "archived": False, "version": 1}]},
    )

    name: ProjectName = Field(default_factory=str)
    description: LongText = Field(default_factory=str)
    pipeline: Slug = Field(default_factory=str)
    repository: Address = Field(default_factory=str)
    default_branch: Branch = Field(default_factory=str)
    archived: bool = Field(default_factory=bool)
    version: int | None = Field(default=None, ge=1, le=2**31 - 1)


class ProjectCard(BaseModel):
    """A project, as it is shown."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    key: str
    name: str
    description: str
    pipeline: str
    repository: str
    default_branch: str
    archived: bool
    created_at: datetime
    version: int


class Draft(BaseModel):
    """A work item to file. `by` names the reporter and counts only when the owner says it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "project": "ET",
                    "title": "Greet the user by name",
                    "description": "`greet` takes a name.",
                    "priority": "high",
                    "labels": ["greeting"],
                    "depends_on": ["ET-001"],
                }
            ]
        },
    )

    project: Key
    title: Title
    description: LongText = ""
    priority: Priority = Priority.NONE
    assignee: Slug | None = None
    labels: tuple[Label, ...] = Field(default=(), max_length=50)
    depends_on: tuple[Key, ...] = Field(default=(), max_length=100)
    parent: Key | None = None
    by: Slug | None = None


class Changes(BaseModel):
    """What to change of an item; a field that is not named stays as it is.

    `version` is the one that was read: the change is refused if the item has moved on since.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"priority": "urgent", "depends_on": [], "version": 3}]},
    )

    title: Title = Field(default_factory=str)
    description: LongText = Field(default_factory=str)
    priority: Priority = Field(default_factory=lambda: Priority.NONE)
    assignee: Slug | None = None
    labels: tuple[Label, ...] = Field(default_factory=tuple, max_length=50)
    depends_on: tuple[Key, ...] = Field(default_factory=tuple, max_length=100)
    parent: Key | None = None
    version: int | None = Field(default=None, ge=1, le=2**31 - 1)


class Card(BaseModel):
    """A work item, as it is shown. `waiting_for` are the dependencies that are not done yet."""

    model_config = ConfigDict(frozen=True)

    key: str
    project: str
    title: str
    description: str
    priority: Priority
    labels: tuple[str, ...]
    assignee: str | None
    reporter: str | None
    parent: str | None
    depends_on: tuple[str, ...]
    waiting_for: tuple[str, ...]
    pipeline: str
    stage: str
    state: State
    round: int
    note: str
    move: dict[str, Any] | None
    version: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def is_resting(self) -> bool:
        """Whether nothing more happens to it until a person acts."""
        return self.state in FINAL or self.state in (State.BLOCKED, State.WAITING_APPROVAL)


class Wanted(BaseModel):
    """Which items a list shows; what is not named does not matter. `q` is looked for in key, title, text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: Key | None = None
    state: tuple[State, ...] = ()
    stage: Slug | None = None
    assignee: Slug | None = None
    label: Label | None = None
    q: Search = ""


class Entry(BaseModel):
    """One event of an item, with its text for people."""

    model_config = ConfigDict(frozen=True)

    id: int
    at: datetime
    kind: str
    text: str
    run_id: int | None
    data: dict[str, Any]
