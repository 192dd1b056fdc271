"""How the admin API speaks: who may ask, what is read of a request, and how every error is told.

Errors are `{"detail": ...}`: a sentence, or for wrong values (422) a list of `{"loc": [...], "msg": ...}`.
"""

import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from quarterdeck.kernel.errors import QuarterdeckError, Unavailable

log = structlog.get_logger(__name__)

LARGEST_BODY = 2_000_000
"""Bytes of a request: a thousand mappings fit."""

RETRY_AFTER = "5"
"""Seconds, when the database is away."""

IsAdmin = Callable[[str], bool]
Answer = Callable[[Request], Awaitable[Any]]
F = TypeVar("F", bound=BaseModel)


class Refused(Exception):
    """A request that is not carried out; `detail` is told."""

    def __init__(self, status: int, detail: Any, **headers: str) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def only(token: str) -> IsAdmin:
    """Compares in constant time."""
    expected = token.encode()
    return lambda given: hmac.compare_digest(given.encode(errors="replace"), expected)


def refusal(request: Request, is_admin: IsAdmin | None) -> Response | None:
    """Why this request may not come in: no token is set, none is sent, or a wrong one. None = it may."""
    given = request.headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    if is_admin is None:
        return _unauthorized("The admin API is off: no admin token is configured (SIDECAR_ADMIN_TOKEN).")
    if not given:
        return _unauthorized(
            "The header Authorization is missing. Send `Authorization: Bearer <admin token>`."
        )
    if scheme.lower() != "bearer" or not is_admin(token.strip()):
        return _unauthorized("The admin token is invalid.")
    return None


def _unauthorized(detail: str) -> Response:
    return told({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})


def told(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that no cache keeps."""
    safe = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(content), status, safe | (headers or {}), "application/json")


def answered(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that tells what `answer` returns, and every error in the one form."""

    async def endpoint(request: Request) -> Response:
        try:
            found = await answer(request)
            return found if isinstance(found, Response) else told(found)
        except Refused as error:
            return told({"detail": error.detail}, error.status, error.headers)
        except QuarterdeckError as error:
            again = {"Retry-After": RETRY_AFTER} if isinstance(error, Unavailable) else {}
            return told({"detail": str(error)}, error.status, again)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:
            log.exception("admin_request_broke", path=request.url.path, method=request.method)
            return told({"detail": "Something went wrong here; see the router's log."}, 500)

    return endpoint


async def no_such_route(request: Request, error: Exception) -> Response:
    """Starlette's own errors: a path or a method that is none."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}."
    return told({"detail": detail}, error.status_code, dict(error.headers or {}))


async def form_of(request: Request, kind: type[F]) -> F:
    """The body, checked. Raises `Refused`: 400 names the missing field, 422 the wrong ones."""
    try:
        return kind.model_validate_json(await _body(request))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        if found[0]["type"] == "json_invalid":
            raise Refused(400, "The body is not JSON.") from None
        for problem in found:
            if problem["type"] == "missing" and len(problem["loc"]) == 1:
                raise missing(str(problem["loc"][0])) from None
        said = [("body", e["loc"], str(e["msg"]).removeprefix("Value error, ")) for e in found]
        raise Refused(422, [{"loc": [where, *loc], "msg": msg} for where, loc, msg in said]) from None


def missing(field: str) -> Refused:
    return Refused(400, f"The field '{field}' is missing.")


def wrong(field: str, why: str, where: str = "body") -> Refused:
    return Refused(422, [{"loc": [where, field], "msg": why}])


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise Refused(413, f"The body is larger than {LARGEST_BODY} bytes.")
    return bytes(body)


def number_of(request: Request, name: str, otherwise: int, most: int) -> int:
    """A whole number from 1 to `most` of the query. Raises `Refused` (422)."""
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise wrong(name, f"must be a whole number from 1 to {most}", "query")
    return int(text)


def text_of(request: Request, name: str) -> str:
    """A text of the query; '' = not given. Raises `Refused` (422)."""
    text = request.query_params.get(name, "")
    if len(text) > 300 or "\0" in text:
        raise wrong(name, "must be at most 300 characters without NUL", "query")
    return text


def moment_of(request: Request, name: str) -> datetime | None:
    """A time of the query, UTC where it does not say. Raises `Refused` (422)."""
    text = text_of(request, name).replace(" ", "+")  # a plus sign that was not quoted
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong(name, "must be a time such as 2026-11-22T00:00:00Z", "query") from None


def identity_of(request: Request, name: str = "id") -> str:
    """A part of the path, fit for a query."""
    return str(request.path_params[name]).replace("\0", "")[:300]


def iso(moment: datetime | None) -> str | None:
    """The one form of times (section 3)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def iso_of(at: float | None) -> str | None:
    """The same of epoch seconds."""
    return None if at is None else iso(datetime.fromtimestamp(at, UTC))
