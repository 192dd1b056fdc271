"""A message as other programs ask for it: over HTTP and on the bus alike."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quarterdeck.kernel.errors import Invalid, QuarterdeckError
from quarterdeck.kernel.outside import STORABLE
from quarterdeck.telegram.queue import Queue
from quarterdeck.telegram.wire import Button, File, ParseMode, Receipt, Send, SendState

log = structlog.get_logger(__name__)

PATIENCE = 10.0
"""Seconds that a request waits for its message to be sent."""

Id = Annotated[str, Field(min_length=1, max_length=100), STORABLE]


class ButtonRequest(BaseModel):
    """One button below a message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(min_length=1, max_length=100), STORABLE]
    data: Annotated[
        str, Field(max_length=64, description="What comes back when it is pressed."), STORABLE
    ] = ""
    url: Annotated[str, Field(max_length=2000, description="Or the page that it opens."), STORABLE] = ""


class AttachmentRequest(BaseModel):
    """A file on this host, inside the desk's folders `files`, `runs` or `work`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, Field(min_length=1, max_length=1000), STORABLE]
    kind: Annotated[str, Field(pattern="^(document|photo|audio|video|voice)$")] = "document"
    name: Annotated[str, Field(max_length=200, description="Its name for people."), STORABLE] = ""
    mime_type: Annotated[str, Field(max_length=100), STORABLE] = ""


class SendRequest(BaseModel):
    """What an agent says in a chat."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"agent_id": "analyst", "chat_id": 1001, "text": "Good morning"}]},
    )

    agent_id: Id
    chat_id: Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[str, Field(max_length=200), STORABLE]
    text: Annotated[str, Field(max_length=100_000), STORABLE] = ""
    reply_to_message_id: Annotated[int | None, Field(ge=1, lt=2**63)] = None
    message_thread_id: Annotated[int | None, Field(ge=1, lt=2**63)] = None
    parse_mode: ParseMode | None = None
    disable_notification: bool = False
    link_preview: bool = True
    buttons: Annotated[list[list[ButtonRequest]], Field(max_length=100)] = []
    attachments: Annotated[list[AttachmentRequest], Field(max_length=20)] = []
    idempotency_key: Annotated[str, Field(max_length=200), STORABLE] = ""


class SendAnswer(BaseModel):
    """What became of a message: `sent` with its ids, or `queued`: ask `GET /send/{id}` later."""

    model_config = ConfigDict(frozen=True)

    status: str = Field(examples=["sent"], description="`sent`, `queued` or `refused`.")
    id: str = Field(examples=["17"])
    message_ids: list[int] = Field(default=[], examples=[[42]], description="One for each part.")
    possibly_twice: bool = Field(default=False, description="An attempt before may have arrived as well.")
    reason: str = Field(default="", description="Why Telegram refused it.")


class Asked:
    """Takes requests of other programs. Files may come from `folders` only."""

    def __init__(self, queue: Queue, folders: tuple[Path, ...], patience: float = PATIENCE) -> None:
        self._queue = queue
        self._folders = folders
        self._patience = patience

    async def send(self, request: SendRequest) -> Receipt:
        """Queue it, and wait for a while until it is sent. Raises like `Queue.put`, `Invalid` for a file."""
        receipt = await self._queue.put(self._send_of(request))
        return await self._queue.wait(receipt.id, self._patience)

    def _send_of(self, request: SendRequest) -> Send:
        plain = request.model_dump(exclude={"buttons", "attachments"})
        return Send(
            **plain,
            buttons=tuple(tuple(Button(**b.model_dump()) for b in row) for row in request.buttons),
            attachments=tuple(self._file(one) for one in request.attachments),
        )

    def _file(self, asked: AttachmentRequest) -> File:
        path = Path(asked.path).resolve()
        is_ours = any(path.is_relative_to(folder.resolve()) for folder in self._folders)
        if not is_ours or not os.path.isfile(path):  # noqa: PTH113 - the other raises for names too long
            raise Invalid(
                f"The file {asked.path!r} is not there, or not in a folder of the desk.",
                f"Put it below {self._folders[0]}.",
                field="attachments",
            )
        return File(**{**asked.model_dump(), "path": str(path)})


def answer_of(receipt: Receipt) -> SendAnswer:
    """A receipt as other programs see it."""
    twice = receipt.state is SendState.MAYBE_SENT
    return SendAnswer(
        status="sent" if twice else receipt.state.value,
        id=receipt.id,
        message_ids=list(receipt.message_ids),
        possibly_twice=twice,
        reason=receipt.reason if receipt.state is SendState.REFUSED else "",
    )


Reply = Callable[[bytes], Awaitable[None]]


async def answered(asked: Asked, body: bytes) -> dict[str, Any]:
    """The reply to a request on the bus: a `SendAnswer`, or `status: error` with code and detail."""
    try:
        request = SendRequest.model_validate(json.loads(body))
        return answer_of(await asked.send(request)).model_dump()
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        return {"status": "error", "code": "invalid", "detail": wrong}
    except (ValueError, RecursionError):
        return {"status": "error", "code": "invalid", "detail": "This is not JSON."}
    except QuarterdeckError as error:
        return {"status": "error", "code": error.code, "detail": str(error)}
