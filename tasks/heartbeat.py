"""The steps of a sweep: ask a source, recover what stands still, start what was found."""

from quarterdeck.heartbeat.checking import Recovery
from quarterdeck.heartbeat.overview import Piece
from quarterdeck.heartbeat.service import LOOKING
from quarterdeck.heartbeat.sweeping import SweepUnderWay
from quarterdeck.heartbeat.work import Answer, Source
from tasks.step import step

ACTING = 2 * LOOKING
"""Seconds for a step that reads the work in all its places first: longer than one of them may hang."""


@step("ask a source", seconds=LOOKING, run_name="{source.name}")
async def look_into(sweep: SweepUnderWay, source: Source) -> Answer:
    """What a source tells of all agents. A source answers with its trouble, so there is nothing to retry."""
    return await sweep.look(source)


@step("recover", seconds=ACTING, retries=2, run_name="{recovery.name}")
async def recover(sweep: SweepUnderWay, recovery: Recovery) -> None:
    """Take the step that is due for work that stands still."""
    await sweep.recover(recovery)


@step("start found work", seconds=ACTING, retries=2, run_name="start {piece.shown}")
async def start(sweep: SweepUnderWay, piece: Piece) -> bool:
    """Open a run for found work; False: the agent takes nothing up now."""
    return await sweep.start(piece)
