"""Every block type that there is."""

from blocks.agent_api import AgentApi
from blocks.connection import ConnectionBlock
from blocks.generic_webhook import GenericWebhook
from blocks.gitea import Gitea
from blocks.multica import MulticaWorkspace
from blocks.openclaw import OpenClaw
from blocks.openclaw_cli import OpenClawProgram
from blocks.plane import PlaneWorkspace
from blocks.provider_key import ProviderKey
from blocks.telegram import TelegramBot

BLOCKS: tuple[type[ConnectionBlock], ...] = (
    AgentApi,
    GenericWebhook,
    Gitea,
    MulticaWorkspace,
    OpenClaw,
    OpenClawProgram,
    PlaneWorkspace,
    ProviderKey,
    TelegramBot,
)
