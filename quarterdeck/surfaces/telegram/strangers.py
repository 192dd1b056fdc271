"""Whoever is not in the roster is answered once in a while, however much they write."""

from collections.abc import Callable

from quarterdeck.surfaces.telegram.converter import Native

PAUSE = 60.0
"""Seconds in which a stranger hears one answer of a bot."""

REMEMBERED = 10_000


class Strangers:
    """Who was answered of late. Another process knows nothing of it, and answers once more."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._told: dict[tuple[str, int], tuple[float, str]] = {}

    def is_owed_an_answer(self, native: Native) -> bool:
        """Not if another message of theirs got it a moment ago; told again, the same message is."""
        at, event_id = self._told.get(_who(native), (float("-inf"), ""))
        return event_id == native.event_id or self._monotonic() - at >= PAUSE

    def answer(self, native: Native) -> None:
        """This message is answered."""
        now = self._monotonic()
        if len(self._told) >= REMEMBERED:
            self._told = {who: told for who, told in self._told.items() if now - told[0] < PAUSE}
        self._told[_who(native)] = now, native.event_id


def _who(native: Native) -> tuple[str, int]:
    return native.place.agent_id, native.place.user
