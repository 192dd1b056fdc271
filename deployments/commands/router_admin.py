"""The way of commands to the running router: its admin API, with refusals in its own words."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deployments.commands import terminal
from quarterdeck.kernel.errors import Conflict, Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

Which = Annotated[str, typer.Argument(help="Name or id.")]


async def card_of(admin: "httpx.AsyncClient", path: str, which: str) -> dict[str, Any]:
    """What has this id, or else this name. Raises `NotFound` naming those that exist, and `Invalid` naming
    the ids when several have the name."""
    cards: list[dict[str, Any]] = said(await admin.get(path))
    what = path.strip("/").removesuffix("s")
    found = [card for card in cards if card["id"] == which] or [c for c in cards if c["name"] == which]
    if not found:
        raise NotFound.among(what, which, (card["name"] for card in cards))
    if len(found) > 1:
        ids = ", ".join(card["id"] for card in found)
        raise Invalid(f"{len(found)} {what}s are named {which!r}.", f"Say which by its id: {ids}.")
    return found[0]


async def id_of(admin: "httpx.AsyncClient", path: str, which: str) -> str:
    """The id of a name or an id. Raises like `card_of`."""
    return str((await card_of(admin, path, which))["id"])


def changed(path: str, which: str, values: dict[str, Any]) -> Any:
    """Change something with an id or a name, and say what it is now. Raises `Invalid` for no change."""
    if not values:
        raise Invalid("Nothing is to be changed.", "Say what with an option; --help names them.")

    async def put(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.put(f"{path}/{await id_of(admin, path, which)}", json=values))

    return asking(put)


def getting(path: str) -> "Callable[[httpx.AsyncClient], Awaitable[Any]]":
    async def got(admin: "httpx.AsyncClient") -> Any:
        return said(await admin.get(path))

    return got


def said(answer: "httpx.Response") -> Any:
    """The JSON of an answer. Raises what its refusal says, in the router's own words."""
    from quarterdeck.kernel.http import json_of

    if answer.is_client_error and answer.status_code not in (401, 429):
        kind = {404: NotFound, 409: Conflict}.get(answer.status_code, Invalid)
        raise kind(_told(answer), "See the command's --help.")
    return json_of(answer)


def _told(answer: "httpx.Response") -> str:
    """A sentence, or for wrong values a list of places and what is wrong there."""
    try:
        detail = answer.json()["detail"]
        if isinstance(detail, str):
            return detail
        return "; ".join(f"{'.'.join(map(str, wrong['loc'][1:]))}: {wrong['msg']}" for wrong in detail) + "."
    except (ValueError, KeyError, TypeError):
        return f"The router refused: {answer.status_code} {answer.reason_phrase}."


def asking(work: "Callable[[httpx.AsyncClient], Awaitable[T]]", *, seconds: float = 10.0) -> T:
    """Do something with the admin API of the running router.

    Raises `Unavailable` when none runs.
    """
    import asyncio

    from quarterdeck.router.access import admin

    settings = terminal.here()

    async def asked() -> T:
        async with admin(settings, seconds=seconds) as open_admin:
            return await work(open_admin)

    try:
        return asyncio.run(asked())
    except Unavailable as error:
        if error.code != "unreachable":
            raise
        raise Unavailable(
            "The router does not run.", "Start it with `quarterdeck up`, or alone with `quarterdeck router`."
        ) from error
