"""What the board decides: which links between items are possible."""

from collections import deque
from collections.abc import Collection, Mapping


def cycle(edges: Mapping[str, Collection[str]], start: str) -> tuple[str, ...]:
    """The shortest way along `edges` from `start` back to it, both ends named; empty if there is none."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for there in sorted(edges.get(here, ())):
            if there == start:
                return (start, *_way(came_from, start, here), start)
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    return ()


def _way(came_from: Mapping[str, str], start: str, end: str) -> list[str]:
    """The steps after `start` up to `end`."""
    steps = []
    while end != start:
        steps.append(end)
        end = came_from[end]
    return steps[::-1]
