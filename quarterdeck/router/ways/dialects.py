"""Which names a backend's `api` may have, and which of LiteLLM's providers each one is.

Names are those of OpenClaw's model configuration, and LiteLLM's own. They are read from LiteLLM's files:
importing it would cost seconds and 200 MB.
"""

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from quarterdeck.router.backend import OPENAI

RESPONSES = "openai-responses"
"""The dialect of backends that know `/v1/responses` and nothing else."""

_OPENCLAW = {
    OPENAI: "openai",
    RESPONSES: "openai",
    "openai-codex-responses": "openai",
    "azure-openai-responses": "azure",
    "anthropic-messages": "anthropic",
    "google-generative-ai": "gemini",
    "google-vertex": "vertex_ai",
    "bedrock-converse-stream": "bedrock",
    "mistral-conversations": "mistral",
    "ollama": "ollama_chat",
}

# They log in at a terminal, run something on this machine, or are no providers.
_NOT_SERVERS = (
    "a2a",
    "a2a_agent",
    "auto_router",
    "custom",
    "dotprompt",
    "humanloop",
    "langfuse",
    "litellm_agent",
)
_UNUSABLE = frozenset((*_NOT_SERVERS, "chatgpt", "github_copilot"))


def provider(api: str) -> str:
    """LiteLLM's name of the provider that speaks this dialect."""
    return _OPENCLAW.get(api, api)


def known(api: str) -> bool:
    """Whether backends with this dialect can be called."""
    return api in _OPENCLAW or api in _providers()


def names() -> list[str]:
    """Every dialect, for people to choose from: OpenClaw's names first."""
    return [*_OPENCLAW, *sorted(_providers() - _OPENCLAW.keys())]


def litellm_folder() -> Path:
    """Where LiteLLM is installed. Does not import it."""
    spec = find_spec("litellm")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@cache
def _providers() -> frozenset[str]:
    folder = litellm_folder()
    source = (folder / "types" / "utils.py").read_text()
    listed = source.partition("\nclass LlmProviders(")[2].partition("\n\n\n")[0]
    named = re.findall(r'^    [A-Z0-9_]+ = "([^"]+)"', listed, re.MULTILINE)
    alike = json.loads((folder / "llms" / "openai_like" / "providers.json").read_text())
    return frozenset({*named, *alike} - _UNUSABLE)
