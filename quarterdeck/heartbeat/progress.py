"""How far a piece of work came, in steps: by its description, and by what its runs reported. Pure.

A step is a line of a task list as trackers write them: `- [x] finished`, `- [ ] not yet`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quarterdeck.heartbeat.overview import Piece
from quarterdeck.heartbeat.sources.reading import tame

MOST = 20
"""Steps of either kind that are kept: the last finished ones, the next unfinished ones."""

LONGEST = 200
"""Characters of one step."""

_TASK = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+\[([ xX])\][ \t]+(\S.*)$", re.MULTILINE)

_ASKS = re.compile(
    r"\b(?:shall|should|may|can) (?:i|we)\b|\bdo you want\b|\bwould you (?:like|prefer)\b"
    r"|\b(?:please|could you|can you) (?:confirm|clarify|decide|approve)\b|\blet me know\b"
    r"|\b(?:мне|нам) (?:начать|начинать|продолжать|продолжить|сделать)\b|\bподтверди(?:те)?\b|\bхотите\b"
    r"|\b(?:мені|нам) (?:почати|починати|продовжувати|продовжити|зробити)\b|\bпідтверд(?:іть|и)\b|\bбажаєте\b"
    r"|是否需要|是否要|请确认|您希望|要不要|可以开始吗",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Progress:
    """What is finished, what is not; `asked`: the question with which the last run ended instead of that."""

    finished: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    asked: str = ""

    @classmethod
    def kept(cls, row: Mapping[str, Any]) -> "Progress":
        """As it was remembered."""
        return cls(tuple(row.get("finished", ())), tuple(row.get("unfinished", ())), row.get("asked", ""))

    def to_keep(self) -> dict[str, Any]:
        """As it is remembered: only what there is."""
        said = {"finished": list(self.finished), "unfinished": list(self.unfinished), "asked": self.asked}
        return {name: value for name, value in said.items() if value}

    def to_tell(self) -> dict[str, list[str]]:
        """As an event says it."""
        return {"finished": list(self.finished), "unfinished": list(self.unfinished)}

    def then(self, later: "Progress") -> "Progress":
        """With what was said later: what that leaves unfinished is all that is."""
        if not (later.finished or later.unfinished):
            return replace(self, asked=later.asked)
        known = {*later.finished, *later.unfinished}
        finished = [*(step for step in self.finished if step not in known), *later.finished]
        return Progress(tuple(finished[-MOST:]), later.unfinished[:MOST], later.asked)

    def task_list(self) -> str:
        """For people and agents, as Markdown."""
        return "\n".join((*(f"- [x] {s}" for s in self.finished), *(f"- [ ] {s}" for s in self.unfinished)))


NO_PROGRESS = Progress()


def of_text(text: str) -> Progress:
    """The task list in a description or a report."""
    finished, unfinished = list[str](), list[str]()
    for box, step in _TASK.findall(text):
        (unfinished if box == " " else finished).append(tame(step, LONGEST))
    return Progress(tuple(dict.fromkeys(finished)), tuple(dict.fromkeys(unfinished)))


def of_run(summary: str, *, is_done: bool) -> Progress:
    """What a run reported; without a task list its first line is what it did."""
    if asked := question(summary):
        return Progress(asked=asked)
    told = of_text(summary)
    if told.finished or told.unfinished or not is_done:
        return told
    first = next((tame(line, LONGEST) for line in summary.splitlines() if line.strip()), "")
    return Progress(finished=(first,) if first else ())


def question(summary: str) -> str:
    """The question that is all a run came to; empty = it worked, whatever it offers besides.

    Nobody is there to answer (heartbeat.md 4). Only a report that ends in asking for leave, or for a
    decision, and lists no finished step is one: work that was done is not done again for its politeness.
    """
    last = next((line.strip() for line in reversed(summary.splitlines()) if line.strip()), "")
    is_one = last.endswith(("?", "？")) and _ASKS.search(last) and not of_text(summary).finished
    return tame(last, LONGEST) if is_one else ""


def of_piece(piece: Piece, remembered: Mapping[str, Any]) -> Progress:
    """How far it came. Where nobody says what is left, the whole of it is."""
    found = NO_PROGRESS
    for told in _descriptions(piece):
        found = found.then(told)
    found = found.then(Progress.kept(remembered))
    return replace(found, unfinished=found.unfinished or (tame(piece.title, LONGEST),))


def _descriptions(piece: Piece) -> Iterator[Progress]:
    """The place that leads has the last word."""
    return (of_text(place.description) for place in reversed(piece.places))
