"""The notify room's HTTP routes. `app.state.notify` is the service."""

from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.kernel.paging import MOST, Page
from quarterdeck.kernel.web import Known, RequestKey, problems, room
from quarterdeck.notify.model import Letter, Trial
from quarterdeck.notify.service import Notify

router = room("Messages")


class ChannelTest(BaseModel):
    """Which channel to test."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"channel": "telegram"}]}
    )

    channel: str = Field(min_length=1, max_length=30)


def _notify(request: Request) -> Notify:
    notify: Notify = request.app.state.notify
    return notify


TheNotify = Annotated[Notify, Depends(_notify)]
Cursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="The most that a page holds.")]
ItemKey = Annotated[str | None, Query(max_length=20, description="Only messages about this work item.")]


@router.get("/outbox", summary="List messages")
async def list_messages(
    notify: TheNotify, item: ItemKey = None, cursor: Cursor = None, limit: Limit = 50
) -> Page[Letter]:
    """Newest first, each with its state; `possibly_twice` marks those that may have arrived twice."""
    return await notify.messages(item, cursor, limit)


@router.get("/dead-letters", summary="List messages that could not be delivered")
async def list_dead_letters(notify: TheNotify, cursor: Cursor = None, limit: Limit = 50) -> Page[Letter]:
    """Newest first, each with its reason."""
    return await notify.dead_letters(cursor, limit)


@router.post(
    "/dead-letters/{id}/resend", summary="Send a dead letter again", responses=problems(403, 404, 409)
)
async def resend(notify: TheNotify, caller: Known, id: int, request_key: RequestKey = "") -> Letter:
    """Queue it again; where it was meant for the default chat, it goes to the one configured now."""
    caller.must_write()
    return await notify.resend(id, caller.name, request_key)


@router.post("/dead-letters/{id}/dismiss", summary="Dismiss a dead letter", responses=problems(403, 404, 409))
async def dismiss(notify: TheNotify, caller: Known, id: int, request_key: RequestKey = "") -> Letter:
    """Nobody misses it: it is trouble no more. The journal tells who said so; it can still be sent again."""
    caller.must_write()
    return await notify.dismiss(id, caller.name, request_key)


@router.post("/notify/test", summary="Send a test message", responses=problems(403, 404))
async def send_test(notify: TheNotify, caller: Known, test: ChannelTest) -> Trial:
    """Send it now and say how it fared; `ok` false comes with the reason."""
    caller.must_write()
    return await notify.test(test.channel)
