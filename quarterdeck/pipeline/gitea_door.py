"""What deliveries of Gitea do here: items that wait for what they tell are looked at now.

They decide nothing: the gate asks Gitea itself. A delivery that is lost is made up for by the next look
that every waiting item gets anyway (`rules.POLL`).
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

from quarterdeck.forge import gitea_events
from quarterdeck.forge.gitea_address import Place
from quarterdeck.forge.gitea_events import News
from quarterdeck.kernel.inbox import Delivery, Ignored
from quarterdeck.pipeline import store
from quarterdeck.pipeline.service import Engine
from quarterdeck.pipeline.work import key_of, repository_of


class GiteaDoor:
    """The handler of the source `gitea`. `locate` says where in Gitea a project's repository is."""

    def __init__(self, engine: Engine, locate: Callable[[str], Awaitable[Place | None]]) -> None:
        self._engine = engine
        self._locate = locate

    async def __call__(self, delivery: Delivery) -> str:
        news = gitea_events.read(delivery.event, delivery.payload())
        if news.is_empty:
            return Ignored(news.what)
        projects = await self._projects(news.repository)
        if not projects:
            return Ignored(f"No project has its code in {news.repository}.")
        if news.is_ours or await self._is_our_push(news):
            return Ignored(f"{news.what}: the desk did that itself")
        keys = [key for branch in news.branches if (key := key_of(branch))]
        async with self._engine.database.command("gitea news") as unit:
            woken = await self._engine.wake_waiting(unit, news.commits, keys, projects)
        if not woken:
            return Ignored(f"{news.what}: nothing waits for it")
        return f"{news.what}: woke {', '.join(woken)}"

    async def _projects(self, full_name: str) -> list[UUID]:
        async with self._engine.database.read() as session:
            projects = await store.projects(session)
        places = [(project.id, await self._locate(repository_of(project))) for project in projects]
        return [identity for identity, place in places if place and place.is_called(full_name)]

    async def _is_our_push(self, news: News) -> bool:
        if not news.pushed:
            return False
        async with self._engine.database.read() as session:
            return await store.was_published(session, news.pushed)
