"""The fake Bot API server in a process of its own, for measuring: it takes no time from whoever measures.

    python -m tests.fakes.telegram_process TOKEN...

Orders come as lines of JSON, `[name, arguments...]`; each is answered with one line. Times are those of
`time.monotonic`, which all processes of a host share.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from tests.fakes.telegram import FakeTelegram

ROOT = Path(__file__).parents[2]


class TelegramProcess:
    """Enter it; then it serves at `base`."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens
        self.base = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.telegram_process", *self.tokens],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.base = self._ask("base")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def say(self, text: str, chat: int, token: str) -> None:
        """A person writes to a bot."""
        self._ask("say", text, chat, token)

    def mode(self, token: str, mode: str) -> None:
        """See `FakeTelegram.mode`."""
        self._ask("mode", token, mode)

    def forget(self) -> None:
        """Drop updates that nobody fetched, and what was asked until now."""
        self._ask("forget")

    def are_polled(self) -> bool:
        """Whether somebody waits for the updates of every bot."""
        return bool(self._ask("are_polled"))

    def sent(self, token: str) -> dict[str, float]:
        """The texts that a bot sent since `forget`, and when each arrived."""
        return dict(self._ask("sent", token))

    def _ask(self, *order: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class _Orders:
    def __init__(self, telegram: FakeTelegram) -> None:
        self._telegram = telegram

    def base(self) -> str:
        return self._telegram.base

    def say(self, text: str, chat: int, token: str) -> int:
        return self._telegram.say(text, chat=chat, token=token)

    def mode(self, token: str, mode: str) -> None:
        self._telegram.mode(token, mode)

    def forget(self) -> None:
        self._telegram.calls.clear()
        self._telegram.state.messages.clear()
        for bot in self._telegram.state.bots.values():
            bot.updates.clear()

    def are_polled(self) -> bool:
        return all(map(self._telegram.is_polled, self._telegram.tokens))

    def sent(self, token: str) -> dict[str, float]:
        found = self._telegram.done("sendMessage", token=token)
        return {str(call.body["text"]): call.at for call in found}


def _obey(orders: Iterable[str], telegram: FakeTelegram) -> None:
    known = _Orders(telegram)
    for line in orders:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(known, name)(*arguments)), flush=True)


if __name__ == "__main__":
    with FakeTelegram(*sys.argv[1:]) as serving:
        _obey(sys.stdin, serving)
