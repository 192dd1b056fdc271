"""Agents that messages of heartbeats name hear of them themselves, once, at their next heartbeat."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.crew.waking import Wake
from quarterdeck.heartbeat.work import Need, Ref, Status
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Unavailable
from tests.fakes.watch import Watch


class Ears:
    """A runtime whose agents can be woken. `down`: its gateway does not answer."""

    def __init__(self) -> None:
        self.down, self.heard = False, list[Wake]()

    async def wake(self, _: Mapping[str, Any], wanted: Wake) -> str:
        if self.down:
            raise Unavailable("The gateway does not answer.")
        self.heard.append(wanted)
        return "queued"


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol()
    return made


async def warn_of_a_cycle(watch: Watch) -> None:
    for one, other in (("ENG-1", "ENG-2"), ("ENG-2", "ENG-1")):
        watch.multica.put(one, needs=(Need(Ref("multica", other), Status.TODO),))
    await watch.sweep()
    watch.minutes(1)


async def test_the_coo_hears_of_what_it_is_told_once_at_its_next_heartbeat(watch: Watch) -> None:
    watch.runtimes["command"] = ears = Ears()
    await warn_of_a_cycle(watch)
    kinds = await watch.told("dependency_cycle")
    assert {to for _, to in kinds} == {"coo"}
    for _ in range(3):
        await watch.sweeper.tell_agents()
        watch.minutes(1)
    assert len(ears.heard) == len(kinds)
    assert {heard.mode for heard in ears.heard} == {"next-heartbeat"}
    assert "ENG-1" in ears.heard[0].text and "waits for itself" in ears.heard[0].text


async def test_while_its_gateway_is_down_the_words_wait_for_an_hour(watch: Watch) -> None:
    watch.runtimes["command"] = ears = Ears()
    await warn_of_a_cycle(watch)
    ears.down = True
    assert await watch.sweeper.tell_agents() == 0
    ears.down = False
    assert await watch.sweeper.tell_agents() == len(await watch.told("dependency_cycle"))
    watch.multica.kept.clear()
    ears.down, heard = True, len(ears.heard)
    watch.multica.put("ENG-3", needs=(Need(Ref("multica", "ENG-0"), Status.CANCELLED),))
    await watch.sweep()
    watch.minutes(1)
    await watch.sweeper.tell_agents()
    watch.minutes(61)
    ears.down = False
    assert await watch.sweeper.tell_agents() == 0
    assert len(ears.heard) == heard


async def test_people_and_agents_that_cannot_be_woken_hold_nobody_up(watch: Watch) -> None:
    await warn_of_a_cycle(watch)
    watch.runtimes["command"] = object()
    assert await watch.sweeper.tell_agents() == 0
    watch.runtimes["command"] = ears = Ears()
    await watch.sweeper.tell_agents()
    assert ears.heard == [], "that was told, as far as it can be"
