"""Is the connection to the tracker as it must be? Asked by the doctor and by `quarterdeck plane test`."""

from collections.abc import AsyncIterator, Iterable

from pydantic import BaseModel, ConfigDict

from quarterdeck.crew.service import Crew
from quarterdeck.forge.plane import Plane
from quarterdeck.forge.tracker import Group
from quarterdeck.kernel.connections import Connections
from quarterdeck.pipeline.mirror import DOOR, LinkCard, Mirror

NEEDED = (Group.UNSTARTED, Group.STARTED, Group.COMPLETED, Group.CANCELLED)


class Trial(BaseModel):
    """How a test fared. `problems` are sentences; empty = all is well."""

    model_config = ConfigDict(frozen=True)

    user: str
    projects: tuple[str, ...]
    followed: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


async def try_plane(plane: Plane, mirror: Mirror, crew: Crew, connections: Connections) -> Trial:
    """Ask Plane now. Raises what its client raises when it is down, refuses, or is not connected."""
    user = await plane.myself()
    projects = await plane.projects()
    links = await mirror.links()
    problems = [problem async for problem in _of_links(plane, links, {project.id for project in projects})]
    if person := await crew.by_handle(DOOR, user):
        problems.append(
            f"The API key is {person.name}'s own: what {person.name} says in comments counts as the desk's."
            " Give the desk a user of its own in Plane."
        )
    value = await connections.get("plane") or {}
    if not value.get("webhook_secret"):
        problems.append("There is no webhook secret: deliveries are refused, changes are seen minutes later.")
    return Trial(
        user=user,
        projects=tuple(project.identifier for project in projects),
        followed=tuple(f"{link.project_key} ← {link.identifier}" for link in links),
        problems=tuple(problems),
    )


async def _of_links(plane: Plane, links: Iterable[LinkCard], known: set[str]) -> AsyncIterator[str]:
    for link in links:
        if link.tracker_project not in known:
            yield f"{link.project_key} follows {link.identifier}, which the desk's user cannot see."
            continue
        groups = {state.group for state in await plane.states(link.tracker_project)}
        if missing := [group.value for group in NEEDED if group not in groups]:
            yield f"{link.identifier} has no state of the group {', '.join(missing)}."
