"""The least that can be built on LiteLLM: one FastAPI route around `litellm.acompletion`.

BARE_UPSTREAM=http://127.0.0.1:PORT BARE_PROVIDER=anthropic uvicorn tests.bench.bare_litellm:app
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import litellm
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from tests.bench.router_mock import NATIVE_MODEL

_UPSTREAM = os.environ["BARE_UPSTREAM"]
_MODEL = f"{os.environ['BARE_PROVIDER']}/{NATIVE_MODEL}"
_KEYS = {"Bearer " + os.environ["BARE_KEY"]}

app = FastAPI()


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    """One chat completion, plain or streamed."""
    if request.headers.get("authorization") not in _KEYS:
        return Response(status_code=401)
    wanted = orjson.loads(await request.body())
    wanted["model"] = _MODEL
    answer = await litellm.acompletion(**wanted, api_base=_UPSTREAM, api_key="bench-upstream")
    if wanted.get("stream"):
        return StreamingResponse(_events(answer), media_type="text/event-stream")
    return Response(answer.model_dump_json(), media_type="application/json")


async def _events(answer: Any) -> AsyncIterator[str]:
    async for chunk in answer:
        yield f"data: {chunk.model_dump_json(exclude_none=True)}\n\n"
    yield "data: [DONE]\n\n"
