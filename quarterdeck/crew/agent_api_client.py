"""The client of a run of the `agent_api` runtime.

The agent keeps no history that could be asked, so a turn whose connection broke is asked again in the
same chat, whose memory knows of the first time.
"""

import asyncio
import fcntl
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from quarterdeck.crew import agent_api, answer, prompt
from quarterdeck.crew.agent_api import File, Limits, Names, Text, chat_of
from quarterdeck.crew.errand import Errand, Stage, run, say
from quarterdeck.kernel.errors import Invalid, Unavailable

MOST_TRIES = 3
PAUSE = 1.0
AGAIN = "You were asked this before, and the connection broke. Go on where you stopped."


async def work(errand: Errand) -> None:
    """Ask until there is a whole answer."""
    chat = errand.order["chat_id"]
    chat_id = chat_of(errand.job["item"]["key"]) if chat is None else chat
    url = agent_api.ws_url(errand.order["base_url"], chat_id)
    async with _alone(errand.folder.parent, url):
        while True:
            tries = errand.turn.tries + 1
            errand.note(stage=Stage.INTENT, tries=tries)
            try:
                text, files = await _asked(errand, url)
                break
            except Unavailable as error:
                if tries >= MOST_TRIES:
                    raise
                say(f"\n[quarterdeck: {error.detail} Asked again.]")
                await asyncio.sleep(PAUSE * tries)
    for path in files:
        _fetch(errand, path)
    if not text.strip() and files:
        text = f"Sent {', '.join(files)}."
    errand.note(stage=Stage.ANSWERED, text=text)


async def _asked(errand: Errand, url: str) -> tuple[str, list[str]]:
    """One question: the words of its answer, and the files that were sent."""
    order = errand.order
    limits = Limits(order["handshake_seconds"], order["silence_seconds"])
    names = Names(text=order["text_event"], file=order["file_event"])
    parts, files, size = list[str](), list[str](), 0
    async with agent_api.connected(url, limits, names) as agent:
        errand.note(stage=Stage.SENT)
        async for event in agent.ask(_message(errand), order["attachments"]):
            match event:
                case Text(text):
                    say(text, end="")
                    parts.append(text)
                    size += len(text.encode("utf-8", "replace"))
                case File(path):
                    say(f"\n[quarterdeck: the agent sends {path}]")
                    files.append(path)
                case _:
                    say(f"[{event.type}]")
            if size > answer.MOST_ANSWER or len(files) > answer.MOST_FILES:
                raise Invalid("The agent's answer is too long.", "It was cut off and not used.")
    say("")
    return "".join(parts), files


def _message(errand: Errand) -> str:
    parts = [prompt.system(errand.job), prompt.message(errand.job)]
    return "\n\n".join(part for part in [AGAIN if errand.turn.tries > 1 else "", *parts] if part)


@asynccontextmanager
async def _alone(runs: Path, url: str) -> AsyncIterator[None]:
    """Only one client of this host talks in a chat at a time."""
    folder = runs / "chats"
    folder.mkdir(exist_ok=True, mode=0o700)
    name = "".join(c if c.isalnum() else "_" for c in url)[-150:]
    with (folder / name).open("wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield


def _fetch(errand: Errand, path: str) -> None:
    """A file that the agent sent becomes a file of the item, if we can reach the agent's workspace."""
    workspace = errand.order["workspace_path"]
    if not workspace:
        say(f"[quarterdeck: {path} stays with the agent: the roster names no workspace_path]")
        return
    answer.write(Path(errand.job["work_tree"]), {answer.checked(path): read_file(Path(workspace), path)})
    say(f"[quarterdeck: wrote {path}]")


def read_file(workspace: Path, path: str) -> bytes:
    """A regular file of the workspace. Raises `Invalid` for anything that is none, or lies elsewhere."""
    root = workspace.resolve()
    found = (root / answer.checked(path)).resolve()
    if not found.is_relative_to(root):
        raise Invalid(f"The agent sent {path!r}, which leads out of its workspace.", code="bad_path")
    try:
        file = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid(f"The agent sent {path!r}, which cannot be read: {error.strerror}.") from None
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > answer.MOST_SENT:
            raise Invalid(f"The agent sent {path!r}, which is no file, or is too large.", code="bad_path")
        with os.fdopen(os.dup(file), "rb") as opened:
            return opened.read()
    finally:
        os.close(file)


if __name__ == "__main__":
    run(work)
