"""The program `openclaw`: WorkBoard as a source of work, and automations that wake agents."""

from typing import ClassVar

from pydantic import Field

from blocks.connection import ConnectionBlock


class OpenClawProgram(ConnectionBlock):
    """Save it as `default`: OpenClaw's command line on this machine.

    It needs the plug-in: `openclaw plugins enable workboard`. Try it with
    `quarterdeck heartbeat test workboard`. See docs/how-to/sources.md.

    Example:
        ```python
        from blocks.openclaw_cli import OpenClawProgram

        await OpenClawProgram(program="openclaw").asave("default")
        ```
    """

    _block_type_name = "Quarterdeck OpenClaw program"
    _block_type_slug = "quarterdeck-openclaw-cli"
    kind: ClassVar[str] = "openclaw_cli"

    program: str = Field(title="Program", description="Its name or path.")
    arguments: list[str] = Field(
        default=[], title="Arguments", description="Before every command, such as --profile and its name."
    )
    path: str = Field(default="", title="PATH", description="A folder to look in first, such as Node's.")
    environment: dict[str, str] = Field(
        default={}, title="Environment", description="Variables that it needs, such as OPENCLAW_STATE_DIR."
    )
    templates: dict[str, list[str]] = Field(
        default={}, title="Commands", description="Other arguments for single commands; see the how-to."
    )
    seconds: float = Field(default=60, gt=0, le=600, title="Seconds", description="The longest a call takes.")
