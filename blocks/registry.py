"""Every block type that there is."""

from blocks.connection import ConnectionBlock
from blocks.generic_webhook import GenericWebhook
from blocks.gitea import Gitea
from blocks.openclaw import OpenClaw
from blocks.plane import PlaneWorkspace
from blocks.provider_key import ProviderKey
from blocks.telegram import TelegramBot

BLOCKS: tuple[type[ConnectionBlock], ...] = (
    GenericWebhook,
    Gitea,
    OpenClaw,
    PlaneWorkspace,
    ProviderKey,
    TelegramBot,
)
