"""Cut a stream of bytes into whole events (WHATWG HTML, "Server-sent events")."""

LONGEST_EVENT = 16_000_000
"""Bytes. Pictures come in single events of some megabytes."""


class Splitter:
    """Takes bytes as they come, gives back the events that are whole, without the empty line after them."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `ValueError` when an event has no end."""
        if b"\r" in data or self._rest.endswith(b"\r"):
            return self._feed_unified(data)
        rest = self._rest
        text = rest + data if rest else data
        cut = text.rfind(b"\n\n", max(len(rest) - 1, 0))
        if cut < 0:
            if len(text) > LONGEST_EVENT:
                raise ValueError(f"an event is longer than {LONGEST_EVENT} bytes")
            self._rest = text
            return []
        self._rest = text[cut + 2 :]
        return text[:cut].split(b"\n\n")

    def _feed_unified(self, data: bytes) -> list[bytes]:
        """All line ends as one kind; JSON has none of them inside of its texts."""
        text = self._rest + data
        held = b"\r" if text.endswith(b"\r") else b""  # half of a line end, perhaps
        text = text.removesuffix(held)
        self._rest = b""
        events = self.feed(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        self._rest += held
        return events

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest.replace(b"\r", b"\n").strip(b"\n")


def data_of(event: bytes) -> bytes | None:
    """The data of an event; None for one without (a comment)."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
