"""What is shipped to run the router under somebody else's supervisor."""

import re
from typing import Any

import pytest
import yaml

from deployments.supervisor import ROOT
from quarterdeck.router import config

FOLDER = ROOT / "deployments" / "operations"


@pytest.fixture
def service() -> dict[str, Any]:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return dict(compose["services"]["sidecar-v2"])


def test_compose_starts_with_no_token_that_anybody_could_guess(service: dict[str, Any]) -> None:
    for name in ("SIDECAR_ADMIN_TOKEN", "SIDECAR_PROXY_TOKEN"):
        assert re.fullmatch(r"\$\{" + name + r":\?[^}]+\}", service["environment"][name])


def test_compose_listens_on_this_machine_only(service: dict[str, Any]) -> None:
    assert service["ports"] == ["127.0.0.1:9190:9190", "127.0.0.1:9191:9191"]


def test_compose_and_systemd_wait_longer_than_the_router_drains(service: dict[str, Any]) -> None:
    unit = (FOLDER / "quarterdeck-router.service").read_text(encoding="utf-8")
    drain = int(re.search(r"SIDECAR_DRAIN_SECONDS=(\d+)", unit)[1])  # type: ignore[index]
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > drain  # type: ignore[index]
    assert int(service["stop_grace_period"].rstrip("s")) > int(
        service["environment"]["SIDECAR_DRAIN_SECONDS"]
    )


def test_systemd_lets_the_desk_end_in_order_and_its_agents_outlive_a_crash() -> None:
    lines = (FOLDER / "quarterdeck.service").read_text(encoding="utf-8").splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert unit["KillMode"] == "process"  # else systemd would end PostgreSQL and the agents' keepers, too
    assert int(unit["TimeoutStopSec"]) > 10  # what `quarterdeck up` may take to stop
    assert unit["ExecStart"].endswith("/quarterdeck up") and unit["User"] != "root"
    assert unit["Environment"].startswith(f"QUARTERDECK_HOME={unit['WorkingDirectory']}/")


def test_the_image_does_not_run_as_root() -> None:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert lines.index("USER quarterdeck") < next(i for i, line in enumerate(lines) if line.startswith("CMD"))


def test_nginx_holds_no_stream_back() -> None:
    text = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    calls = text[text.index("location /v1/") :].partition("}")[0]
    for line in ("proxy_buffering off;", "proxy_read_timeout 900s;", "client_max_body_size 32m;"):
        assert line in calls


def test_every_variable_that_is_set_there_exists() -> None:
    known = {str(field.validation_alias) for field in config.RouterSettings.model_fields.values()}
    for file in FOLDER.iterdir():
        named = set(re.findall(r"\b(SIDECAR_[A-Z_]+|LOG_FORMAT)\b", file.read_text(encoding="utf-8")))
        assert named <= known, file.name
