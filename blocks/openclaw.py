"""The OpenClaw gateway whose agents work here."""

from typing import ClassVar

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock


class OpenClaw(ConnectionBlock):
    """Save it as `default`, or as an agent's `connection` says: a gateway of OpenClaw.

    Agents with the runtime `openclaw` work there. The two tokens are two secrets: each is refused at the
    other's door. See docs/how-to/openclaw.md, and try it with `quarterdeck check-agents`.

    Example:
        ```python
        from blocks.openclaw import OpenClaw

        await OpenClaw(url="http://127.0.0.1:18789", token="...", hooks_token="...").asave("default")
        ```
    """

    _block_type_name = "Quarterdeck OpenClaw"
    _block_type_slug = "quarterdeck-openclaw"
    kind: ClassVar[str] = "openclaw"

    url: str = Field(title="Address", description="Such as http://127.0.0.1:18789.")
    token: SecretStr = Field(title="Gateway token", description="`gateway.auth.token` of its configuration.")
    hooks_token: SecretStr = Field(
        default=SecretStr(""),
        title="Hooks token",
        description="`hooks.token` of its configuration: for the route `hooks`, and for waking.",
    )
    webhook_token: SecretStr = Field(
        default=SecretStr(""),
        title="Webhook token",
        description="`cron.webhookToken` of its configuration: its cron jobs send it to our webhook.",
    )
