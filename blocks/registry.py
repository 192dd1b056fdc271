"""Every block type that there is."""

from blocks.connection import ConnectionBlock
from blocks.telegram import TelegramBot

BLOCKS: tuple[type[ConnectionBlock], ...] = (TelegramBot,)
