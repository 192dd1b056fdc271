"""Every table of every room: what the migrations create and are compared with.

A room keeps its tables in `model.py`; the kernel keeps each beside the code that owns it.
"""

from sqlalchemy import MetaData
from sqlmodel import SQLModel

import quarterdeck.board.model
import quarterdeck.crew.model
import quarterdeck.forge.model
import quarterdeck.kernel.idempotency
import quarterdeck.kernel.journal
import quarterdeck.pipeline.model

metadata: MetaData = SQLModel.metadata
