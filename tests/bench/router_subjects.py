"""The gateways that are measured: how each is installed, started, and asked.

Peers live in environments of their own under `.bench/`, made on first use.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments.supervisor import ROOT
from tests.bench.router_load import MODELS, body, model
from tests.bench.router_mock import NATIVE_MODEL

CACHE = ROOT / ".bench"
LITELLM = "litellm[proxy]==1.106.2"
PORTKEY = "@portkey-ai/gateway@1.15.2"
NODE = 20
"""Least version of Node.js for Portkey's gateway."""

KEY = "sk-bench-Jq7vT2mXw9Lr4Zp8Nc5Hd3Ks6Fy1Gb0"
"""What clients show to gateways. The LiteLLM proxy refuses to start with a weak one."""

_PATIENCE = 90.0
"""Seconds until a gateway must answer."""

# Portkey 1.15.2 hands a whole Response to `new Response(…)` as its options, which Node.js refuses
# ("immutable"): each stream would be answered with status 500.
_BROKEN = ":new Response(p,e)}"
_MENDED = ":new Response(p,{status:e.status,statusText:e.statusText,headers:new Headers(e.headers)})}"


class NotMeasured(Exception):
    """Why a peer is left out."""


@dataclass(frozen=True)
class Places:
    """Who runs on which CPU, and where upstream is."""

    gateway: int
    load: int
    upstream: str

    @classmethod
    def here(cls, upstream_port: int) -> "Places":
        """The first CPU is for the gateway, the last for the load and its provider."""
        mine = sorted(os.sched_getaffinity(0))
        return cls(mine[0], mine[-1], f"http://127.0.0.1:{upstream_port}")


@dataclass(frozen=True)
class Launch:
    """How a program is started, and what a request to it needs."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {KEY}"})


@dataclass(frozen=True)
class Running:
    """A gateway that answers."""

    name: str
    port: int
    headers: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    database: tuple[int, ...] = ()

    @property
    def watched(self) -> tuple[int, ...]:
        """Roots of its processes."""
        return (self.process.pid,) if self.process else ()

    def stop(self) -> None:
        """End it and whatever it started."""
        if self.process:
            stop(self.process)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def spawn(command: tuple[str, ...], cpu: int, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a program on one CPU; what it says goes to `log`."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then insist; its children too. One that has ended already is only waited for."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in family[1:]:
        if one.is_running():
            one.kill()


def start(launch: Launch, port: int, places: Places, logs: Path) -> Running:
    """Start a gateway, and wait until it answers a request."""
    log = logs / f"{launch.name.replace(' ', '-')}.log"
    process = spawn(launch.command, places.gateway, log, **launch.environment)
    return await_answer(Running(launch.name, port, launch.headers, process), log)


def await_answer(running: Running, log: Path) -> Running:
    """Until a chat completion comes back, plain and streamed; one that never answers is stopped."""
    try:
        _await_answer(running, log)
    except NotMeasured:
        running.stop()
        raise
    return running


def _await_answer(running: Running, log: Path) -> None:
    until, why = time.monotonic() + _PATIENCE, "no answer"
    while time.monotonic() < until:
        if running.process and running.process.poll() is not None:
            raise NotMeasured(f"it ended by itself, see {log}")
        try:
            answers = [_ask(running, kind) for kind in ("plain", "burst")]
            if all(answer.status_code == 200 for answer in answers):
                return
            why = next(a for a in answers if a.status_code != 200).text[:200]
        except httpx.HTTPError as error:
            why = repr(error)
        time.sleep(0.3)
    raise NotMeasured(f"{why}; see {log}")


def await_health(running: Running, log: Path) -> None:
    """Until it says that it is up."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if running.process and running.process.poll() is not None:
            raise NotMeasured("it ended by itself")
        try:
            if httpx.get(f"http://127.0.0.1:{running.port}/health", timeout=10).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise NotMeasured("it never said that it is well")


def _ask(running: Running, kind: str) -> httpx.Response:
    headers = {"content-type": "application/json"} | dict(running.headers)
    url = f"http://127.0.0.1:{running.port}/v1/chat/completions"
    return httpx.post(url, content=body(kind, model(0)), headers=headers, timeout=30)


def litellm_proxy(port: int, places: Places, logs: Path) -> Launch:
    """The LiteLLM proxy as its documentation starts it, with prices from its own package."""
    program = _install_litellm()
    config = logs / "litellm.yaml"
    config.write_text(_litellm_config(places.upstream), encoding="utf-8")
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
    }
    return Launch("LiteLLM proxy", (str(program), *arguments, "--telemetry", "False"), environment)


def _litellm_config(upstream: str) -> str:
    entry = "  - model_name: {name}\n    litellm_params:\n      model: openai/{native}\n"
    entry += "      api_base: {upstream}/v1\n      api_key: bench-upstream\n"
    models = [entry.format(name=model(n), native=NATIVE_MODEL, upstream=upstream) for n in range(MODELS)]
    return "model_list:\n" + "".join(models)


def _install_litellm() -> Path:
    home = CACHE / "litellm"
    if not (home / ".ready").exists():
        _do(sys.executable, "-m", "venv", "--clear", str(home))
        install = ("pip", "install", "--quiet", "--compile-bytecode", "--python", str(home / "bin/python"))
        uv = str(Path(sys.executable).with_name("uv"))
        try:
            _do(uv, *install, LITELLM)
        except NotMeasured:  # a company's own certificates are in the system's store only
            _do(uv, *install, "--system-certs", LITELLM)
        (home / ".ready").touch()
    return home / "bin" / "litellm"


def portkey(port: int, places: Places, logs: Path) -> Launch:
    """Portkey's gateway on Node.js, its streams mended (see `_BROKEN`)."""
    program = _install_portkey()
    headers = {
        "authorization": "Bearer bench-upstream",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": places.upstream + "/v1",
    }
    return Launch("Portkey", ("node", str(program), f"--port={port}", "--headless"), headers=headers)


def _install_portkey() -> Path:
    if not shutil.which("node") or not shutil.which("npm"):
        raise NotMeasured("node or npm is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().lstrip("v").partition(".")[0]) < NODE:
        raise NotMeasured(f"node {NODE} or newer is needed, here is {version.strip()}")
    home = CACHE / "portkey"
    program = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not (home / ".ready").exists():
        home.mkdir(parents=True, exist_ok=True)
        _do("npm", "install", "--prefix", str(home), "--ignore-scripts", "--no-audit", "--no-fund", PORTKEY)
        program.write_text(mended(program.read_text("utf-8")), "utf-8")
        (home / ".ready").touch()
    return program


def mended(source: str) -> str:
    """Portkey's program with streams that work. Raises `NotMeasured` when it is another than expected."""
    if source.count(_BROKEN) != 1:
        raise NotMeasured("the line of Portkey's gateway that breaks streams is not where it was")
    return source.replace(_BROKEN, _MENDED)


def _do(*command: str) -> None:
    print(f"  {' '.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=ROOT)
    if done.returncode:
        raise NotMeasured(f"`{' '.join(command[:3])} …` failed: {(done.stderr or done.stdout)[-300:]}")


def bare_relay(port: int, places: Places, logs: Path) -> Launch:
    """`tests/bench/bare_relay.py`."""
    return _bare("bare relay", "bare_relay", port, {"BARE_UPSTREAM": places.upstream})


def bare_acompletion(port: int, places: Places, logs: Path) -> Launch:
    """`tests/bench/bare_litellm.py`, with the provider that the router's LiteLLM way is measured with."""
    environment = {
        "BARE_UPSTREAM": places.upstream,
        "BARE_PROVIDER": "anthropic",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return _bare("bare acompletion", "bare_litellm", port, environment)


def _bare(name: str, module: str, port: int, environment: dict[str, str]) -> Launch:
    options: dict[str, Any] = {"port": port, "loop": "uvloop", "http": "httptools", "log-level": "warning"}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = (sys.executable, "-m", "uvicorn", f"tests.bench.{module}:app", "--no-access-log", *arguments)
    return Launch(name, command, environment | {"BARE_KEY": KEY})


def mock(places: Places, port: int, logs: Path) -> Running:
    """The provider behind them all, which can be asked directly too."""
    command = (sys.executable, "-m", "tests.bench.router_mock", str(port))
    log = logs / "mock.log"
    return await_answer(Running("direct", port, {}, spawn(command, places.load, log)), log)
