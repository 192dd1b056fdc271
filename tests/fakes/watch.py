"""A small company under watch: a developer, a coo, three places of work, and a clock that stands still."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from quarterdeck.crew.model import AgentRun, RunState
from quarterdeck.crew.roster import Roster
from quarterdeck.crew.runtime import Outcome
from quarterdeck.crew.service import Crew
from quarterdeck.heartbeat.cards import SweepCard
from quarterdeck.heartbeat.service import Sweeper
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.journal import Event
from tests.fakes.clock import ManualClock
from tests.fakes.places import Place


class Talking:
    """Who is in a conversation just now."""

    def __init__(self) -> None:
        self.agents: set[str] = set()

    async def is_in_conversation(self, agent: str) -> bool:
        return agent in self.agents


class Watch:
    """The sweeper with all that it needs. `minute` moves the clock."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = ManualClock()
        self.database = database
        database.clock = self.clock
        self.runtimes: dict[str, Any] = {}
        self.crew = Crew(database, self.runtimes, folder / "runs")
        self.talking = Talking()
        self.board = Place("board", 0, self.clock, is_driven=True)
        self.cards = Place("workboard", 1, self.clock)
        self.multica = Place("multica", 2, self.clock)
        self.plane = Place("plane", 4, self.clock)
        self.places = (self.board, self.cards, self.multica)
        self.sweeper = Sweeper(database, self.crew, self.places, conversations=self.talking)

    async def enrol(self, slots: int = 3, **entry: Any) -> None:
        """The developer with this heartbeat, and a coo who looks at everybody."""
        developer = {"category": "development", "multica_id": "m", "workspace": "w"} | entry
        coo = {"category": "high-frequency", "patrol": "alerts"}
        parameters = {"program": "sh"}
        await self.crew.import_roster(
            Roster.model_validate(
                {
                    "agents": [
                        {
                            "slug": "developer",
                            "heartbeat": developer,
                            "parameters": parameters,
                            "max_concurrent": slots,
                        },
                        {"slug": "coo", "heartbeat": coo, "parameters": parameters},
                    ]
                }
            ),
            {},
        )

    def minutes(self, many: float) -> None:
        self.clock.go(many * 60)

    async def sweep(self, agent: str = "developer") -> SweepCard:
        return await self.sweeper.sweep(agent)

    async def runs(self) -> Sequence[AgentRun]:
        async with self.database.read() as session:
            return (await session.exec(select(AgentRun).order_by(col(AgentRun.id)))).all()

    async def end_runs(self, *, exit_code: int = 0, says: str = "done", **facts: Any) -> int:
        """Every run that goes on ends this way; then its result goes back."""
        open_runs = [run for run in await self.runs() if run.state is not RunState.ENDED]
        for run in open_runs:
            assert run.id is not None
            now = self.clock.now()
            outcome = Outcome(
                exit_code=exit_code, started_at=now, ended_at=now, result={"summary": says}, **facts
            )
            async with self.database.command("end run") as unit:
                await self.crew.close_run(unit, run.id, outcome)
        await self.sweeper.settle()
        return len(open_runs)

    async def facts(self, kind: str) -> list[dict[str, Any]]:
        """What was said of every event of this kind."""
        async with self.database.read() as session:
            events = await session.exec(select(Event).where(col(Event.kind) == kind).order_by(col(Event.id)))
            return [event.data for event in events.all()]

    async def told(self, *kinds: str) -> list[tuple[str, str]]:
        """Events of these kinds (all if none is named), each with whom it is for."""
        async with self.database.read() as session:
            events = (await session.exec(select(Event).order_by(col(Event.id)))).all()
        return [(e.kind, str(e.data.get("to", ""))) for e in events if not kinds or e.kind in kinds]
