"""The registry: which agent speaks through which bot. Tokens are sealed, or stay in their connection.

Nothing here needs the heavy Bot API library: a token is checked with one plain request.
"""

from datetime import datetime, timedelta
from urllib.parse import quote

import structlog

from quarterdeck.kernel import http
from quarterdeck.kernel import log as logs
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import (
    Conflict,
    Invalid,
    Misconfigured,
    NotFound,
    QuarterdeckError,
    Unavailable,
)
from quarterdeck.kernel.keyring import Keyring
from quarterdeck.telegram import store
from quarterdeck.telegram.model import (
    API_BASE,
    BOTS_TOPIC,
    DESK,
    SENDS_TOPIC,
    Bot,
    BotCard,
    BotState,
    Identity,
    Lease,
    Registered,
    UnknownAgent,
)

log = structlog.get_logger(__name__)

PURPOSE = "telegram bots"
CONNECTION = "telegram"
DEFAULT = "default"
ADOPTION_PAUSE = timedelta(minutes=1)
BATCH = 50
SECONDS = 8.0
KEPT = timedelta(days=14)
"""How long updates that were told and messages that were sent are kept."""


class Bots:
    """Registers, lists and forgets bots."""

    def __init__(self, database: Database, keyring: Keyring, connections: Connections, api_base: str) -> None:
        self._database = database
        self._keyring = keyring
        self._connections = connections
        self._api_base = api_base.rstrip("/")
        self._refused: dict[str, tuple[datetime, QuarterdeckError]] = {}
        keyring.protect(PURPOSE, self.reencrypt)

    async def register(
        self,
        agent_id: str,
        token: str,
        *,
        allowed_chats: list[int] | None = None,
        name: str = "",
        connection: str = "",
    ) -> Registered:
        """Give an agent a bot; with another token it replaces the one before.

        Repeating it changes nothing. With `connection` (`telegram/<name>`) the token stays there. Raises
        `Invalid` for a token that Telegram does not know, `Conflict` for one that another agent has,
        `Unavailable` when Telegram does not answer.
        """
        token = token.strip()
        logs.hide(token)
        found = await self.identify(token, await self.base_of(connection))
        async with self._database.command("register bot") as unit:
            await store.only_registrar(unit)
            await self._must_be_free(unit, agent_id, found)
            row = await store.bot(unit.session, agent_id, for_update=True)
            if row is not None and self._says(row, found, token, allowed_chats, name, connection):
                return Registered(bot_id=row.bot_id, username=row.username)
            self._write(unit, row, agent_id, found, token, allowed_chats, name, connection)
        return Registered(bot_id=found.bot_id, username=found.username)

    async def _must_be_free(self, unit: Unit, agent_id: str, found: Identity) -> None:
        other = await store.bot_of(unit.session, found.bot_id)
        if other is not None and other.agent_id != agent_id:
            raise Conflict(
                f"The bot @{found.username} is {other.agent_id}'s already.",
                "Give every agent a bot of its own, or forget the other one first:"
                f" `quarterdeck bot forget {other.agent_id}`.",
                code="bot_taken",
            )

    def _says(
        self,
        row: Bot,
        found: Identity,
        token: str,
        allowed_chats: list[int] | None,
        name: str,
        connection: str,
    ) -> bool:
        """Whether a registration says what is known."""
        return (
            row.state is BotState.ACTIVE
            and (row.bot_id, row.username, row.connection) == (found.bot_id, found.username, connection)
            and connection == ""  # what a connection holds has changed, or nobody would ask
            and self._opened(row) == token
            and (allowed_chats is None or row.allowed_chats == allowed_chats)
            and (not name or row.name == name)
        )

    def _write(
        self,
        unit: Unit,
        row: Bot | None,
        agent_id: str,
        found: Identity,
        token: str,
        allowed_chats: list[int] | None,
        name: str,
        connection: str,
    ) -> None:
        if row is None:
            row = Bot(agent_id=agent_id, bot_id="", registered_at=unit.now, leased_until=unit.now)
            unit.session.add(row)
        row.bot_id, row.username = found.bot_id, found.username[:100]
        row.connection = connection
        row.sealed = "" if connection else self._keyring.seal(PURPOSE, agent_id, token.encode())
        row.name = name or row.name
        row.allowed_chats = row.allowed_chats if allowed_chats is None else allowed_chats
        row.state, row.trouble = BotState.ACTIVE, ""
        row.registered_at, row.announced = unit.now, False
        unit.record("bot_registered", agent=agent_id, bot=found.bot_id, username=found.username)
        unit.wake(BOTS_TOPIC, agent_id)

    async def identify(self, token: str, api_base: str = "") -> Identity:
        """Who a token belongs to (`getMe`). Raises like `register`."""
        address = f"{api_base or self._api_base}/bot{quote(token, safe=':')}/getMe"
        async with http.client("Telegram", seconds=SECONDS) as telegram:
            answer = await telegram.get(address)
        if answer.status_code in (401, 404):
            raise Invalid(
                "Telegram does not know this token.",
                "Copy it from @BotFather again; a revoked token needs a new one.",
                code="token_refused",
                field="bot_token",
            )
        result = http.json_of(answer)
        me = result.get("result") if isinstance(result, dict) else None
        if not isinstance(me, dict) or not isinstance(me.get("id"), int):
            raise Unavailable(
                "What answers is not a Bot API.", "Check TELEGRAM_API_BASE.", code="wrong_answer"
            )
        return Identity(f"bot:{me['id']}", str(me.get("username") or ""))

    async def list(self) -> list[BotCard]:
        """All bots, without their tokens."""
        async with self._database.read() as session:
            waiting = await store.queue_lengths(session)
            return [_card(row, waiting.get(row.agent_id, 0)) for row in await store.bots(session)]

    async def show(self, agent_id: str) -> BotCard:
        """One bot. Raises `NotFound` naming the agents that have one."""
        cards = {card.agent_id: card for card in await self.list()}
        if agent_id not in cards:
            raise NotFound.among("bot", agent_id, cards)
        return cards[agent_id]

    async def forget(self, agent_id: str) -> None:
        """Stop a bot and forget its token; what it still had to say is refused. Raises `NotFound`."""
        async with self._database.command("forget bot") as unit:
            row = await store.bot(unit.session, agent_id, for_update=True)
            if row is None:
                raise NotFound.among("bot", agent_id, [b.agent_id for b in await store.bots(unit.session)])
            await store.refuse_waiting(unit, agent_id, "The bot was forgotten.")
            await unit.session.delete(row)
            unit.record("bot_forgotten", agent=agent_id, bot=row.bot_id)
            unit.wake(BOTS_TOPIC, agent_id)
            unit.wake(SENDS_TOPIC, agent_id)

    async def must_know(self, unit: Unit, agent_id: str) -> None:
        """Raise `UnknownAgent` (400) unless the agent has a bot, `Conflict` while that is stopped."""
        row = await store.bot(unit.session, agent_id)
        if row is None:
            known = [row.agent_id for row in await store.bots(unit.session)]
            raise UnknownAgent(
                f"The agent {agent_id!r} has no bot.",
                f"Known are: {', '.join(known)}."
                if known
                else "Register one: `quarterdeck bot register AGENT`, or `POST /bots/register`.",
                field="agent_id",
            )
        if row.state is BotState.STOPPED:
            raise Conflict(
                f"The bot of {agent_id} is stopped: {row.trouble}",
                "Register it again with a new token from @BotFather.",
                code="bot_stopped",
            )

    async def token(self, agent_id: str) -> tuple[str, str]:
        """A bot's token and the address of its Bot API. Raises `NotFound`, `Misconfigured`."""
        row = await self._row(agent_id)
        return await self._token(row), await self.base_of(row.connection)

    async def _row(self, agent_id: str) -> Bot:
        async with self._database.read() as session:
            row = await store.bot(session, agent_id)
            known = [] if row else [one.agent_id for one in await store.bots(session)]
        if row is None:
            raise NotFound.among("bot", agent_id, known)
        return row

    async def sign_out(self, agent_id: str, method: str) -> str:
        """Leave the present Bot API server: `logOut` from the cloud, `close` from a local one.

        Returns what must name the next server: `telegram/<name>` where this bot's connection has an address
        of its own, else TELEGRAM_API_BASE.
        Raises `Unavailable` with `retry_after` within ten minutes of the bot's start there, `Conflict` when
        it refuses.
        """
        row = await self._row(agent_id)
        token, base = await self._token(row), await self.base_of(row.connection)
        address = f"{base}/bot{quote(token, safe=':')}/{method}"
        async with http.client("Telegram", seconds=SECONDS) as telegram:
            answer = await telegram.post(address)
        if answer.status_code == 429:
            told = http.retry_after(answer)
            wait = 600 if told is None else told
            raise Unavailable(
                "A Bot API server lets a bot go ten minutes after it came, not before.",
                f"Try again in {wait} s.",
                code="too_many_requests",
                retry_after=wait,
            )
        http.accepted(answer)
        return row.connection if await self._own_base(row.connection) else "TELEGRAM_API_BASE"

    async def lease_of(self, row: Bot) -> Lease:
        """What a listener must know to serve a bot. Raises `Misconfigured` without its token."""
        return Lease(
            agent_id=row.agent_id,
            bot_id=row.bot_id,
            fence=row.fence,
            registered_at=row.registered_at,
            allowed_chats=frozenset(row.allowed_chats),
            token=await self._token(row),
            api_base=await self.base_of(row.connection),
            trouble=row.trouble,
        )

    async def adopt_connections(self) -> None:
        """Every connection of the kind `telegram` is a bot: `default` the desk's, others of that agent.

        One that Telegram does not take is tried again after `ADOPTION_PAUSE`, or when it is changed.
        """
        async with self._database.read() as session:
            known = {row.agent_id: row for row in await store.bots(session)}
        for info in await self._connections.all():
            agent_id = DESK if info.name == DEFAULT else info.name
            if info.kind != CONNECTION or not _is_older(known.get(agent_id), info.updated_at):
                continue
            if self._is_refused(info.name, info.updated_at):
                continue
            value = await self._connections.get(CONNECTION, info.name) or {}
            if token := str(value.get("bot_token") or ""):
                await self._adopt(agent_id, token, f"{CONNECTION}/{info.name}")

    async def _adopt(self, agent_id: str, token: str, connection: str) -> None:
        name = connection.partition("/")[2]
        try:
            await self.register(agent_id, token, connection=connection)
        except (Conflict, Invalid, Misconfigured, Unavailable) as error:
            self._refused[name] = self._database.clock.now(), error
            log.warning("bot_not_adopted", agent=agent_id, connection=connection, reason=error.detail)
        else:
            self._refused.pop(name, None)

    def _is_refused(self, name: str, changed_at: datetime) -> bool:
        """Whether it was just tried, and nobody changed it since."""
        if name not in self._refused:
            return False
        at, _ = self._refused[name]
        return changed_at <= at and self._database.clock.now() < at + ADOPTION_PAUSE

    def why_not_adopted(self, name: str = DEFAULT) -> QuarterdeckError | None:
        """Why this process could not make the connection of that name a bot, when it last tried."""
        _, error = self._refused.get(name, (None, None))
        return error

    async def is_served(self, agent_id: str) -> bool:
        """Whether a listener has this agent's bot now."""
        async with self._database.read() as session:
            row = await store.bot(session, agent_id)
        return row is not None and row.leased_until > self._database.clock.now()

    async def is_needed(self) -> bool:
        """Whether there are bots and nobody listens to any of them."""
        async with self._database.read() as session:
            active, served = await store.count_active(session, self._database.clock.now())
        return active > 0 and served == 0

    async def forget_old(self, limit: int = 1_000) -> int:
        """Drop what was told and sent long ago; how much."""
        async with self._database.command("forget old telegram rows") as unit:
            return await store.forget(unit, unit.now - KEPT, limit)

    async def reencrypt(self) -> int:
        """Seal every token with the present master key; how many were sealed."""
        done, after = 0, ""
        while True:
            async with self._database.command("seal bots anew") as unit:
                rows = await store.sealed_before(unit.session, self._keyring.current_prefix, after, BATCH)
                for row in rows:
                    after = row.agent_id
                    row.sealed = self._keyring.seal(PURPOSE, row.agent_id, self._plain(row).encode())
                    done += 1
            if not rows:
                return done

    async def _token(self, row: Bot) -> str:
        if not row.connection:
            token = self._plain(row)
        else:
            kind, _, name = row.connection.partition("/")
            token = str((await self._connections.get(kind, name) or {}).get("bot_token") or "")
        if not token:
            raise Misconfigured(
                f"The bot of {row.agent_id} has no token any more.",
                "Register it again.",
                code="token_missing",
            )
        logs.hide(token)
        return token

    async def base_of(self, connection: str) -> str:
        """The address of the Bot API for a connection's bot: its own one, else as TELEGRAM_API_BASE says."""
        return await self._own_base(connection) or self._api_base

    async def _own_base(self, connection: str) -> str:
        """Empty where there is none; Telegram's own stood in every block for long, and says nothing."""
        kind, _, name = connection.partition("/")
        value = (await self._connections.get(kind, name) or {}) if connection else {}
        base = str(value.get("api_base") or "").strip().rstrip("/")
        return "" if base == API_BASE else base

    def _plain(self, row: Bot) -> str:
        return self._keyring.open(PURPOSE, row.agent_id, row.sealed).decode()

    def _opened(self, row: Bot) -> str:
        try:
            return self._plain(row) if row.sealed else ""
        except QuarterdeckError:  # unreadable: whatever comes is better
            return ""


def _is_older(row: Bot | None, changed_at: datetime) -> bool:
    """Whether a connection says something that its bot does not know yet."""
    return row is None or row.registered_at < changed_at


def _card(row: Bot, waiting: int) -> BotCard:
    routed = f"routed {row.last_routed_at.isoformat()}" if row.last_routed_at else "never routed"
    return BotCard(
        agent_id=row.agent_id,
        bot_id=row.bot_id,
        username=row.username,
        name=row.name,
        status="stopped" if row.state is BotState.STOPPED else routed,
        trouble=row.trouble,
        last_poll=row.last_poll_at,
        last_inbound_routed=row.last_routed_at,
        queue_length=waiting,
        allowed_chat_ids=row.allowed_chats,
    )
