"""What an agent reads at every heartbeat must stay small (spec heartbeat.md, section 8)."""

from pathlib import Path

FILE = "HEARTBEAT.md"
CHECKED = (FILE, "AGENTS.md")
MOST_BYTES = 5 * 1024
"""Each of these files must stay below it."""


def too_long(workspace: str) -> list[str]:
    """Sentences about files of a workspace that an agent reads at every heartbeat and that have grown."""
    if not workspace:
        return []
    folder = Path(workspace).expanduser()
    sizes = {name: _size(folder / name) for name in CHECKED}
    return [f"{name} has {size} bytes; it must stay below {MOST_BYTES}." for name, size in sizes.items()
            if size >= MOST_BYTES]  # fmt: skip


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
