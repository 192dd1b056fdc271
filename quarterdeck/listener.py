"""The listener: the gateway of Telegram with everybody who is told of what comes in.

It stands above the house, because it knows all consumers; its heavy imports happen when it is opened, so
that no other process pays for them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from quarterdeck.house import House

if TYPE_CHECKING:
    from quarterdeck.surfaces.telegram.surface import TelegramSurface
    from quarterdeck.telegram.gateway import Gateway
    from quarterdeck.telegram.limits import Sleep

log = structlog.get_logger(__name__)

FORGETS_EVERY = 3600.0
"""Seconds from one time that old turns and copies of files are dropped to the next."""


@asynccontextmanager
async def opened_gateway(house: House) -> "AsyncIterator[Gateway]":
    """The gateway of a house with its consumers, not running yet."""
    from quarterdeck.surfaces.telegram import moves
    from quarterdeck.telegram.forwarding import Forwarder
    from quarterdeck.telegram.gateway import Gateway

    gateway = Gateway(house.database, house.bus, house.bots, house.asked, nats_url=house.settings.nats_url)
    forwarder = Forwarder(house.settings.router_base_url) if house.settings.router_base_url else None
    if forwarder is not None:
        gateway.add("router", forwarder)
    surface = house.telegram_surface(gateway, house.sends)
    gateway.add("surface", surface.consume, begins=surface.begins, follows=moves.follow)
    attending = asyncio.create_task(attend(surface))
    try:
        yield gateway
    finally:
        attending.cancel()
        await asyncio.gather(attending, return_exceptions=True)
        await surface.close()
        if forwarder is not None:
            await forwarder.close()


async def listen(house: House, stopping: asyncio.Event, *, may_leave: bool = False) -> None:
    """Serve the bots until told to stop; with `may_leave` also until there has been no bot for a minute."""
    async with opened_gateway(house) as gateway:
        await gateway.run(stopping, may_leave=may_leave)


async def attend(surface: "TelegramSurface", sleep: "Sleep" = asyncio.sleep) -> None:
    """Drop what is old, again and again."""
    while True:
        try:
            await surface.forget_old()
        except Exception:  # it is tried again, and nothing else depends on it
            log.exception("surface_not_tidied")
        await sleep(FORGETS_EVERY)
