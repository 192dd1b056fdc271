"""Backends for tests that need no provider, only the choice between them."""

from typing import Any

from quarterdeck.router.backend import Backend, Mapping
from quarterdeck.router.limits.balancer import Balancer
from quarterdeck.router.limits.standing import ProbeResult

MODEL = "large"
START = 1_800_000_000.0
"""Now, where a test does not care when."""


def backend(name: str, *models: str, **values: Any) -> Backend:
    """An enabled primary backend, its id like its name, that maps these models (or `MODEL`)."""
    mappings = {model: Mapping(model, f"{name}/{model}") for model in models or (MODEL,)}
    values = {
        "api_base_url": f"https://{name}.test",
        "api_key": f"key-of-{name}",
        "mappings": mappings,
    } | values
    return Backend(id=name, name=name, **values)


def probed(desk: Balancer, name: str, result: ProbeResult, now: float) -> None:
    """A probe of this backend came back: as it is now, or of one that is gone."""
    asked = next((one for one in desk.backends() if one.id == name), backend(name))
    desk.probed(asked, result, now)
