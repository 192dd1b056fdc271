"""The gateway over HTTP: registration of bots, and messages of agents.

`app.state.bots` is the registry, `app.state.asked` takes messages, `app.state.sends` is their queue.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from quarterdeck.kernel.errors import Conflict
from quarterdeck.kernel.outside import STORABLE
from quarterdeck.kernel.web import Known, problems, room
from quarterdeck.telegram.bots import Bots
from quarterdeck.telegram.model import BotCard, Registered
from quarterdeck.telegram.queue import Queue
from quarterdeck.telegram.requests import Asked, Id, SendAnswer, SendRequest, answer_of
from quarterdeck.telegram.wire import SendState

router = room("Telegram")
open_doors = APIRouter(tags=["Health"], redirect_slashes=False)


class Registration(BaseModel):
    """A bot for an agent."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"agent_id": "analyst", "bot_token": "123456:ABC-DEF"}]},
    )

    agent_id: Id
    bot_token: Annotated[SecretStr, Field(min_length=3, max_length=200, description="What @BotFather gave.")]
    allowed_chat_ids: Annotated[
        list[Annotated[int, Field(ge=-(2**63), lt=2**63)]] | None,
        Field(max_length=1000, description="The only chats that it listens to; none = all."),
    ] = None
    name: Annotated[str, Field(max_length=200), STORABLE] = ""


class Alive(BaseModel):
    """It answers."""

    status: str = Field(default="ok", examples=["ok"])


class Forgotten(BaseModel):
    """The bot is stopped and its token forgotten."""

    status: str = Field(default="forgotten", examples=["forgotten"])


def _bots(request: Request) -> Bots:
    bots: Bots = request.app.state.bots
    return bots


def _asked(request: Request) -> Asked:
    asked: Asked = request.app.state.asked
    return asked


def _sends(request: Request) -> Queue:
    sends: Queue = request.app.state.sends
    return sends


TheBots = Annotated[Bots, Depends(_bots)]
TheAsked = Annotated[Asked, Depends(_asked)]
TheQueue = Annotated[Queue, Depends(_sends)]
AgentId = Annotated[str, Path(min_length=1, max_length=100, examples=["analyst"])]


@open_doors.get("/healthz", summary="Whether the web process answers")
async def healthz() -> Alive:
    """Needs no token; `GET /bots` tells how the bots are."""
    return Alive()


@router.post("/bots/register", summary="Register a bot", responses=problems(403, 409))
async def register(bots: TheBots, caller: Known, asked: Registration) -> Registered:
    """Check the token, seal it, begin to listen; the same again changes nothing. Only for the owner."""
    caller.must_be_owner()
    return await bots.register(
        asked.agent_id,
        asked.bot_token.get_secret_value(),
        allowed_chats=asked.allowed_chat_ids,
        name=asked.name,
    )


@router.get("/bots", summary="List bots")
async def list_bots(bots: TheBots) -> list[BotCard]:
    """Each with when it last routed a message, and how many wait to be sent."""
    return await bots.list()


@router.delete("/bots/{agent_id}", summary="Forget a bot", responses=problems(403, 404))
async def forget(bots: TheBots, caller: Known, agent_id: AgentId) -> Forgotten:
    """Stop listening and forget the token; only the owner."""
    caller.must_be_owner()
    await bots.forget(agent_id)
    return Forgotten()


@router.post(
    "/send",
    summary="Send a message as an agent",
    responses={
        202: {"model": SendAnswer, "description": "It waits; ask GET /send/{id}"},
        **problems(400, 403, 409),
    },
)
async def send(asked: TheAsked, caller: Known, request: SendRequest, response: Response) -> SendAnswer:
    """Queue it, and wait ten seconds at most until it is sent. 409 = Telegram refused it for good."""
    caller.must_write()
    receipt = await asked.send(request)
    if receipt.state is SendState.REFUSED:
        raise Conflict(
            f"Telegram refused the message: {receipt.reason}.",
            "It is not tried again. Check the chat, and that the bot is in it.",
            code="message_refused",
            id=receipt.id,
        )
    response.status_code = 202 if receipt.state is SendState.QUEUED else 200
    return answer_of(receipt)


@router.get("/send/{id}", summary="Show what became of a message", responses=problems(404))
async def show_send(sends: TheQueue, id: Annotated[str, Path(max_length=20, examples=["17"])]) -> SendAnswer:
    """`sent`, `queued` or `refused`."""
    return answer_of(await sends.find(id))
