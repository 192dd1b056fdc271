"""What surrounds the board: one pipeline, a few agents and people, and plain texts."""

from collections.abc import Collection

from quarterdeck.forge.rules import default_branch
from quarterdeck.kernel.errors import Invalid, NotFound
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.journal import Event

STAGES = ("analysis", "architecture", "development", "review", "merge")
WORKERS = ("analyst", "anna", "developer", "viktor")

MEMBER = Caller(name="anna", door="api", may_write=True)
VIEWER = Caller(name="viktor", door="api")
OWNER = Caller(name="owner", door="api", is_owner=True, may_write=True, may_approve=True)


class SmallCompany:
    """Surroundings with the pipeline `default` and the workers above."""

    async def first_stage(self, pipeline: str) -> str:
        if pipeline != "default":
            raise NotFound.among("pipeline", pipeline, ["default"])
        return STAGES[0]

    async def stages(self) -> Collection[str]:
        return STAGES

    async def workers(self) -> Collection[str]:
        return WORKERS

    async def check_repository(self, repository: str) -> None:
        if " " in repository:
            raise Invalid("A repository has no spaces.", "Leave them out.", field="repository")

    def check_branch(self, branch: str) -> None:
        default_branch(branch)

    def text(self, event: Event) -> str:
        return f"{event.item_key}: {event.kind}"
