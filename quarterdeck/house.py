"""The rooms of the core, put together: what every process of Quarterdeck opens first.

It stands above all rooms and below the flows, because a flow that Prefect starts in a process of its own
must be able to open it too (docs/decisions/0004-the-house-below-the-flows.md). It binds what rooms must
know of each other through protocols, and knows no Prefect.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from quarterdeck.board.service import Board
from quarterdeck.crew.agent_api_runtime import AgentApiRuntime
from quarterdeck.crew.command import CommandRuntime
from quarterdeck.crew.model_runtime import ModelRuntime
from quarterdeck.crew.openclaw_runtime import OpenClawRuntime
from quarterdeck.crew.runtime import Runtime
from quarterdeck.crew.service import Crew
from quarterdeck.forge.forges import Forges
from quarterdeck.forge.gitea import GiteaForge
from quarterdeck.forge.local import LocalForge
from quarterdeck.forge.plane import Plane
from quarterdeck.forge.rules import default_branch
from quarterdeck.heartbeat.roster import complaints
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.heartbeat.sources.every import every_source
from quarterdeck.heartbeat.work import Watched
from quarterdeck.kernel.bus import PostgresBus
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.inbox import Inbox
from quarterdeck.kernel.journal import Event
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.kernel.postgres import server_for
from quarterdeck.kernel.settings import Settings, load
from quarterdeck.notify.channels import Channel
from quarterdeck.notify.channels.log import LogChannel
from quarterdeck.notify.channels.telegram import TelegramChannel
from quarterdeck.notify.service import Notify
from quarterdeck.pipeline.assignments import Assignments
from quarterdeck.pipeline.board_items import BoardItems
from quarterdeck.pipeline.comments import Comments
from quarterdeck.pipeline.deliveries import Deliveries
from quarterdeck.pipeline.gitea_door import GiteaDoor
from quarterdeck.pipeline.hosts import Hosts
from quarterdeck.pipeline.mirror import Mirror
from quarterdeck.pipeline.openclaw_door import OpenClawDoor
from quarterdeck.pipeline.posts import Posts
from quarterdeck.pipeline.retests import Retests
from quarterdeck.pipeline.service import Engine
from quarterdeck.router.agents import AgentCalls
from quarterdeck.surfaces.accounts import Accounts
from quarterdeck.surfaces.agents.crew_agents import CrewAgents
from quarterdeck.surfaces.conversations import Conversations
from quarterdeck.surfaces.store import PostgresStore
from quarterdeck.telegram.bots import Bots
from quarterdeck.telegram.model import API_BASE
from quarterdeck.telegram.queue import Queue
from quarterdeck.telegram.requests import Asked

if TYPE_CHECKING:
    from quarterdeck.surfaces.telegram.bots import BotDoor, SendQueue
    from quarterdeck.surfaces.telegram.surface import TelegramSurface


class House:
    """All rooms on one database. Not a dataclass: Prefect would walk through its fields."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.bus = PostgresBus(database.url)
        self.keyring = Keyring(settings.keys_folder)
        self.connections = Connections(self.database, self.keyring)
        self.bots = Bots(self.database, self.keyring, self.connections, settings.telegram_api_base)
        self.sends = Queue(self.database, self.bots)
        self.asked = Asked(self.sends, (settings.files_folder, settings.runs_folder, settings.work_folder))
        self.crew = Crew(self.database, self._runtimes(), settings.runs_folder)
        self.crew.heartbeats = complaints
        self.engine = Engine(self.database, self.crew)
        self.assignments = Assignments(self.database, self.crew)
        self.hosts = Hosts(self.database, self.crew)
        self.inbox = Inbox(self.database)
        self.deliveries = Deliveries(self.inbox, self.connections)
        self.deliveries.add("openclaw", OpenClawDoor(self.crew.callbacks))
        self.forge = Forges(
            LocalForge(self.database, settings.forge_folder),
            GiteaForge(self.connections, settings.forge_folder / "gitea"),
        )
        self.retests = Retests(self.database, self.forge)
        self.deliveries.add("gitea", GiteaDoor(self.engine, self.forge.gitea.place))
        self.notify = Notify(self.database, settings, self._channels())
        self.board = Board(self.database, _Surroundings(self))
        self.database.reactions.append(self.notify.react)
        self._open_tracker()
        self.sources = every_source(
            self.database,
            self.connections,
            settings,
            items=BoardItems(self.database, self.board, self.engine),
            tracker=self.plane,
            followed=_Followed(self.mirror),
            roster=self._watched,
        )
        self._open_surfaces()
        self.talks = Conversations(self.surface_store, database.clock)
        self.sweeper = Sweeper(database, self.crew, self.sources.all, conversations=self.talks)

    async def _watched(self) -> Sequence[Watched]:
        return [beat.watched for beat in (await self.sweeper.heartbeats()).values()]

    def _channels(self) -> list[Channel]:
        return [LogChannel(), TelegramChannel(self.connections, self.bots, self.sends)]

    def _runtimes(self) -> dict[str, Runtime]:
        calls = AgentCalls(self.settings, self.database, self.keyring)
        return {
            "command": CommandRuntime(),
            "model": ModelRuntime(calls),
            "openclaw": OpenClawRuntime(self.connections),
            "agent_api": AgentApiRuntime(self.connections),
        }

    def _open_tracker(self) -> None:
        self.plane = Plane(self.database, self.connections)
        comments = Comments(self.database, self.plane, self.engine, self.crew)
        self.mirror = Mirror(self.database, self.plane, self.board, self.engine, self.crew, comments)
        self.posts = Posts(self.database, self.plane, self.board, self.notify.text)
        self.deliveries.add("plane", self.mirror.handle)
        self.database.reactions.append(self.posts.react)

    def _open_surfaces(self) -> None:
        self.surface_store = PostgresStore(self.database)
        self.talking = CrewAgents(
            self.crew,
            self.surface_store,
            Accounts(self.surface_store, self.database.clock),
            AgentCalls(self.settings, self.database, self.keyring),
            self.connections,
            folder=self.settings.surfaces_folder / "workspaces",
            default_model=self.settings.chat_model,
            default_agent=self.settings.default_agent,
        )

    def telegram_surface(self, bots: "BotDoor", queue: "SendQueue") -> "TelegramSurface":
        """The surface on these bots: hand its `consume` and `begins` to the gateway."""
        # imported here, because only the listener needs them
        from quarterdeck.surfaces.desk.commands import DeskDoors
        from quarterdeck.surfaces.telegram.surface import TelegramSurface, Ways

        is_public = self.settings.telegram_api_base.rstrip("/") == API_BASE
        ways = Ways(
            self.settings.surfaces_folder / "telegram",
            self.settings.language,
            self.settings.telegram_guests,
            *((20_000_000, 50_000_000) if is_public else (2_000_000_000, 2_000_000_000)),
        )
        surface = TelegramSurface(
            self.database, self.surface_store, self.crew, self.talking, bots, queue, ways
        )
        DeskDoors(self.board, self.engine, self.crew).register(surface.desk)
        return surface

    def work_tree(self, item_key: str) -> Path:
        """The folder in which agents work on an item."""
        return self.settings.work_folder / item_key

    async def close(self) -> None:
        await self.assignments.close()
        await self.forge.close()
        await self.database.close()


class _Surroundings:
    """What the board asks of rooms on its own floor and above."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def first_stage(self, pipeline: str) -> str:
        return await self._house.engine.pipelines.first_stage(pipeline)

    async def stages(self) -> Collection[str]:
        pipelines = await self._house.engine.pipelines.load()
        return {stage.name for pipeline in pipelines.values() for stage in pipeline.stages}

    async def workers(self) -> Collection[str]:
        return await self._house.crew.names()

    async def check_repository(self, repository: str) -> None:
        await self._house.forge.check(repository)

    def check_branch(self, branch: str) -> None:
        default_branch(branch)

    def text(self, event: Event) -> str:
        return self._house.notify.text(event)


class _Followed:
    """Which of Plane's projects the board follows."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    async def followed(self) -> Collection[str]:
        return {link.tracker_project for link in await self._mirror.links()}


_here: ContextVar[House | None] = ContextVar("house", default=None)


@asynccontextmanager
async def open_house(settings: Settings | None = None) -> AsyncIterator[House]:
    """Open the house for this process; the embedded PostgreSQL is started when nobody else did."""
    settings = settings or load()
    async with (
        server_for(settings).using() as server,
        opened(House(settings, Database(server.url()))) as house,
    ):
        yield house


@asynccontextmanager
async def opened(house: House) -> AsyncIterator[House]:
    """The house that `at_hand` gives to everything inside; its connections are closed at the end."""
    before = _here.get()
    _here.set(house)
    try:
        yield house
    finally:
        _here.set(before)  # not by token: a fixture or a server may close in another context
        await house.close()


@asynccontextmanager
async def at_hand() -> AsyncIterator[House]:
    """The house that is open around us, else one opened for the occasion."""
    house = _here.get()
    if house is not None:
        yield house
        return
    async with open_house() as house:
        yield house
