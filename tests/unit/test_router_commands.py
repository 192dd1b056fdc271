"""`quarterdeck router | backend | client` beside a router that runs."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.checks import backends_can_be_called
from deployments.commands import backend
from deployments.doctor import Patient
from tests.fakes.open_router import OpenRouter, open_router
from tests.fakes.ports import free_port
from tests.fakes.provider import FakeProvider

pytestmark = pytest.mark.usefixtures("logs_left_as_they_were")


@pytest.fixture
async def router(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[OpenRouter]:
    async with open_router(tmp_path, database_url, monkeypatch, capsys) as router:
        yield router


@pytest.mark.parametrize(
    ("card", "told", "may"),
    [
        ({}, "healthy", True),
        ({"health": "degraded", "reason": "x"}, "degraded: x", True),
        ({"health": "down", "reason": "x"}, "down: x", False),
        ({"status": "error", "health": "down", "reason": "x"}, "error: x", False),
        ({"status": "cooling", "cooldown_until": "noon", "reason": "x"}, "cooling until noon: x", False),
        ({"enabled": False, "health": "down", "reason": ""}, "disabled", False),
    ],
)
def test_a_backend_is_called_what_it_is(card: dict[str, Any], told: str, may: bool) -> None:
    whole = {"enabled": True, "status": "healthy", "health": "healthy", "reason": ""} | card
    assert (backend.standing(whole), backend.may_be_called(whole)) == (told, may)


async def test_a_backend_that_is_down_is_never_called_healthy(router: OpenRouter) -> None:
    await router.add("Gone", f"http://127.0.0.1:{free_port()}/v1")
    for _ in range(3):  # the first failure is enough to fail, the third to be out
        said = await router.quarterdeck("backend", "test", "Gone")
        assert said.code == 1
        assert "healthy" not in said.out and "Not reached: connection refused." in said.out
    assert "down: Not reached" in said.out
    listed = await router.quarterdeck("backend", "list")
    assert "down: Not reached" in " ".join(listed.out.split()) and "healthy" not in listed.out
    found = await backends_can_be_called(Patient(router.settings))
    assert found.verdict == "fail" and "Gone (Not reached" in found.detail


async def test_a_backend_that_answers_is_well(router: OpenRouter) -> None:
    async with FakeProvider() as provider:
        await router.add("One", f"{provider.url}/v1")
        said = await router.quarterdeck("backend", "test", "One")
        assert (said.code, said.out.strip()) == (0, "One: healthy")
        assert (await backends_can_be_called(Patient(router.settings))).detail == "1 backend."


async def test_ask_answers_before_and_after_somebody_has_a_key(router: OpenRouter) -> None:
    said = await router.quarterdeck("router", "ask", "rehearsal")
    assert said.code == 0 and "[rehearsal]" in said.out
    assert (await router.quarterdeck("client", "list", "--json")).json["items"] == []
    await router.post("/clients", {"name": "scout", "agent": "scout"})
    for _ in range(2):
        said = await router.quarterdeck("router", "ask", "rehearsal")
        assert said.code == 0 and "[rehearsal]" in said.out
    clients = (await router.quarterdeck("client", "list", "--json")).json["items"]
    assert [client["name"] for client in clients] == ["scout", "quarterdeck router ask"]


async def test_names_are_told_as_they_are_whatever_they_look_like(router: OpenRouter) -> None:
    for name in ("[red]scout", "[/scout]"):
        made = await router.quarterdeck("client", "add", name)
        assert (made.code, f"Key of {name}, shown once: " in made.out) == (0, True)
        assert name in (await router.quarterdeck("client", "remove", name)).out


async def test_ask_that_is_refused_says_what_to_do(router: OpenRouter) -> None:
    await router.post("/clients", {"name": "quarterdeck router ask", "enabled": False})
    said = await router.quarterdeck("router", "ask", "rehearsal")
    assert said.code == 1 and "answered 401" in said.err and "client enable" in said.err


async def test_ask_uses_the_proxy_token_where_there_is_one(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_PROXY_TOKEN", "the-proxy-token")
    async with open_router(tmp_path, database_url, monkeypatch, capsys) as router:
        assert (await router.quarterdeck("router", "ask", "rehearsal")).code == 0
        assert (await router.quarterdeck("client", "list", "--json")).json["items"] == []
        said = await router.quarterdeck("router", "ask", "nonsense", "--json")
        assert said.code == 1 and "backend list" in said.err


async def test_what_the_router_refuses_is_told_in_words(
    router: OpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    url = "http://127.0.0.1:9/v1"
    said = await router.quarterdeck("backend", "add", "X", "ftp://x", "--model", "a", "--api", "no", "--json")
    told = json.loads(said.err.splitlines()[-1])
    assert (said.code, told["code"]) == (2, "invalid")
    assert told["detail"].startswith("api_base_url: must be an absolute http or https address; api: is no")
    for wrong in (["--rpm", "1001"], ["--rpm", "0"], ["--pool", "third"]):
        said = await router.quarterdeck("backend", "add", "X", url, "--model", "a", *wrong)
        assert said.code == 2 and wrong[0] in said.err
    await router.post("/clients", {"name": "scout"})
    said = await router.quarterdeck("client", "add", "scout")
    assert said.code == 1 and "a client 'scout' already" in said.err
    said = await router.quarterdeck("client", "edit", "scout", "--agent", "a b")
    assert said.code == 2 and "agent: must be up to 50 letters, digits, dots" in said.err


async def test_a_backend_has_the_limit_of_new_backends_unless_it_is_said(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_RATE_RPM", "7")
    url = "http://127.0.0.1:9/v1"
    async with open_router(tmp_path, database_url, monkeypatch, capsys) as router:
        for more, limit in (([], 7), (["--rpm", "8"], 8)):
            monkeypatch.setattr("sys.stdin", io.StringIO("sk-the-key\n"))
            said = await router.quarterdeck("backend", "add", "X", url, "--model", "a", *more, "--json")
            assert (said.code, said.json["rpm_limit"]) == (0, limit)


async def test_of_two_backends_of_one_name_the_id_says_which(
    router: OpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    older, newer = [(await router.add("Twin", f"http://127.0.0.1:{n}/v1"))["id"] for n in (7, 9)]
    listed = await router.quarterdeck("backend", "list")
    assert older in listed.out and newer in listed.out
    said = await router.quarterdeck("backend", "remove", "Twin")
    assert said.code == 2 and older in said.err and newer in said.err
    assert (await router.quarterdeck("backend", "remove", newer)).code == 0
    left = (await router.quarterdeck("backend", "list", "--json")).json["items"]
    assert [card["id"] for card in left] == [older]


async def test_a_backend_is_switched_off_and_on_and_edited(
    router: OpenRouter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await router.add("One", "http://127.0.0.1:9/v1")
    assert (await router.quarterdeck("backend", "disable", "One")).out == "One is called no more.\n"
    assert (await router.quarterdeck("backend", "disable", "One", "--json")).json["status"] == "disabled"
    assert (await router.quarterdeck("backend", "enable", "One", "--json")).json["status"] == "healthy"
    (tmp_path / "key").write_text("sk-another-key-0123456789\n")
    options = (
        *("--name", "Two", "--url", "http://127.0.0.1:7/v1", "--pool", "fallback", "--rpm", "9"),
        *("--timeout", "30", "--model", "claude=vendor/c", "--without-model", "gpt"),
        *("--key-file", str(tmp_path / "key"), "--json"),
    )
    card = (await router.quarterdeck("backend", "edit", "One", *options)).json
    assert (card["name"], card["api_base_url"], card["pool"]) == ("Two", "http://127.0.0.1:7/v1", "fallback")
    assert (card["rpm_limit"], card["timeout_seconds"], card["api"]) == (9, 30, "openai-completions")
    assert {name: mapping["native_id"] for name, mapping in card["model_mappings"].items()} == {
        "claude": "vendor/c"
    }
    assert card["api_key"].startswith("sk-ano")
    for wrong in ([], ["--without-model", "nonsense"], ["--timeout", "9"]):
        assert (await router.quarterdeck("backend", "edit", "Two", *wrong)).code == 2


async def test_a_model_that_is_renamed_at_its_backend_keeps_what_is_known_of_it(router: OpenRouter) -> None:
    mapping = {"native_id": "a", "context_window": 1000, "cost": {"input": 0.001}}
    body = {"name": "One", "api_base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    await router.post("/backends", body | {"model_mappings": {"gpt": mapping}})
    card = (await router.quarterdeck("backend", "edit", "One", "--model", "gpt=b", "--json")).json
    changed = card["model_mappings"]["gpt"]
    assert (changed["native_id"], changed["context_window"]) == ("b", 1000)
    assert changed["cost"]["input"] == 0.001


async def test_a_client_is_edited_switched_off_and_given_another_key(
    router: OpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    key = (await router.post("/clients", {"name": "scout", "tokens_per_day": 5}))["key"]
    edited = await router.quarterdeck(
        "client", "edit", "scout", "--agent", "scout", "--usd-per-day", "1.5", "--no-token-budget", "--json"
    )
    card = edited.json
    assert (card["agent"], card["tokens_per_day"], card["cost_per_day"]) == ("scout", None, 1.5)
    assert (await router.quarterdeck("client", "edit", "scout")).code == 2
    both = ("--no-token-budget", "--tokens-per-day", "5")
    assert (await router.quarterdeck("client", "edit", "scout", *both)).code == 2
    assert not (await router.quarterdeck("client", "disable", "scout", "--json")).json["enabled"]
    assert (await router.quarterdeck("client", "enable", "scout", "--json")).json["enabled"]
    renewed = (await router.quarterdeck("client", "renew", "scout", "--json")).json["key"]
    assert renewed and renewed != key
    listed = await router.quarterdeck("client", "list")
    assert "Tokens today" in listed.out and "USD today" in listed.out


async def test_names_are_said_as_they_are(router: OpenRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets are no markup to us, and words between colons no pictures."""
    monkeypatch.setenv("COLUMNS", "200")
    name = "One [eu] [/] :key:"
    await router.add(name, "http://127.0.0.1:9/v1")
    for command, said in (("disable", "is called no more."), ("enable", "may be called.")):
        assert (await router.quarterdeck("backend", command, name)).out == f"{name} {said}\n"
    assert name in (await router.quarterdeck("backend", "list")).out
