"""A button's action and payload in the 64 bytes that Telegram carries: `switch?chat=C2`."""

from urllib.parse import parse_qsl, urlencode

from quarterdeck.surfaces.protocol import UIButton
from quarterdeck.telegram.wire import Button

MOST_BYTES = 64


def pack(action: str, payload: dict[str, str] | None = None) -> str:
    """The data of a button. Raises `ValueError` when it is too long."""
    data = f"{action}?{urlencode(payload)}" if payload else action
    if not 1 <= len(data.encode()) <= MOST_BYTES:
        raise ValueError(f"A button's action and payload take more than {MOST_BYTES} bytes: {action}.")
    return data


def unpack(data: str) -> tuple[str, dict[str, str]]:
    """Action and payload; whatever comes in, something comes out."""
    action, _, query = data.partition("?")
    return action, dict(parse_qsl(query, keep_blank_values=True))


def keyboard(rows: list[list[UIButton]]) -> tuple[tuple[Button, ...], ...]:
    """The buttons as the queue takes them."""
    return tuple(tuple(_button(button) for button in row) for row in rows if row)


def markup(rows: list[list[UIButton]]) -> dict[str, object]:
    """The buttons as the Bot API takes them; an empty keyboard takes former buttons away."""
    made = [
        [{"text": b.text, "url": b.url} if b.url else {"text": b.text, "callback_data": b.data} for b in row]
        for row in keyboard(rows)
    ]
    return {"inline_keyboard": made}


def _button(button: UIButton) -> Button:
    if button.url:
        return Button(button.text, url=button.url)
    return Button(button.text, pack(button.action, button.payload))
