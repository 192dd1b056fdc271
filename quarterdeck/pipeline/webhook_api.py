"""Webhooks over HTTP: the doors where other programs ring, and what the owner sees of their deliveries.

`app.state.deliveries` is the service.
"""

from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from quarterdeck.kernel.errors import Unauthorized
from quarterdeck.kernel.inbox import Standing
from quarterdeck.kernel.paging import MOST, Page
from quarterdeck.kernel.web import Known, RequestKey, problems, room
from quarterdeck.pipeline.deliveries import Deliveries, DeliveryCard, DeliveryDetail
from quarterdeck.pipeline.doors import DOORS, FORM, Ring

log = structlog.get_logger(__name__)

doors = APIRouter(tags=["Webhooks"], redirect_slashes=False)
router = room("Webhooks")


class Receipt(BaseModel):
    """The delivery is on disk, and is worked on in its turn."""

    status: Literal["accepted", "known"] = Field(description="`known`: it was here before; nothing is done.")


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "object"}} for kind in ("application/json", FORM)},
    }
}


@doors.post(
    "/webhooks/{source}",
    status_code=202,
    summary="Take in a delivery",
    response_model=Receipt,
    responses=problems(401, 403, 404, 413, 422, 500, 503),
    openapi_extra=_BODY,
)
async def receive(
    request: Request,
    source: Annotated[str, Path(description=f"One of: {', '.join(DOORS)}.", examples=["gitea"])],
) -> JSONResponse:
    """Signed by its source: see docs/how-to/webhooks.md. 202 means that it is kept, not that it is done."""
    deliveries: Deliveries = request.app.state.deliveries
    body = await request.body()
    ring = Ring(dict(request.headers), body, request.app.state.database.clock.now())
    try:
        is_new = await deliveries.receive(source, ring)
    except Unauthorized as error:
        sender = request.client.host if request.client else ""
        log.warning("webhook_refused", source=source, code=error.code, size=len(body), sender=sender)
        raise
    return JSONResponse({"status": "accepted" if is_new else "known"}, 202)


def _deliveries(request: Request) -> Deliveries:
    deliveries: Deliveries = request.app.state.deliveries
    return deliveries


TheDeliveries = Annotated[Deliveries, Depends(_deliveries)]
Number = Annotated[int, Path(ge=1, le=2**63 - 1, description="Its number in the list.", examples=[17])]
OfSource = Annotated[str | None, Query(max_length=30, description="Only of this source.")]
InState = Annotated[Standing | None, Query(description="Only in this state.")]
Cursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="The most that a page holds.")]


@router.get("/webhooks", summary="List deliveries", responses=problems(403))
async def list_deliveries(
    deliveries: TheDeliveries,
    caller: Known,
    source: OfSource = None,
    state: InState = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DeliveryCard]:
    """Newest first, each with what became of it. Only for the owner."""
    return await deliveries.page(caller, source, state, cursor, limit)


@router.get("/webhooks/{id}", summary="Show a delivery", responses=problems(403, 404))
async def show_delivery(deliveries: TheDeliveries, caller: Known, id: Number) -> DeliveryDetail:
    """With its content, without the secrets in it. Only for the owner."""
    return await deliveries.show(caller, id)


@router.post("/webhooks/{id}/replay", summary="Replay a delivery", responses=problems(403, 404, 409))
async def replay_delivery(
    deliveries: TheDeliveries, caller: Known, id: Number, request_key: RequestKey = ""
) -> DeliveryCard:
    """Have it worked on again as it came. Only for the owner."""
    return await deliveries.replay(caller, id, request_key)
