"""The listener: the gateway of Telegram with everybody who is told of what comes in.

It stands above the house, because it knows all consumers; its heavy imports happen when it is opened, so
that no other process pays for them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from quarterdeck.house import House

if TYPE_CHECKING:
    from quarterdeck.telegram.gateway import Gateway


@asynccontextmanager
async def opened_gateway(house: House) -> "AsyncIterator[Gateway]":
    """The gateway of a house with its consumers, not running yet."""
    from quarterdeck.telegram.forwarding import Forwarder
    from quarterdeck.telegram.gateway import Gateway

    gateway = Gateway(house.database, house.bus, house.bots, house.asked, nats_url=house.settings.nats_url)
    forwarder = Forwarder(house.settings.router_base_url) if house.settings.router_base_url else None
    if forwarder is not None:
        gateway.add("router", forwarder)
    try:
        yield gateway
    finally:
        if forwarder is not None:
            await forwarder.close()


async def listen(house: House, stopping: asyncio.Event, *, may_leave: bool = False) -> None:
    """Serve the bots until told to stop; with `may_leave` also until there has been no bot for a minute."""
    async with opened_gateway(house) as gateway:
        await gateway.run(stopping, may_leave=may_leave)
