"""The Telegram bot that tells people what happens."""

from typing import ClassVar

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock


class TelegramBot(ConnectionBlock):
    """Save it as `default`: the bot and the chat to which Quarterdeck writes.

    Make a bot with @BotFather, which gives the token, and add the bot to the chat. The desk takes the block
    up within a minute. Try it with `quarterdeck notify test telegram`.
    How to find the number of a chat: docs/how-to/telegram.md.

    Example:
        ```python
        from blocks.telegram import TelegramBot

        await TelegramBot(bot_token="123456:ABC-DEF", chat_id="-1001234567890").asave("default")
        ```
    """

    _block_type_name = "Quarterdeck Telegram"
    _block_type_slug = "quarterdeck-telegram"
    kind: ClassVar[str] = "telegram"

    bot_token: SecretStr = Field(
        title="Bot token", description="The token that @BotFather gave, such as 123456:ABC-DEF."
    )
    chat_id: str = Field(
        title="Chat",
        description="The chat to write to: a number such as -1001234567890, or @name of a channel.",
    )
    api_base: str = Field(
        default="",
        title="Address of the Bot API",
        description="A local Bot API server of this bot alone; empty: as TELEGRAM_API_BASE says.",
    )
