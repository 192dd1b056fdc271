"""What a person does once so that Gitea and the desk work together: hooks, and a try of it all."""

from dataclasses import dataclass

from quarterdeck.forge import gitea_hooks
from quarterdeck.forge.gitea import KIND, GiteaForge
from quarterdeck.forge.gitea_address import Place
from quarterdeck.forge.gitea_hooks import Installed, Sight
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.pipeline import store
from quarterdeck.pipeline.work import repository_of


@dataclass(frozen=True)
class Trial:
    """A connection that works: who we are there, and how each project's repository stands to us."""

    url: str
    version: str
    login: str
    repositories: list[Sight]

    @property
    def ok(self) -> bool:
        return all(sight.ok for sight in self.repositories)


class GiteaUpkeep:
    """Over the connected Gitea and the projects that have their code there."""

    def __init__(
        self, database: Database, connections: Connections, forge: GiteaForge, public_url: str
    ) -> None:
        self._database = database
        self._connections = connections
        self._forge = forge
        self._public_url = public_url

    async def install_hooks(self, project: str = "") -> list[Installed]:
        """In the repository of one project, or of all. Raises `Misconfigured`, `NotFound`, `Conflict`."""
        address = gitea_hooks.hook_address(self._public_url)
        api = await self._forge.api()
        secret = str((await self._connections.get(KIND) or {}).get("webhook_secret") or "")
        places = await self.places(project)
        if not places:
            raise Conflict(
                "No project has its code in Gitea.",
                "Create one with `quarterdeck project create … --repository gitea:owner/name`.",
                code="no_gitea_project",
            )
        return [await gitea_hooks.install(api, place, address, secret) for place in places]

    async def test(self, project: str = "") -> Trial:
        """Ask Gitea who we are, and look at every repository. Raises what is wrong."""
        api = await self._forge.api()
        version = str((await api.get("/version")).get("version"))
        login = await api.login()
        address = gitea_hooks.hook_address(self._public_url) if self._public_url else ""
        sights = [await gitea_hooks.look(api, place, address) for place in await self.places(project)]
        return Trial(api.url, version, login, sights)

    async def places(self, project: str = "") -> list[Place]:
        """The repositories in Gitea of one project, or of all, each once. Raises `NotFound`."""
        async with self._database.read() as session:
            projects = await store.projects(session)
        if project and project not in {row.key for row in projects}:
            raise NotFound.among("project", project, (row.key for row in projects))
        chosen = [row for row in projects if project in ("", row.key)]
        found = [await self._forge.place(repository_of(row)) for row in chosen]
        return list(dict.fromkeys(place for place in found if place))
