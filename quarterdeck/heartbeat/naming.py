"""How people call a piece of work: as messages show it, by its item, or by the source's own id.

Pure. What was shown once stays a name of it, for a message is answered later than it is read.
"""

from collections.abc import Callable, Sequence

from quarterdeck.heartbeat.model import Work
from quarterdeck.heartbeat.overview import Piece
from quarterdeck.kernel.errors import Invalid, NotFound

NAMES = "names"
MOST_NAMES = 10
SHORTEST = 4
"""Characters of an id that name it, if no other begins with them."""

Test = Callable[[Work], bool]


def name_of(piece: Piece) -> str:
    """What to type for a piece of work."""
    return f"{piece.ref.source}:{piece.shown}"


def names(before: Sequence[str], piece: Piece) -> list[str]:
    """The names it has now, then those that it had before."""
    now = (f"{p.ref.source}:{p.shown}" for p in piece.places if p.shown)
    return list(dict.fromkeys([*now, *before]))[:MOST_NAMES]


def name_of_row(row: Work) -> str:
    """What to type for remembered work."""
    known: list[str] = row.told.get(NAMES) or []
    return known[0] if known else f"{row.source}:{row.ref}"


def named(rows: Sequence[Work], name: str) -> Work:
    """The work that is meant. Raises `NotFound`, and `Invalid` when several may be."""
    wanted = name.strip().casefold()
    for test in (_is(wanted), _is_shown(wanted, is_now=True), _is_shown(wanted), _begins(wanted)):
        hits = [row for row in rows if test(row)]
        hits = [row for row in hits if row.finished_at is None] or hits
        if len(hits) == 1:
            return hits[0]
        if hits:
            several = ", ".join(f"{row.source}:{row.ref}" for row in hits[:5])
            raise Invalid(f"{name} may be several.", f"Name one: {several}.", field="work")
    newest = sorted(rows, key=lambda row: (row.finished_at is None, row.updated_at), reverse=True)
    raise NotFound.among("work", name, [_told(row) for row in newest[:20]])


def _told(row: Work) -> str:
    return f"{name_of_row(row)} «{row.title[:60]}»" if row.title else name_of_row(row)


def _ids(row: Work) -> list[str]:
    places = [[row.source, row.ref], *row.places]
    return [f"{source}:{ref}".casefold() for source, ref in places]


def _is(wanted: str) -> Test:
    return lambda row: wanted in _ids(row) or wanted == (row.item_key or "").casefold()


def _is_shown(wanted: str, *, is_now: bool = False) -> Test:
    def test(row: Work) -> bool:
        known: list[str] = row.told.get(NAMES) or []
        kept = known[: max(1, len(row.places))] if is_now else known
        return any(wanted in (one.casefold(), _without_source(one)) for one in kept)

    return test


def _begins(wanted: str) -> Test:
    if len(_without_source(wanted)) < SHORTEST:
        return lambda row: False
    return lambda row: any(
        wanted == one[: len(wanted)] or _without_source(one).startswith(wanted) for one in _ids(row)
    )


def _without_source(name: str) -> str:
    return name.partition(":")[2].casefold() if ":" in name else name.casefold()
