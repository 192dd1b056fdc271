"""The Plane workspace from which work arrives and in which people decide."""

from typing import ClassVar

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock


class PlaneWorkspace(ConnectionBlock):
    """Save it as `default`: a workspace of Plane, and the user that the desk is there.

    Give the desk a user of its own: whoever shares its key cannot approve by comment. Try it with
    `quarterdeck plane test`, then let projects follow with `quarterdeck plane link`.

    Example:
        ```python
        from blocks.plane import PlaneWorkspace

        await PlaneWorkspace(
            url="https://plane.example.com",
            workspace="company",
            api_key="plane_api_...",
            webhook_secret="plane_wh_...",
        ).asave("default")
        ```
    """

    _block_type_name = "Quarterdeck Plane"
    _block_type_slug = "quarterdeck-plane"
    kind: ClassVar[str] = "plane"

    url: str = Field(title="Address", description="Such as https://plane.example.com, without a path.")
    workspace: str = Field(title="Workspace", description="Its name in Plane's addresses.")
    api_key: SecretStr = Field(
        title="API key", description="Made in the profile settings of the desk's user in Plane."
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Webhook secret",
        description="Plane shows it once, when the webhook is made; without it no delivery is taken in.",
    )
