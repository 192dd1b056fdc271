"""Every block type that there is."""

from blocks.connection import ConnectionBlock
from blocks.generic_webhook import GenericWebhook
from blocks.plane import PlaneWorkspace
from blocks.provider_key import ProviderKey
from blocks.telegram import TelegramBot

BLOCKS: tuple[type[ConnectionBlock], ...] = (GenericWebhook, PlaneWorkspace, ProviderKey, TelegramBot)
