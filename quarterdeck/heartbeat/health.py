"""Can an agent's heartbeat do its work? (`quarterdeck heartbeat AGENT --health`)"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import col, func, select

from quarterdeck.heartbeat.context import too_long
from quarterdeck.heartbeat.model import Pulse, Result, Sweep
from quarterdeck.heartbeat.roster import Heartbeat
from quarterdeck.heartbeat.sources.every import Sources
from quarterdeck.heartbeat.sources.multica import connection, via
from quarterdeck.heartbeat.sources.trouble import trouble_of
from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel.connections import Connections
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import NotFound, QuarterdeckError

GOOD = (Result.QUIET, Result.WORKED)


@dataclass(frozen=True)
class Health:
    """`programs`: where each is, or what is wrong; `cache_age` in seconds; `lock`: who sweeps."""

    agent: str
    ok: bool
    programs: dict[str, dict[str, Any]]
    workspace_id: dict[str, Any]
    roster: dict[str, Any]
    cache_age: dict[str, float | None]
    last_success: datetime | None
    lock: dict[str, Any]
    context: list[str]


class Checkup:
    """Looks, without calling anything outside."""

    def __init__(self, database: Database, connections: Connections, sources: Sources) -> None:
        self._database = database
        self._connections = connections
        self._sources = sources

    async def look(self, agent: str, heartbeats: Mapping[str, Heartbeat], complaint: str = "") -> Health:
        """Raises `NotFound` for an agent without heartbeat; `complaint`: what is wrong with the roster."""
        if not complaint and agent not in heartbeats:
            raise NotFound.among("heartbeat", agent, heartbeats)
        programs = {"openclaw": await self._openclaw(), "multica": await self._multica()}
        workspace = await self._workspace(heartbeats.get(agent))
        one = heartbeats.get(agent)
        context = too_long(one.workspace) if one else []
        roster = {"ok": not complaint, "detail": complaint}
        parts = (*programs.values(), workspace, roster)
        return Health(
            agent=agent,
            ok=all(part["ok"] for part in parts) and not context,
            programs=programs,
            workspace_id=workspace,
            roster=roster,
            cache_age={name: await self._age(name) for name in self._sources.polls},
            last_success=await self._last_success(agent),
            lock=await self._lock(agent),
            context=context,
        )

    async def _openclaw(self) -> dict[str, Any]:
        try:
            return _there("openclaw", await self._sources.openclaw.path())
        except QuarterdeckError as error:
            return _absent(error)

    async def _multica(self) -> dict[str, Any]:
        """Over HTTP no program is needed."""
        try:
            if via(await connection(self._connections)) == "rest":
                return {"ok": True, "detail": "over HTTP", "path": ""}
            return _there("multica", await self._sources.multica_program.path())
        except QuarterdeckError as error:
            return _absent(error)

    async def _workspace(self, one: Heartbeat | None) -> dict[str, Any]:
        """A workspace is missed only where Multica is used at all."""
        value = await self._connections.get("multica")
        if value is None:
            needs = bool(one and one.multica_id)
            return {"ok": not needs, "detail": "Multica is not connected."}
        known = bool(value.get("workspace_id"))
        return {"ok": known, "detail": "" if known else "MULTICA_WORKSPACE_ID is missing."}

    async def _age(self, name: str) -> float | None:
        age = await self._sources.polls[name].age()
        return age.total_seconds() if age is not None else None

    async def _last_success(self, agent: str) -> datetime | None:
        good = select(func.max(Sweep.finished_at)).where(Sweep.agent == agent, col(Sweep.result).in_(GOOD))
        async with self._database.read() as session:
            found: datetime | None = (await session.exec(good)).one()
        return found

    async def _lock(self, agent: str) -> dict[str, Any]:
        async with self._database.read() as session:
            pulse = await session.get(Pulse, agent)
        until = pulse.leased_until if pulse else None
        held = bool(pulse and pulse.holder and until and until > self._database.clock.now())
        return {
            "held": held,
            "holder": pulse.holder if pulse and held else "",
            "until": until if held else None,
        }


def _there(name: str, path: str | None) -> dict[str, Any]:
    detail = "" if path else f"There is no program {name}."
    return {"ok": path is not None, "detail": detail, "path": path or ""}


def _absent(error: QuarterdeckError) -> dict[str, Any]:
    """What nobody connected is not missed."""
    return {"ok": trouble_of(error) is Trouble.NOT_CONFIGURED, "detail": error.detail, "path": ""}
