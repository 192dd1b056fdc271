"""Settings: the environment, in one place. Each key is described in `docs/reference/settings.md`.

Master keys are not here (see `keyring`), nor are connections (see `connections`): a variable such as
`ORCH_TELEGRAM_BOT_TOKEN` only fills the connection on first start.
"""

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from quarterdeck.kernel.errors import Misconfigured

Language = Literal["ru", "en", "uk", "zh"]


class Settings(BaseSettings):
    """Read from the environment; an unset key has its default."""

    model_config = SettingsConfigDict(env_prefix="QUARTERDECK_", extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path("data"), description="Folder of everything that is kept.")
    database_url: SecretStr | None = Field(
        default=None, description="Your own PostgreSQL (14 or newer); unset = an embedded one in the home."
    )
    prefect_database_url: SecretStr | None = Field(
        default=None,
        description="Database of Prefect's server; unset = beside the core's, its name + `_prefect`.",
    )
    postgres_bin: str = Field(
        default="",
        description="Programs of the embedded server: a `bin` folder, or `system` = those installed here.",
    )
    http_host: str = Field(default="127.0.0.1", description="Address the web process listens on.")
    http_port: int = Field(default=8500, ge=0, le=65535, description="Port of the web process.")
    prefect_port: int = Field(default=4200, ge=0, le=65535, description="Port of Prefect's server and UI.")
    public_url: str = Field(
        default="", description="Address at which others reach the web process, such as a code host's hooks."
    )
    prefect_public_url: str = Field(
        default="",
        description="Where people open Prefect's UI, a host name of its own that your proxy serves: messages"
        " link to runs there, and the UI finds its API there; unset = no links, and the UI on this machine.",
    )
    router_url: str = Field(
        default="", description="Where the model router is; unset = where the one of this home says it is."
    )
    token: SecretStr | None = Field(
        default=None, description="The owner's API token; unset = made by `setup` and shown once."
    )
    language: Language = Field(default="ru", description="Language of texts for people: ru, en, uk, zh.")
    crew: Path | None = Field(default=None, description="Roster file; unset = `crew.yaml` in the home.")
    blocks: bool = Field(default=True, description="`off` = run without Prefect's blocks (tests).")
    kept_days: int = Field(
        default=90,
        ge=14,
        le=36_500,
        description="Days after the end of its item that delivered messages, and folders and prompts of runs,"
        " are kept; the journal is kept for ever.",
    )
    concurrency: int = Field(
        default=8, ge=1, le=256, description="Stages one desk works on at the same time."
    )
    stages: Literal["desk", "deployment"] = Field(
        default="desk",
        description="Where stages run: `desk` = in the desk itself; `deployment` = as runs of the `stage`"
        " deployment, for a Prefect work pool on several machines (seconds slower to start).",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Secret of `POST /webhooks/generic`; fills its connection on first start.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level logged."
    )
    log_format: Literal["console", "json"] = Field(default="console", description="Form of log lines.")
    agent_base_url: str = Field(
        default="",
        validation_alias=AliasChoices("AGENT_BASE_URL"),
        description="Address of agents behind WebSockets that have none of their own; fills its connection.",
    )
    agent_ws_url: str = Field(
        default="",
        validation_alias=AliasChoices("AGENT_WS_URL"),
        description="The same under its former name; read when `AGENT_BASE_URL` is unset.",
    )
    openclaw_url: str = Field(
        default="",
        validation_alias=AliasChoices("OPENCLAW_URL"),
        description="Address of an OpenClaw gateway; fills its connection on first start.",
    )
    openclaw_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("OPENCLAW_TOKEN"),
        description="The gateway's own token (`gateway.auth.token`); fills its connection on first start.",
    )
    openclaw_hooks_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("OPENCLAW_HOOKS_TOKEN"),
        description="The token of its hooks (`hooks.token`), another one; fills its connection.",
    )
    openclaw_webhook_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("OPENCLAW_WEBHOOK_TOKEN"),
        description="The token that its cron jobs send along (`cron.webhookToken`); fills its connection.",
    )
    plane_url: str = Field(
        default="",
        validation_alias=AliasChoices("PLANE_URL"),
        description="Address of Plane, where work arrives; fills its connection on first start.",
    )
    plane_workspace: str = Field(
        default="",
        validation_alias=AliasChoices("PLANE_WORKSPACE"),
        description="The workspace's name in Plane's addresses; fills its connection on first start.",
    )
    plane_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("PLANE_API_KEY"),
        description="API key of the desk's own user in Plane; fills its connection on first start.",
    )
    plane_webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("PLANE_WEBHOOK_SECRET"),
        description="What Plane signs its deliveries with; fills its connection on first start.",
    )
    telegram_bot_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ORCH_TELEGRAM_BOT_TOKEN"),
        description="Bot token of the Telegram channel; fills its connection on first start.",
    )
    telegram_chat_id: str = Field(
        default="",
        validation_alias=AliasChoices("ORCH_TELEGRAM_CHAT_ID"),
        description="Chat that the Telegram channel writes to; fills its connection on first start.",
    )
    telegram_api_base: str = Field(
        default="https://api.telegram.org",
        validation_alias=AliasChoices("TELEGRAM_API_BASE"),
        description="Address of the Bot API: Telegram's own, or a local server.",
    )
    nats_url: str = Field(
        default="",
        validation_alias=AliasChoices("NATS_URL"),
        description="NATS server that gets the events of the Telegram gateway; unset = the built-in bus.",
    )
    router_base_url: str = Field(
        default="",
        validation_alias=AliasChoices("ROUTER_BASE_URL"),
        description="Service that gets every Telegram update posted to `/telegram/updates`; unset = none.",
    )
    default_agent: str = Field(
        default="", description="Who answers people to whom the roster gives no agent; unset = the first one."
    )
    chat_model: str = Field(
        default="rehearsal",
        description="Model with which agents talk that name none. `rehearsal` is built in and only repeats.",
    )
    telegram_guests: Literal["refuse", "talk"] = Field(
        default="refuse",
        description="What Telegram users who are not in the roster get: `refuse` = a polite refusal with"
        " their id; `talk` = agents answer them too.",
    )

    gitea_url: str = Field(
        default="",
        validation_alias=AliasChoices("GITEA_URL"),
        description="Address of the Gitea where code lives; fills its connection on first start.",
    )
    gitea_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("GITEA_TOKEN"),
        description="Access token of the desk's user in Gitea; fills its connection on first start.",
    )
    gitea_webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("GITEA_WEBHOOK_SECRET"),
        description="What Gitea signs its deliveries with; fills its connection on first start.",
    )

    multica_url: str = Field(
        default="",
        validation_alias=AliasChoices("MULTICA_SERVER_URL"),
        description="Address of a Multica server; fills its connection on first start.",
    )
    multica_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("MULTICA_TOKEN"),
        description="Personal token for Multica (`mul_…`); fills its connection on first start.",
    )
    multica_workspace_id: str = Field(
        default="",
        validation_alias=AliasChoices("MULTICA_WORKSPACE_ID"),
        description="The workspace that every call to Multica names; fills its connection on first start.",
    )
    multica_cli: str = Field(
        default="",
        validation_alias=AliasChoices("MULTICA_CLI"),
        description="Multica's program, by name or path: it is used instead of HTTP.",
    )
    openclaw_cli: str = Field(
        default="",
        validation_alias=AliasChoices("OPENCLAW_CLI"),
        description="OpenClaw's program, by name or path: switches its WorkBoard on as a source.",
    )
    source_fresh: float = Field(
        default=60, ge=1, le=3600, description="Seconds that one look into a source serves all agents."
    )
    source_spacing: float = Field(
        default=1,
        ge=0,
        le=600,
        description="Seconds between two calls to one program or server outside, over all processes.",
    )
    documents_to_cards: bool = Field(
        default=False, description="Turn lines of to-do documents that are blocked into WorkBoard cards."
    )

    @cached_property
    def surfaces_folder(self) -> Path:
        """Workspaces of agents that people talk to, and files on their way."""
        return self.folder / "surfaces"

    @cached_property
    def folder(self) -> Path:
        """The home, absolute."""
        return self.home.expanduser().absolute()

    @property
    def crew_file(self) -> Path:
        return self.crew.expanduser().absolute() if self.crew else self.folder / "crew.yaml"

    @property
    def pipelines_folder(self) -> Path:
        return self.folder / "pipelines"

    @property
    def keys_folder(self) -> Path:
        return self.folder / "keys"

    @property
    def router_file(self) -> Path:
        """Where the router writes its addresses while it runs."""
        return self.folder / "run" / "router.json"

    @property
    def kept(self) -> timedelta:
        """How long what finished items left behind is kept."""
        return timedelta(days=self.kept_days)

    @property
    def runs_folder(self) -> Path:
        """One folder per agent run: its job, log and result."""
        return self.folder / "runs"

    @property
    def work_folder(self) -> Path:
        """Work trees, one per item."""
        return self.folder / "work"

    @property
    def files_folder(self) -> Path:
        """Files that programs may have sent, and files that people sent us."""
        return self.folder / "files"

    @property
    def forge_folder(self) -> Path:
        """Bare repositories of the local forge."""
        return self.folder / "forge"


def variable(name: str) -> str:
    """The environment variable of a setting; of a name that is one already, that very name."""
    field = Settings.model_fields.get(name)
    if field is None:
        return name
    alias = field.validation_alias
    own = f"{Settings.model_config.get('env_prefix')}{name}".upper()
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else own


def load() -> Settings:
    """The settings of this process. Raises `Misconfigured` naming the variable, never its value."""
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors(include_input=False)
        wrong = "; ".join(f"{variable(str(e['loc'][0]))}: {e['msg']}" for e in found)
        raise Misconfigured(
            f"A setting is wrong: {wrong}.",
            "See docs/reference/settings.md, correct the variable, start again.",
        ) from None
