"""The secret of webhooks that start whatever the catalogue has."""

from typing import ClassVar

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock


class GenericWebhook(ConnectionBlock):
    """Save it as `default`: the secret with which programs sign what they send to `POST /webhooks/generic`.

    The desk takes it up within a minute. See docs/how-to/webhooks.md for what a sender must do.

    Example:
        ```python
        from blocks.generic_webhook import GenericWebhook

        await GenericWebhook(secret="whsec_...").asave("default")
        ```
    """

    _block_type_name = "Quarterdeck webhook"
    _block_type_slug = "quarterdeck-generic-webhook"
    kind: ClassVar[str] = "generic_webhook"

    secret: SecretStr = Field(
        title="Secret",
        min_length=16,
        description="`whsec_` and base64, or any long text; several words while you change it.",
    )
