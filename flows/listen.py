"""The listener's life: it serves the bots until it is cancelled, or has had no bot for a minute.

The desk and the upkeep start it where bots are and nobody serves them. A second one ends at once, because
every bot is held by a lease. Prefect's server may go away meanwhile: nothing here asks it for anything.
"""

import asyncio
import signal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from quarterdeck.house import at_hand
from quarterdeck.listener import listen as serve_bots


@flow(name="listen", flow_run_name="Telegram", persist_result=False)
async def listen() -> "State[None]":
    """Listen to Telegram; SIGTERM (a pressed Cancel, a stopping runner) lets it finish what is under way."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        async with at_hand() as house:
            await house.bots.adopt_connections()
            if not await house.bots.is_needed():
                return Completed(message="Nothing to do: there is no bot, or somebody serves them.")
            await serve_bots(house, stopping, may_leave=True)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    return Completed(message="Told to stop." if stopping.is_set() else "There is no bot any more.")
