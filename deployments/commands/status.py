"""`quarterdeck status`: what is going on, in one look."""

from typing import TYPE_CHECKING, Any

from deployments.commands import heartbeat_lines, terminal
from deployments.commands.terminal import AsJson
from quarterdeck.kernel.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from quarterdeck.heartbeat.cards import HeartbeatCard
    from quarterdeck.house import House
    from quarterdeck.kernel.settings import Settings

MANY = 200
"""The most items and dead letters that are looked up; more are counted as "at least"."""


def status(as_json: AsJson = False) -> None:
    """Show items by state, whose move it is, which processes are up, and undelivered messages."""
    settings = terminal.here()
    found = terminal.in_house(_look) | {"processes": processes(settings), "home": str(settings.folder)}
    terminal.show(found, as_json, lambda console: _tell(console, found))


async def _look(house: "House") -> dict[str, Any]:
    from quarterdeck.board.cards import Wanted
    from quarterdeck.board.model import State
    from quarterdeck.telegram.model import DESK

    counts = await house.board.counts()
    waiting = Wanted(state=(State.BLOCKED, State.WAITING_APPROVAL))
    people = (await house.board.items(waiting, limit=MANY)).items
    dead = await house.notify.dead_letters(limit=MANY)
    return {
        "items": {state.value: counts.get(state, 0) for state in State},
        "whose_move": [
            {"key": card.key, "title": card.title, "state": card.state.value, "stage": card.stage}
            | (card.move or {})
            for card in people
        ],
        "dead_letters": len(dead.items),
        "messages_waiting": await house.notify.waiting("telegram"),
        "desk_bot_served": await house.bots.is_served(DESK),
        "heartbeats": [_heartbeat(card) for card in await house.sweeper.overview()],
    }


def _heartbeat(card: "HeartbeatCard") -> dict[str, Any]:
    """The heartbeat of one agent, in a few words."""
    last = card.last
    return {
        "agent": card.agent,
        "last": card.last_finished,
        "result": "stopped" if card.is_stale else last.result.value if last else None,
        "next": card.next_at,
        "sources": {name: source.state for name, source in last.sources.items()} if last else {},
        "suspected": last.suspected if last else [],
        "confirmed": last.confirmed if last else [],
        "held_back": [f"{breaker.name}: {breaker.reason}" for breaker in card.breakers],
        "waiting": [work.name for work in card.waiting],
    }


def processes(settings: "Settings") -> dict[str, bool]:
    """Every part of the open desk: is it alive? Empty when none is open."""
    from deployments import home

    running = home.read(settings)
    if running is None or not home.born(running.pid):
        return {}
    return {name: home.is_alive(pid, birth) for name, (pid, birth) in sorted(running.processes.items())}


def _tell(console: "Console", found: dict[str, Any]) -> None:
    parts = found["processes"]
    console.print(f"Desk in {found['home']}: {'open' if parts else 'closed; `quarterdeck up` opens it'}")
    if parts:
        console.print(
            "  " + ", ".join(f"{name} {'up' if alive else 'DOWN'}" for name, alive in parts.items())
        )
    rows = [(state, count) for state, count in found["items"].items() if count]
    terminal.table(console, ("State", "Items"), rows, "\nNo items yet; `quarterdeck item create` files one.")
    if found["whose_move"]:
        console.print("Somebody's move:")
        moves = [
            (
                m["key"],
                m.get("whose"),
                terminal.clock(terminal.moment(m.get("since"))),
                m.get("why"),
                m.get("todo"),
            )
            for m in found["whose_move"]
        ]
        terminal.table(console, ("Item", "Whose", "Since", "Why", "What to do"), moves, "")
    if found["heartbeats"]:
        heartbeat_lines.tell(console, found["heartbeats"])
    if (count := found["messages_waiting"]) and not found["desk_bot_served"]:
        waiting = counted(count, "message waits", "messages wait")
        console.print(f"{waiting}, and no listener serves the desk's bot: `quarterdeck doctor`.")
    if count := found["dead_letters"]:
        least = "at least " if count == MANY else ""
        dead = counted(count, "message")
        console.print(f"{least}{dead} could not be delivered: `quarterdeck dead-letters list`.")
