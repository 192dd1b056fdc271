"""A bot never asks more of Telegram than it may, and waits exactly as long as it is told."""

from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from quarterdeck.telegram.limits import Limiter
from tests.fakes.clock import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def limiter(clock):
    async def sleep(seconds: float) -> None:
        clock.go(seconds)

    return Limiter(clock, sleep)


async def times(limiter, clock, *chats):
    begin = clock.now()
    found = []
    for chat in chats:
        async with limiter.turn(chat):
            found.append((clock.now() - begin).total_seconds())
    return found


async def test_a_chat_gets_one_a_second(limiter, clock):
    assert await times(limiter, clock, "1", "1", "1") == [0, 1, 2]


async def test_a_group_gets_twenty_a_minute(limiter, clock):
    found = await times(limiter, clock, *["-100"] * 21)
    assert found == [*range(20), 60]


async def test_a_bot_gets_thirty_a_second(limiter, clock):
    found = await times(limiter, clock, *map(str, range(1, 32)))
    assert found == [0] * 30 + [1]


async def test_limits_count_from_the_answer(limiter, clock):
    async with limiter.turn("1"):
        clock.go(0.5)
    assert await times(limiter, clock, "1") == [1]


async def test_what_is_under_way_may_arrive_now_however_long_ago_it_left(clock):
    slept, under_way = [], AsyncExitStack()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.go(seconds)
        await under_way.aclose()  # meanwhile the answers come

    limiter = Limiter(clock, sleep)
    for chat in range(30):
        await under_way.enter_async_context(limiter.turn(str(chat)))
    clock.go(5)
    async with limiter.turn("one more"):
        assert slept == [1, 1]


async def test_a_turn_that_was_given_up_is_no_longer_under_way(limiter, clock):
    with pytest.raises(ValueError):
        async with limiter.turn("1"):
            raise ValueError
    assert await times(limiter, clock, "1") == [1]


async def test_peace_in_a_chat_is_kept_to_the_second_and_others_go_on(limiter, clock):
    limiter.close("1", clock.now() + timedelta(seconds=3))
    assert await times(limiter, clock, "2", "1") == [0, 3]


async def test_a_second_chat_that_is_refused_meanwhile_quiets_the_bot(limiter, clock):
    limiter.close("1", clock.now() + timedelta(seconds=3))
    limiter.close("2", clock.now() + timedelta(seconds=5))
    assert await times(limiter, clock, "3") == [5]


async def test_what_an_earlier_process_sent_counts(limiter, clock):
    limiter.remember("1", clock.now() - timedelta(seconds=0.25))
    assert await times(limiter, clock, "1") == [0.75]
