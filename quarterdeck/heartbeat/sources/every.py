"""All sources of a desk, made once per process."""

import socket
from dataclasses import dataclass
from datetime import timedelta

from quarterdeck.heartbeat.sources.documents import Documents, Roster, nobody
from quarterdeck.heartbeat.sources.multica import Multica
from quarterdeck.heartbeat.sources.multica_cli import MulticaProgram
from quarterdeck.heartbeat.sources.multica_rest import MulticaServer
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.openclaw_cli import OpenClawProgram
from quarterdeck.heartbeat.sources.own_board import Items, OwnBoard
from quarterdeck.heartbeat.sources.plane import Followed, PlaneIssues, Tracker
from quarterdeck.heartbeat.sources.polling import Glance, Polling, Turns
from quarterdeck.heartbeat.sources.workboard import WorkBoard
from quarterdeck.heartbeat.work import Source
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.settings import Settings

GLANCE = timedelta(seconds=5)
"""How long our own board and documents are believed within one process."""
PLANE_FRESH = timedelta(seconds=120)


@dataclass(frozen=True)
class Sources:
    """The sources, and the doors behind them for whoever checks or uses these directly."""

    openclaw: OpenClawProgram
    multica_program: MulticaProgram
    board: OwnBoard
    workboard: WorkBoard
    multica: Multica
    documents: Documents
    plane: PlaneIssues
    polls: dict[str, Polling]

    @property
    def all(self) -> tuple[Source, ...]:
        """In order of their rank."""
        return (self.board, self.workboard, self.multica, self.documents, self.plane)


def every_source(
    database: Database,
    connections: Connections,
    settings: Settings,
    *,
    items: Items,
    tracker: Tracker,
    followed: Followed,
    roster: Roster = nobody,
) -> Sources:
    """What is seen through a program is shared by the processes of this host, all else by all."""
    host, clock = socket.gethostname(), database.clock
    fresh = timedelta(seconds=settings.source_fresh)
    apart = timedelta(seconds=settings.source_spacing)
    openclaw = OpenClawProgram(connections, Turns(database, f"openclaw@{host}", apart))
    turns = Turns(database, f"multica@{host}", apart)
    program = MulticaProgram(connections, turns)
    polls = {
        "workboard": Polling(database, f"workboard@{host}", fresh=fresh),
        "multica": Polling(database, "multica", fresh=fresh),
        "plane": Polling(database, "plane", fresh=max(fresh, PLANE_FRESH)),
    }
    workboard = WorkBoard(openclaw, polls["workboard"], Notes(database, "workboard"), clock)
    return Sources(
        openclaw=openclaw,
        multica_program=program,
        board=OwnBoard(items, Glance(database, GLANCE), Notes(database, "board"), clock),
        workboard=workboard,
        multica=Multica(
            {"cli": program, "rest": MulticaServer(connections, turns)}, connections, polls["multica"], clock
        ),
        documents=Documents(
            Glance(database, GLANCE),
            Notes(database, "documents"),
            clock,
            workboard if settings.documents_to_cards else None,
            roster,
        ),
        plane=PlaneIssues(tracker, followed, polls["plane"], Notes(database, "plane"), clock),
        polls=polls,
    )
