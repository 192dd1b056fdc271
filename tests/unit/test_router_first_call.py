"""One call from end to end: plain and streamed."""

from quarterdeck.router.backend import Usage
from quarterdeck.router.exchange import Outcome
from tests.fakes.provider import FakeProvider
from tests.fakes.served_router import KEY, Served, backend


async def test_a_plain_call_reaches_the_provider_by_its_own_name_and_comes_back_by_ours() -> None:
    async with FakeProvider(keys=[KEY]) as provider, Served([backend(provider, "gpt")]) as router:
        answer = await router.ask("gpt", temperature=0.1)
        assert answer.status_code == 200
        assert answer.json()["model"] == "gpt"
        (request,) = provider.requests
        assert (request.path, request.model) == ("/v1/chat/completions", "native-gpt")
        (call,) = router.calls
        assert (call.outcome, call.status, call.is_answer) == (Outcome.OK, 200, True)
        charged = provider.invoice.tokens()
        assert call.usage == Usage(charged.prompt, charged.completion, charged.total)
        assert call.cost == provider.invoice.picodollars()


async def test_a_stream_is_passed_on_with_our_name_in_every_chunk_and_booked_at_its_end() -> None:
    async with FakeProvider(keys=[KEY]) as provider, Served([backend(provider, "gpt")]) as router:
        heard = await router.stream("gpt")
        assert heard.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert heard.is_complete
        assert {chunk["model"] for chunk in heard.chunks} == {"gpt"}
        assert heard.text.startswith("the ship is at sea")
        (call,) = router.calls
        assert (call.outcome, call.is_stream) == (Outcome.OK, True)
        assert call.ttft_ms is not None
        assert call.cost == provider.invoice.picodollars()
