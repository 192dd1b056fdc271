"""What every HTTP door of the house has: errors as problem+json, who is asking, limits and safe headers.

A room's `api.py` offers an `APIRouter` named `router` and raises the errors of `errors.py`; `furnish` gives
an application everything else. Errors follow RFC 9457 with `code`, `instruction` and `errors` beside.
"""

import secrets
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quarterdeck.kernel.errors import Invalid, NotFound, QuarterdeckError, Unauthorized, Unavailable
from quarterdeck.kernel.identity import Caller

log = structlog.get_logger(__name__)

PROBLEM = "application/problem+json"

LARGEST_BODY = 1_000_000
"""Bytes that a request may carry."""

RETRY_AFTER = 5
"""Seconds after which a caller may try again when a part is down."""

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """An error: `code` is for programs, `detail` says what is wrong, `instruction` what to do next."""

    type: str = Field(examples=["urn:quarterdeck:unknown_item"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    code: str = Field(examples=["unknown_item"])
    detail: str = Field(examples=["There is no item 'ET-999'."])
    instruction: str = Field(examples=["There is: ET-001, ET-002."])
    errors: list[FieldError] = []
    data: dict[str, Any] = {}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can end in these errors."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


_bearer = HTTPBearer(auto_error=False, description="A person's token; `quarterdeck setup` shows the owner's.")


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """Who is asking. Raises `Unauthorized` without a token, or with one that nobody has."""
    if credentials is None:
        raise Unauthorized(
            "This needs a token.", "Send it as `Authorization: Bearer <token>`.", code="token_missing"
        )
    known: Caller = await request.app.state.crew.who(credentials.credentials)
    return known


Known = Annotated[Caller, Depends(caller)]
"""A route's parameter: the person who asks."""

RequestKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="Repeating a request with the same key and body changes nothing and answers the same.",
    ),
]
"""A route's parameter: the word by which a repeated request is known."""


def room(tag: str) -> APIRouter:
    """A router whose every route needs a token."""
    return APIRouter(
        tags=[tag],
        dependencies=[Depends(caller)],
        responses=problems(401, 422, 500, 503),
        redirect_slashes=False,
    )


def answer(error: QuarterdeckError) -> Response:
    """An error as problem+json."""
    facts = dict(error.data)
    field = facts.pop("field", None)
    named = [FieldError(field=str(field), message=error.detail)] if field else []
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="quarterdeck"'
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER)
    return _problem(
        error.status, error.code, error.detail, error.instruction, errors=named, data=facts, headers=headers
    )


def _problem(
    status: int,
    code: str,
    detail: str,
    instruction: str,
    *,
    errors: Iterable[FieldError] = (),
    data: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    problem = Problem(
        type=f"urn:quarterdeck:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        instruction=instruction,
        errors=list(errors),
        data=dict(data or {}),
    )
    return JSONResponse(problem.model_dump(mode="json"), status, headers, PROBLEM)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuarterdeckError)
    if error.status >= 500:
        log.warning("request_refused", path=request.url.path, code=error.code, detail=error.detail)
    return answer(error)


async def _malformed(request: Request, error: Exception) -> Response:
    """The fields that are wrong; never the values, which may be secrets."""
    assert isinstance(error, RequestValidationError)
    wrong = [FieldError(field=_field(e["loc"], e["type"]), message=_message(e)) for e in error.errors()]
    detail = "; ".join(f"{w.field}: {w.message}" for w in wrong[:5])
    instruction = "Correct the named fields and send the request again."
    if wrong[0].field == "body" and "json" not in request.headers.get("content-type", ""):
        instruction = "Send a JSON object, with `Content-Type: application/json`."
    return _problem(422, "invalid", detail, instruction, errors=wrong[:50])


def _field(place: tuple[int | str, ...], kind: str) -> str:
    """`labels.2` for the body, the bare name for everything else."""
    inner = () if kind == "json_invalid" else place[1:]
    return ".".join(map(str, inner)) or str(place[0])


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"This is not JSON: {error['ctx']['error']}."
    return str(error["msg"]).removeprefix("Value error, ")


async def _no_such_door(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: unknown routes, wrong methods, bodies that cannot be read."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        what = f"{request.method} {request.url.path}"
        return answer(
            NotFound(f"There is no {what}.", "/openapi.json lists what there is.", code="unknown_route")
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _wrong_method(request)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return answer(Invalid("The body cannot be read.", "Send UTF-8 encoded JSON.", field="body"))
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _too_large()
    status = HTTPStatus(error.status_code)
    return _problem(
        status, status.name.lower(), str(error.detail), "/openapi.json says how.", headers=error.headers
    )


def _wrong_method(request: Request) -> Response:
    """Starlette names the methods of one route; others may have the same address."""
    taken = [method for method in _METHODS if _is_taken(request, method)]
    return _problem(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "method_not_allowed",
        f"{request.url.path} does not take {request.method}.",
        f"It takes {', '.join(taken)}; /openapi.json says how.",
        data={"allowed": taken},
        headers={"Allow": ", ".join(taken)},
    )


def _is_taken(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _unstorable(request: Request, error: Exception) -> Response:
    log.warning("value_refused_by_database", path=request.url.path)
    return answer(Invalid("A value is out of range.", "Send a value that the field's meaning allows."))


async def _busy(request: Request, error: Exception) -> Response:
    log.warning("no_connection_free", path=request.url.path)
    return answer(Unavailable("The desk is too busy.", "Try again in a few seconds.", code="busy"))


class Guard:
    """Around every request: an id, a size limit, safe headers, and an end for every unexpected error."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        is_answered = False

        async def answering(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                refusal = _refusal(scope)
                await (refusal or self.app)(scope, _limited(receive), answering)
            except Exception:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                if is_answered:
                    raise
                await _failed(request_id)(scope, receive, answering)


def _refusal(scope: Scope) -> Response | None:
    """An answer to requests that no route should see."""
    length = Headers(scope=scope).get("content-length", "")
    if length.isdecimal() and int(length) > LARGEST_BODY:
        return _too_large()
    if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
        return answer(Invalid("The address contains a NUL character.", "Leave it out.", field="address"))
    return None


def _too_large() -> Response:
    return _problem(
        413,
        "too_large",
        f"The request is larger than {LARGEST_BODY} bytes.",
        "Send less; long texts belong into documents on the item's branch.",
    )


def _failed(request_id: str) -> Response:
    return _problem(
        500,
        "internal",
        "Something went wrong here; it is not your request's fault.",
        f"Look for request {request_id} in the log of the web process.",
        data={"request": request_id},
    )


def _limited(receive: Receive) -> Receive:
    """`receive` that refuses a body which grows past the limit, whatever its headers promised."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > LARGEST_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return limited


def furnish(app: FastAPI) -> None:
    """Give an application the errors, the guard, and an OpenAPI document that tells of both."""
    app.add_exception_handler(QuarterdeckError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _no_such_door)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(PoolTimeout, _busy)
    app.add_middleware(Guard)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        return _with_problems(plain())

    app.openapi = openapi  # type: ignore[method-assign]


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Say that errors are problem+json; FastAPI files every model under application/json.

    And that the guard refuses every body that is too large.
    """
    for path in document["paths"].values():
        for operation in path.values():
            if "requestBody" in operation and "422" in operation["responses"]:
                large = operation["responses"]["422"] | {"description": "Content Too Large"}
                operation["responses"].setdefault("413", large)
            for status, response in operation["responses"].items():
                if status >= "400" and "application/json" in response.get("content", {}):
                    response["content"] = {PROBLEM: response["content"]["application/json"]}
    return document
