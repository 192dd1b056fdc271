"""Every error that crosses a room.

    QuarterdeckError
    ├── Invalid        422  the request itself is wrong; names the field
    ├── Unauthorized   401  nobody we know
    ├── Forbidden      403  known, but may not
    ├── NotFound       404  names what exists instead
    ├── Conflict       409  the state does not allow it
    │   └── Stale      412  somebody else was first; read again
    ├── Misconfigured  500  a file or a setting must be mended by a person
    └── Unavailable    503  a part is down; the same request may work later

Each has a `code` for programs, a `detail` for people and an `instruction`: what to do next.
"""

from collections.abc import Iterable
from typing import Any

__all__ = [
    "Conflict",
    "Forbidden",
    "Invalid",
    "Misconfigured",
    "NotFound",
    "QuarterdeckError",
    "Stale",
    "Unauthorized",
    "Unavailable",
]


class QuarterdeckError(Exception):
    """The base: never raised itself.

    `code` is stable and for programs, `detail` says what is wrong and why, `instruction` says
    what to do next, `data` carries named facts (never secrets).
    """

    status = 500
    code = "error"

    def __init__(self, detail: str, instruction: str = "", *, code: str = "", **data: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.instruction = instruction
        self.code = code or type(self).code
        self.data = data

    def __str__(self) -> str:
        return f"{self.detail} {self.instruction}".strip()


class Invalid(QuarterdeckError):
    """The request is wrong in itself; `field` names where."""

    status = 422
    code = "invalid"


class Unauthorized(QuarterdeckError):
    """No credentials, or credentials of nobody we know."""

    status = 401
    code = "unauthorized"


class Forbidden(QuarterdeckError):
    """Known, but without the right."""

    status = 403
    code = "forbidden"


class NotFound(QuarterdeckError):
    """There is no such thing; the instruction names what there is."""

    status = 404
    code = "not_found"

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> "NotFound":
        """An error that says which names exist (at most twenty of them)."""
        names = sorted(known)
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        instruction = f"There is: {shown}." if names else f"There is no {what} yet."
        return cls(f"There is no {what} {name!r}.", instruction, code=f"unknown_{what.replace(' ', '_')}")


class Conflict(QuarterdeckError):
    """The present state does not allow it."""

    status = 409
    code = "conflict"


class Stale(Conflict):
    """A compare-and-set lost: somebody else changed the thing first."""

    status = 412
    code = "stale"


class Misconfigured(QuarterdeckError):
    """A file or a setting that a person must mend; the detail names file and line where known."""

    status = 500
    code = "misconfigured"


class Unavailable(QuarterdeckError):
    """A part we need is down; the same request may work later."""

    status = 503
    code = "unavailable"
