"""Whatever the order and however often they are sent: each delivery is worked on once, none is lost."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Invalid, Unavailable
from quarterdeck.kernel.inbox import Delivery, Ignored, Inbox, Standing
from tests.fakes.clock import ManualClock

ENDS = st.sampled_from(["done", "ignored", "refused", "down once", "down twice", "broken once"])
STATES = {"ignored": Standing.IGNORED, "refused": Standing.FAILED}


@st.composite
def traffic(draw: st.DrawFn) -> tuple[dict[int, str], list[list[int]]]:
    """What becomes of each delivery, and in which rounds they arrive: shuffled, some several times."""
    ends = dict(enumerate(draw(st.lists(ENDS, min_size=1, max_size=8))))
    sent = draw(st.permutations([number for number in ends for _ in range(draw(st.integers(1, 3)))]))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    rounds = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return ends, rounds


class World:
    """A far side that fails as it was told, and counts what was done to it."""

    def __init__(self, ends: dict[int, str]) -> None:
        self.ends = ends
        self.tries: list[int] = []
        self.done: list[int] = []

    async def __call__(self, delivery: Delivery) -> str:
        number = delivery.payload()["number"]
        end, tries = self.ends[number], self.tries.count(number)
        self.tries.append(number)
        if end == "refused":
            raise Invalid("No.")
        if tries < {"down once": 1, "down twice": 2, "broken once": 1}.get(end, 0):
            raise RuntimeError("broken") if end == "broken once" else Unavailable("Down.")
        if end == "ignored":
            return Ignored("Nothing to do.")
        self.done.append(number)
        return "done"


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=traffic())
async def test_deliveries_that_come_shuffled_and_several_times_have_one_effect_each(
    database: Database, story: tuple[dict[int, str], list[list[int]]]
):
    ends, rounds = story
    database.clock = clock = ManualClock()
    async with database.engine.begin() as connection:
        await connection.execute(text("truncate inbox restart identity"))
    inbox, world = Inbox(database), World(ends)
    accepted: list[int] = []
    for arrivals in rounds:
        told = await asyncio.gather(*(_send(inbox, number) for number in arrivals))
        accepted += [number for number, is_new in zip(arrivals, told, strict=True) if is_new]
        await asyncio.gather(*(Inbox(database).work_off({"plane": world}) for _ in range(2)))
    while (seconds := await inbox.work_off({"plane": world})) is not None:
        clock.go(max(seconds, 0.001))
    assert sorted(accepted) == sorted(ends), "each was new exactly once"
    wanted = sorted(number for number, end in ends.items() if end not in STATES)
    assert sorted(world.done) == wanted
    for entry in await inbox.entries(None, None, 2**62, 100):
        number = int(entry.delivery_id)
        assert entry.state is STATES.get(ends[number], Standing.DONE)
        assert entry.leased_until is None and entry.finished_at is not None


async def _send(inbox: Inbox, number: int) -> bool:
    return await inbox.accept("plane", str(number), "issue", {}, b'{"number": %d}' % number)
