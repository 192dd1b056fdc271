"""The Multica workspace whose issues agents work on."""

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from blocks.connection import ConnectionBlock


class MulticaWorkspace(ConnectionBlock):
    """Save it as `default`: a workspace of Multica, by its command line or over HTTP.

    No call leaves without the workspace. Try it with `quarterdeck heartbeat test multica`. See
    docs/how-to/sources.md.

    Example:
        ```python
        from blocks.multica import MulticaWorkspace

        await MulticaWorkspace(
            via="rest", workspace_id="...", url="https://multica.example.com", token="mul_..."
        ).asave("default")
        ```
    """

    _block_type_name = "Quarterdeck Multica"
    _block_type_slug = "quarterdeck-multica"
    kind: ClassVar[str] = "multica"

    via: Literal["cli", "rest"] = Field(
        default="cli", title="Way", description="`cli` = the program `multica`; `rest` = over HTTP."
    )
    workspace_id: str = Field(title="Workspace", description="Its id; every call names it.")
    url: str = Field(
        default="", title="Address", description="Of the server; the program may know it by itself."
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        title="Token",
        description="A personal token (`mul_…`); a program that is logged in needs none.",
    )
    program: str = Field(default="multica", title="Program", description="Its name or path, for `cli`.")
