"""Agents that spoil what they were given: it costs them a round with the reason, and the item goes on."""

from pathlib import Path

import pytest
from sqlmodel import col, select

from quarterdeck.board.model import State
from quarterdeck.kernel.journal import Event
from tests.fakes.quiet_desk import OpenDesk, QuietDesk, Surroundings

IN_ROUNDS = """\
#!/bin/sh
if [ "$QUARTERDECK_ROUND" = 1 ]; then
    {first}
else
    exec "$(dirname "$0")/{otherwise}"
fi
"""


def spoils(surroundings: Surroundings, agent: str, first: str) -> None:
    """Let an agent of the example run a shell command in its first round, and do its work afterwards."""
    agents = surroundings.settings.folder / "agents"
    otherwise = str(surroundings.parameters(agent)["program"]).removeprefix("agents/")
    program = agents / f"spoiling-{agent}"
    program.write_text(IN_ROUNDS.format(first=first, otherwise=otherwise))
    program.chmod(0o755)
    surroundings.parameters(agent)["program"] = f"agents/{program.name}"


async def reasons(desk: QuietDesk, kind: str) -> list[str]:
    async with desk.house.database.read() as session:
        events = await session.exec(select(Event).where(col(Event.kind) == kind).order_by(col(Event.id)))
        return [event.data["reason"] for event in events.all()]


async def test_an_agent_that_breaks_its_repository_is_told_and_works_once_more(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> None:
    spoils(surroundings, "analyst", "rm .git/HEAD")
    desk = await open_desk()
    card = await desk.rest(await desk.file(sample))
    assert (card.state, card.round) == (State.WAITING_APPROVAL, 2)
    (reason,) = await reasons(desk, "work_refused")
    assert reason.startswith("The repository in the work tree cannot be used any more: fatal:")
    assert await reasons(desk, "engine_failed") == []


@pytest.mark.services
async def test_a_reviewer_that_gives_no_review_is_asked_again_and_what_it_left_is_not_pushed(
    surroundings: Surroundings, open_desk: OpenDesk, sample: Path
) -> None:
    spoils(surroundings, "reviewer", "echo junk > junk.txt")
    desk = await open_desk()
    key = await desk.file(sample)
    await desk.rest(key)
    card = await desk.approve(key)
    assert card.state is State.DONE
    (reason,) = await reasons(desk, "work_refused")
    assert reason.startswith("reviewer ended without a review of ")
    assert await desk.house.forge.read_file(str(sample), f"item/{key}", "junk.txt") is None
