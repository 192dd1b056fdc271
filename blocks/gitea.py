"""The Gitea in which code lives."""

from typing import ClassVar

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock


class Gitea(ConnectionBlock):
    """Save it as `default`: the Gitea with repositories, pull requests, reviews and CI results.

    Make a user for the desk in Gitea, let it write to the repositories, and give it a token with the scopes
    `repository` (write) and `user` (read). Try it with `quarterdeck forge test`;
    `quarterdeck forge install-hooks` lets Gitea tell the desk what happens.

    Example:
        ```python
        from blocks.gitea import Gitea

        await Gitea(
            url="https://git.example.org", token="0123456789abcdef", webhook_secret="a long random text"
        ).asave("default")
        ```
    """

    _block_type_name = "Quarterdeck Gitea"
    _block_type_slug = "quarterdeck-gitea"
    kind: ClassVar[str] = "gitea"

    url: str = Field(title="Address", description="Where Gitea is, such as https://git.example.org.")
    token: SecretStr = Field(title="Token", description="An access token of the desk's user in Gitea.")
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        title="Webhook secret",
        description="Any long random text; Gitea signs its deliveries with it. Empty = none are accepted.",
    )
