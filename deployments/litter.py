"""When a process that serves for months looks for what nobody can reach any more.

Counted references free most things at once; what refers to itself in a circle waits for the collector.
"""

import asyncio
import gc

YOUNG = 10_000
"""Objects made and not freed until the collector looks among the young: some hundred calls' worth."""

EVERY = 10.0
"""Seconds between two looks at all ages. A connection leaves a circle behind, which has grown old by then:
left to the collector's own count, a look at the old ones would come once in hours."""


def settle() -> None:
    """What is here now stays: the collector need not go through all of it again and again.

    That is a seventh of a model call's CPU. Counted references free these objects as before.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)


async def tidy(every: float = EVERY) -> None:
    """Free what ended connections leave behind, for ever.

    With 127,000 settled objects left out, some 8,000 are looked at: 3 ms of CPU, 0.03 % of it, and a pause
    that one call in three thousand can meet. At 40 calls a second 400 to 1,000 objects are freed each time.
    """
    while True:
        await asyncio.sleep(every)
        gc.collect()
