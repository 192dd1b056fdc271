"""Heartbeats in `quarterdeck status`: a row for each agent, a line for each trouble, never wider than 100."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deployments.commands import terminal

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
UNCONNECTED = "not configured"
Beat = Mapping[str, Any]


def tell(console: "Console", beats: Sequence[Beat]) -> None:
    """How the heartbeats stand, as `status` found them."""
    rows = [
        (b["agent"], b["result"] or "never", terminal.clock(b["last"]), terminal.clock(b["next"]), _note(b))
        for b in beats
    ]
    terminal.table(console, ("Heartbeat", "Last", "At", "Next", "Trouble"), rows, "")
    for line in (*_troubles(beats), sources(beats)):
        console.print(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…", markup=False)


def _note(beat: Beat) -> str:
    still, held = len(beat["suspected"]) + len(beat["confirmed"]), len(beat["held_back"])
    return ", ".join([*([f"{still} idle"] if still else []), *([f"{held} held back"] if held else [])])


def _troubles(beats: Sequence[Beat]) -> Iterator[str]:
    for beat in beats:
        agent = beat["agent"]
        yield from (f"{agent}: {work} is idle" for work in beat["suspected"])
        yield from (f"{agent}: {work} is stuck" for work in beat["confirmed"])
        yield from (f"{agent}: held back {work}" for work in beat["held_back"])
        yield from (f"{agent}: {work} waits for a yes" for work in beat.get("waiting", ()))


def sources(beats: Sequence[Beat]) -> str:
    """How the sources answered last, all in one line."""
    states: dict[str, str] = {}
    for beat in sorted((b for b in beats if b["last"]), key=lambda b: b["last"]):
        for name, state in beat["sources"].items():
            if state != UNCONNECTED or name not in states:
                states[name] = state
    if not states:
        return "Sources: not looked into yet."
    kinds: dict[str, list[str]] = {}
    for name, state in states.items():
        kinds.setdefault("not connected" if state == UNCONNECTED else state, []).append(name)
    order = sorted(kinds, key=lambda kind: (kind != "ok", kind == "not connected", kind))
    told = "; ".join(f"{kind}: {', '.join(sorted(kinds[kind]))}" for kind in order)
    return f"Sources: {told}."
