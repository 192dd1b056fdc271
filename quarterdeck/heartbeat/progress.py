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

MOST_ASKED = 300
"""Characters before its last line in a report that only asks: a longer one with a task list reports work."""

_ASKS = re.compile(
    r"\b(?:shall|should|may|can) (?:i|we)\b|\bdo you want\b|\bwould you (?:like|prefer)\b"
    r"|\bwhich\b.*\b(?:prefer|want|take|choose|use)\b|\b(?:proceed|continue|begin|start|go (?:on|ahead))\b"
    r"|\b(?:confirm|clarify|decide|approve)\b"
    r"|\b(?:начать|начинать|продолж\w+|приступ\w+|хотите|подтвер\w+)\b|\b(?:мне|нам) сделать\b"
    r"|\b(?:почати|починати|продовж\w+|бажаєте|підтвер\w+)\b|\b(?:мені|нам) зробити\b"
    r"|是否|需要我|您希望|要不要|确认|继续吗|开始吗",
    re.IGNORECASE,
)
"""What a question asks for: leave, or a decision."""

_STATES = re.compile(r"[.!](?:\s|$)|[。！]")
"""What ends a sentence that is no question."""

_NOTHING_MORE = re.compile(r"[\W_]*(?:y(?:es)?\W{1,5}no?)?[\W_]*", re.IGNORECASE)
"""What may stand behind its question mark: brackets, symbols, "(y/n)"."""

_WAITS = re.compile(
    r"\b(?:need|await|waiting for|require)s?\b.{0,30}"
    r"\b(?:confirmation|approval|permission|answer|decision|go-ahead|input|information|clarification)\b"
    r"|\bplease (?:confirm|clarify|decide|approve|advise)\b|\blet me know\b"
    r"|\b(?:can ?not|can't|unable to) (?:begin|start|proceed|continue|go on)\b"
    r"|\bжду\b.{0,30}\b(?:подтвержд|ответ|решени|разрешени)|\bподтвердите\b"
    r"|\b(?:чекаю|очікую)\b.{0,30}\b(?:підтвердж|відпов|рішенн|дозв)|\bпідтвердіть\b"
    r"|请确认|等待.{0,8}(?:确认|批准|回复)|需要更多信息",
    re.IGNORECASE,
)
"""What says the same without a question mark (heartbeat.md 4)."""

_OFFERS = re.compile(
    r"\b(?:else|further|also|too|any|help|questions?|feedback|next|ещ[её]|также|помочь|ще|також|допомогти)\b"
    r"|其他|还有|还需要|帮",
    re.IGNORECASE,
)
"""What is offered at the end of work that was done."""


@dataclass(frozen=True)
class Progress:
    """What is finished, what is not; `asked`: that for which the last run waited instead of working."""

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
        """With what was said later. A list of what is left is the whole of it."""
        known = {*later.finished, *later.unfinished}
        finished = [*(step for step in self.finished if step not in known), *later.finished]
        left = later.unfinished or tuple(step for step in self.unfinished if step not in known)
        return Progress(tuple(finished[-MOST:]), left[:MOST], later.asked)

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


def of_run(summary: str, before: Progress, *, is_done: bool) -> Progress:
    """What a run reported after others; without a task list its first line is what it did."""
    told = of_text(summary)
    is_idle = set(told.finished) <= set(before.finished)
    has_steps = bool(told.finished or told.unfinished)
    if is_idle and (asked := question(summary, has_steps=has_steps)):
        return replace(told, asked=asked)
    if has_steps or not is_done:
        return told
    first = next((tame(line, LONGEST) for line in summary.splitlines() if line.strip()), "")
    return Progress(finished=(first,) if first else ())


def question(summary: str, *, has_steps: bool = False) -> str:
    """The last line of a report that does nothing but wait for leave, a decision or an answer; else empty.

    Nobody is there to give it (heartbeat.md 4). A report of nothing but questions asks, in whatever language.
    What was done is not done again for its politeness: neither an offer of more is a question, nor what
    stands below much text that lists steps, as prompts want it.
    """
    *before, last = lines = [line.strip() for line in summary.splitlines() if line.strip()] or [""]
    if _OFFERS.search(last):
        return ""
    is_known = _ASKS.search(_asked(last)) or _WAITS.search(last)
    is_report = has_steps and len(" ".join(before)) > MOST_ASKED
    is_bare = all((asked := _asked(line)) and not _STATES.search(asked) for line in lines)
    return tame(last, LONGEST) if is_bare or (is_known and not is_report) else ""


def _asked(line: str) -> str:
    """What stands before the question mark that ends a line; empty = it ends otherwise."""
    asked, mark, after = line.replace("？", "?").replace("؟", "?").rpartition("?")
    return asked if mark and _NOTHING_MORE.fullmatch(after) else ""


def of_piece(piece: Piece, remembered: Mapping[str, Any]) -> Progress:
    """How far it came, by its descriptions and its runs; what is left is the whole where nobody says it."""
    found = NO_PROGRESS
    for told in _descriptions(piece):
        found = found.then(told)
    found = found.then(Progress.kept(remembered))
    return replace(found, unfinished=found.unfinished or (tame(piece.title, LONGEST),))


def _descriptions(piece: Piece) -> Iterator[Progress]:
    """The place that leads has the last word."""
    return (of_text(place.description) for place in reversed(piece.places))
