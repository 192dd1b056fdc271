"""To-do documents: every line with an unticked box in `TODO.md` and `AGENTS.md` of an agent's workspace.

Agents write these files too. So a line is looked for again before each change, the file is replaced in one
step, and only if nobody changed it in between.
"""

import asyncio
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from quarterdeck.heartbeat.sources.boxes import Box, boxes, fresh, rewritten
from quarterdeck.heartbeat.sources.notes import Notes
from quarterdeck.heartbeat.sources.polling import Glance
from quarterdeck.heartbeat.sources.reading import LONGEST_TITLE, NO_TITLE, Times, tame
from quarterdeck.heartbeat.sources.trouble import unavailable
from quarterdeck.heartbeat.work import Answer, Found, Ref, Status, Trouble, Watched
from quarterdeck.kernel.clock import Clock
from quarterdeck.kernel.errors import Conflict, NotFound, QuarterdeckError

NAME = "documents"
FILES = ("TODO.md", "AGENTS.md")
MOST_BYTES = 1_000_000
TRIES = 5
APPROVAL = ("requires_approval", "#approval")
_STATES = {"in_progress": Status.IN_PROGRESS, "in_review": Status.IN_REVIEW, "blocked": Status.BLOCKED}


class Cards(Protocol):
    """Where a line that timed out can become a card."""

    async def create(self, title: str, text: str, agent: str) -> str:
        """Its id."""
        ...


Roster = Callable[[], Awaitable[Sequence[Watched]]]


async def nobody() -> Sequence[Watched]:
    """No agents but those that a look names."""
    return ()


class Documents:
    """The to-do documents of all agents of this machine. `cards`: lines that are blocked become cards.

    `roster` says who the agents are when there is something to write and nobody looked yet.
    """

    name = NAME
    rank = 3
    is_driven = False

    def __init__(
        self,
        glance: Glance,
        notes: Notes,
        clock: Clock,
        cards: Cards | None = None,
        roster: Roster = nobody,
    ) -> None:
        self._glance = glance
        self._notes = notes
        self._clock = clock
        self._cards = cards
        self._roster = roster
        self._workspaces: dict[str, Path] = {}
        self._read: dict[Path, tuple[tuple[int, int, int], list[Box]]] = {}

    async def look(self, agents: Sequence[Watched]) -> Answer:
        return await self._glance.answer(agents, self._looked)

    async def _looked(self, agents: Sequence[Watched]) -> Answer:
        return await asyncio.to_thread(self._all, tuple(agents))

    def _all(self, agents: Sequence[Watched]) -> Answer:
        self._meet(agents)
        found: list[Found] = []
        wrong: dict[str, list[QuarterdeckError]] = {}
        times = Times(self._clock.now())
        for agent in agents:
            for file in FILES if agent.workspace else ():
                try:
                    lines = self._boxes(self._workspaces[agent.slug] / file)
                except QuarterdeckError as error:
                    wrong.setdefault(agent.slug, []).append(error)
                else:
                    found += [_found(agent.slug, file, b, times) for b in lines if not b.is_ticked]
        concerns = {slug: (_trouble(errors), _details(errors)) for slug, errors in wrong.items()}
        if not concerns:
            return Answer(NAME, self._clock.now(), tuple(found), detail=times.note)
        every = [error for errors in wrong.values() for error in errors]
        trouble, detail = _trouble(every), _details(every[:3])
        return Answer(NAME, self._clock.now(), tuple(found), trouble, detail, concerns=concerns)

    def _meet(self, agents: Sequence[Watched]) -> None:
        self._workspaces |= {a.slug: Path(a.workspace).expanduser() for a in agents if a.workspace}

    def _boxes(self, path: Path) -> list[Box]:
        """The lines of a file, read anew only when it changed; no file is no line."""
        try:
            state = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(path, error) from None
        version = (state.st_mtime_ns, state.st_size, state.st_ino)
        kept = self._read.get(path)
        if kept is None or kept[0] != version:
            kept = (version, boxes(_text(path)))
            self._read[path] = kept
        return kept[1]

    async def read(self, ref: Ref) -> Found | None:
        slug, file, identity = _parts(ref)
        text = await asyncio.to_thread(_text_or_none, await self._path(ref))
        for box in boxes(text or ""):
            if box.identity == identity:
                return _found(slug, file, box, Times(self._clock.now()))
        return None

    async def start(self, ref: Ref, agent: str) -> None:
        await self._mark(ref, state="in_progress", why=None)

    async def comment(self, ref: Ref, text: str) -> None:
        await self._notes.say(ref, text)

    async def release(self, ref: Ref, why: str) -> None:
        await self._notes.say(ref, why)
        await self._mark(ref, state=None, why=why)

    async def reopen(self, ref: Ref, why: str) -> None:
        await self.release(ref, why)

    async def block(self, ref: Ref, why: str) -> None:
        """The line is marked in place; where lines become cards, it names its card."""
        await self._notes.say(ref, why)
        await self._mark(ref, state="blocked", why=why)
        if self._cards is not None:
            await self._make_card(self._cards, ref, why)

    async def _make_card(self, cards: Cards, ref: Ref, why: str) -> None:
        """Once: a line that has a card already keeps it."""
        slug, file, identity = _parts(ref)
        text = await asyncio.to_thread(_text_or_none, await self._path(ref))
        box = next((b for b in boxes(text or "") if b.identity == identity), None)
        if box is not None and "card" not in box.mark:
            card = await cards.create(tame(box.title), f"{file}, line {box.line}: {why}", slug)
            await self._mark(ref, card=card)

    async def finish(self, ref: Ref, result: str, *, is_reviewed: bool) -> None:
        await self._notes.say(ref, result)
        if is_reviewed:
            await self._mark(ref, tick=True, state=None, why=None)
        else:
            await self._mark(ref, state="in_review", why=None)

    async def note_rounds(self, ref: Ref, rounds: int) -> None:
        await self._mark(ref, rounds=str(rounds))

    async def _mark(self, ref: Ref, *, tick: bool = False, **facts: str | None) -> None:
        identity = _parts(ref)[2]
        path, told = await self._path(ref), fresh(self._clock.now(), **facts)
        await asyncio.to_thread(_change, path, lambda text: rewritten(text, identity, told, tick=tick))
        self._glance.forget()
        self._read.pop(path, None)

    async def _path(self, ref: Ref) -> Path:
        slug, file, _ = _parts(ref)
        if slug not in self._workspaces:
            self._meet(await self._roster())
        if slug not in self._workspaces:
            raise NotFound.among("workspace", slug, self._workspaces)
        return self._workspaces[slug] / file


def _found(slug: str, file: str, box: Box, times: Times) -> Found:
    at = times.read(box.mark.get("at"))
    rounds = box.mark.get("rounds", "")
    status = Status.DONE if box.is_ticked else _STATES.get(box.mark.get("state", ""), Status.TODO)
    return Found(
        ref=Ref(NAME, f"{slug}:{file}:{box.identity}"),
        title=tame(box.title, LONGEST_TITLE) or NO_TITLE,
        status=status,
        shown=f"{file}:{box.line}",
        agent=slug,
        requires_approval=any(word in box.title for word in APPROVAL),
        rounds=int(rounds) if rounds.isascii() and rounds.isdigit() and len(rounds) < 10 else None,
        started_at=at if status is Status.IN_PROGRESS else None,
        updated_at=at,
    )


def _trouble(wrong: Sequence[QuarterdeckError]) -> Trouble:
    return Trouble(wrong[0].data["trouble"])


def _details(wrong: Sequence[QuarterdeckError]) -> str:
    return " ".join(error.detail for error in wrong)


def _parts(ref: Ref) -> tuple[str, str, str]:
    """Agent, file and line. Raises `NotFound` for what never was one of ours."""
    parts = tuple(ref.id.split(":"))
    if len(parts) != 3 or parts[1] not in FILES:
        raise NotFound(f"There is no line {tame(ref.id, 80)!r}.", "Look again.", code="unknown_line")
    return parts[0], parts[1], parts[2]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from None
    return True


def _text_or_none(path: Path) -> str | None:
    return _text(path) if _exists(path) else None


def _text(path: Path) -> str:
    """The text of a file, byte for byte. Raises `Unavailable`."""
    try:
        if not path.is_file():
            raise unavailable(Trouble.UNREADABLE, f"{path} is no file.")
        if path.stat().st_size > MOST_BYTES:
            raise unavailable(Trouble.TOO_LARGE, f"{path} is larger than {MOST_BYTES} bytes.")
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    if b"\0" in content:
        raise unavailable(Trouble.UNREADABLE, f"{path} is no text in UTF-8.")
    return content.decode("utf-8", "surrogateescape")


def _unreadable(path: Path, error: OSError) -> QuarterdeckError:
    return unavailable(
        Trouble.FAILED, f"{path} cannot be read or written: {error.strerror}.", "Make it yours."
    )


def _change(path: Path, change: Callable[[str], str | None]) -> None:
    """Replace a file by its changed text; again, if somebody wrote it meanwhile."""
    for _ in range(TRIES):
        if not _exists(path):
            break
        before = _state(path)
        text = change(_text(path))
        if text is None:
            break
        if _replaced(path, text.encode("utf-8", "surrogateescape"), before):
            return
    else:
        raise Conflict(f"{path} is being written all the time.", "It is tried again later.", code="busy_file")
    raise NotFound(f"The line is no longer in {path}.", "Somebody took it out.", code="unknown_line")


def _state(path: Path) -> Mapping[str, int]:
    try:
        now = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return {"time": now.st_mtime_ns, "size": now.st_size, "inode": now.st_ino, "mode": now.st_mode}


def _replaced(path: Path, content: bytes, before: Mapping[str, int]) -> bool:
    """Whether the file is the new one; False = it is not the one that was read any more."""
    target = path.resolve()
    draft = ""
    try:
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "wb") as writer:
            writer.write(content)
        Path(draft).chmod(stat.S_IMODE(before["mode"]))
        if _state(path) != before:
            return False
        Path(draft).replace(target)
        draft = ""
        return True
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        if draft:
            with suppress(OSError):
                Path(draft).unlink()
