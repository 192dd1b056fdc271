"""Logs: structured lines on the error output, ours and those of libraries alike, without secrets.

What is taken out: values of keys that sound like secrets, bearer and bot tokens, passwords in addresses,
and every value that was registered with `hide`; also in tracebacks.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO
from urllib.parse import quote

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from quarterdeck.kernel.settings import Settings

HIDDEN = "***"
SHORTEST = 6
"""Shorter values are not registered: hiding "a" or "1234" would make every line unreadable."""

_TELLING = (
    r"(?:token|secret|passw(?:or)?d|authorization|api[_-]?key|cookie|credential|(?:private|master)[_-]?key)"
)
_NAMES = re.compile(_TELLING, re.IGNORECASE)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<!\d)\d{8,}:[\w-]{30,}"), HIDDEN),  # Telegram bot tokens
    (re.compile(r"\b(?:qd_|qr_|sk-)[\w-]{16,}"), HIDDEN),  # our own tokens and keys, model providers'
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@"), rf"\1:{HIDDEN}@"),
    (re.compile(rf"(?i)([\w-]*{_TELLING}[\w-]*=)[^\s&,;'\")]+"), rf"\1{HIDDEN}"),
    (
        re.compile(rf"(?i)(['\"][\w-]*{_TELLING}[\w-]*['\"]\s*:\s*)(['\"])(?:(?!\2).)*\2"),
        rf"\1\2{HIDDEN}\2",
    ),
)
_registered: dict[str, None] = {}


def hide(value: str) -> None:
    """Never show this value, nor its forms in an address or in JSON, from now on in this process."""
    if len(value) >= SHORTEST:
        quoted = (quote(value, safe=safe, errors="replace") for safe in ("", "/"))
        for form in (value, *quoted, json.dumps(value)[1:-1]):
            _registered[form] = None


def hide_secrets_of(value: Mapping[str, Any]) -> None:
    """Register the texts in a mapping whose keys sound like secrets."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            hide_secrets_of(inner)
        elif isinstance(inner, str) and _NAMES.search(str(key)):
            hide(inner)


def redact(text: str) -> str:
    """The text without secrets."""
    for secret in sorted(_registered, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: Any) -> Any:
    """A JSON value without secrets, also not those that only their key betrays."""
    return _without_secrets("", value)


def set_up(settings: Settings, *, level: str = "", stream: TextIO | None = None) -> None:
    """Send all log lines of this process to one place, in one form, and hide the secrets of the settings.

    `level` overrules the settings' own. Repeatable; the last call counts.
    """
    for value in settings.model_dump().values():
        if isinstance(value, SecretStr):
            hide(value.get_secret_value())
    output = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _redacted,
                _renderer(settings.log_format, colors=output.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel((level or settings.log_level).upper())
    logging.captureWarnings(True)


def _renderer(form: str, *, colors: bool) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )


def _redacted(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {key: _without_secrets(key, value) for key, value in event.items()}


def _without_secrets(key: str, value: Any) -> Any:
    """A value that is safe to show; whatever is not plain is shown as its redacted text."""
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {str(k): _without_secrets(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(key, inner) for inner in value]
    if isinstance(value, SecretStr) or (value and _NAMES.search(key)):
        return HIDDEN
    return redact(value if isinstance(value, str) else str(value))
