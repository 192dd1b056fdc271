"""The key of a model provider, as an alternative to typing it into the router's dashboard."""

from typing import ClassVar, Self

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock
from quarterdeck.kernel.settings import Settings


class ProviderKey(ConnectionBlock):
    """Save it under a name of your choice: an API key of a model provider.

    A backend of the router takes its key from it when its `key_connection` says that name. A key that is
    changed here reaches the router within seconds.

    Example:
        ```python
        from blocks.provider_key import ProviderKey

        await ProviderKey(api_key="sk-...").asave("nvidia")
        ```
    """

    _block_type_name = "Quarterdeck provider key"
    _block_type_slug = "quarterdeck-provider-key"
    kind: ClassVar[str] = "provider_key"

    api_key: SecretStr = Field(title="API key", description="The key that the provider gave you.")

    @classmethod
    def from_environment(cls, settings: Settings) -> Self | None:
        """No variable fills it: a backend in the environment brings its own key."""
        return None
