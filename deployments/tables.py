"""Every table of every room: what the migrations create and are compared with.

A room keeps its tables in `model.py`; the kernel keeps each beside the code that owns it.
"""

from sqlmodel import SQLModel

from quarterdeck.board import model as board
from quarterdeck.crew import model as crew
from quarterdeck.forge import model as forge
from quarterdeck.forge import tracker_model
from quarterdeck.heartbeat import model as heartbeat
from quarterdeck.heartbeat.sources import model as heartbeat_sources
from quarterdeck.kernel import connections, idempotency, inbox_model, journal
from quarterdeck.notify import model as notify
from quarterdeck.pipeline import model as pipeline
from quarterdeck.router import model as router
from quarterdeck.surfaces import model as surfaces
from quarterdeck.telegram import model as telegram

MODULES = (
    board,
    connections,
    crew,
    forge,
    heartbeat,
    heartbeat_sources,
    idempotency,
    inbox_model,
    journal,
    notify,
    pipeline,
    router,
    surfaces,
    telegram,
    tracker_model,
)
"""Where tables are declared; importing them is what fills `metadata`."""

metadata = SQLModel.metadata
