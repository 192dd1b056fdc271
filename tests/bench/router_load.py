"""The load: raw connections that ask again as soon as they are answered, or at a given rate.

    python -m tests.bench.router_load < plan.json > found.json

It reads the CPU time of the watched processes at both ends of its window, so that nothing outside the
window counts. Times are in seconds.
"""

import asyncio
import random
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import httptools
import orjson
import psutil
import uvloop

from tests.bench.router_figures import quantile
from tests.bench.router_mock import PACED

MODELS = 40
"""Different models asked for, one after another: nobody sends a thousand calls a second to one model."""

LONGEST_END = 5.0
"""Seconds that the last requests may take to end."""

_DATA = b"data:"
_TEXT = "Tell me, in a few sentences, what a router between agents and providers of models is good for. "


@dataclass(frozen=True)
class Plan:
    """What is asked of whom. `mix` says how often each kind of request comes: plain, burst, paced, aborted.

    The window is longer, up to `patience`, while fewer than `enough` answers have come. `cpu` is the
    gateway's: how busy others kept it is told too.
    """

    port: int
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 32
    warm_up: float = 1.0
    seconds: float = 3.0
    enough: int = 0
    patience: float = 30.0
    cpu: int = 0
    rate: float = 0.0  # requests a second; 0 = as fast as the answers come
    mix: dict[str, float] = field(default_factory=lambda: {"plain": 1.0})
    watched: tuple[int, ...] = ()
    database: tuple[int, ...] = ()


@dataclass
class Found:
    """What came back within the window: `events` of all streams, `whole` of those that ended in it.

    `database` is CPU time of the gateway's database, which is not in `cpu`; `other` the share of the
    gateway's CPU that went to other programs.
    """

    requests: int = 0
    aborted: int = 0
    errors: int = 0
    events: int = 0
    whole: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    database: float = 0.0
    other: float = 0.0
    median: float = 0.0
    p95: float = 0.0
    first_median: float = 0.0
    first_p95: float = 0.0
    complaint: str = ""


def model(number: int) -> str:
    """The canonical name of one of the models that are asked for."""
    return f"bench-model-{number}"


def body(kind: str, name: str) -> bytes:
    """A request of about 1 kB. An aborted stream is a paced one, so that its provider is still at work."""
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": _TEXT * 9}]
    wanted: dict[str, Any] = {"model": name, "messages": messages, "temperature": 0.2, "max_tokens": 256}
    if kind != "plain":
        wanted |= {"stream": True, "stream_options": {"include_usage": True}}
    if kind in ("paced", "aborted"):
        wanted["max_tokens"] = PACED
    return orjson.dumps(wanted)


def requests(plan: Plan, kind: str) -> list[bytes]:
    """Whole HTTP requests, one per model."""
    bodies = [body(kind, model(number)) for number in range(MODELS)]
    given = {"host": f"127.0.0.1:{plan.port}", "content-type": "application/json"} | plan.headers
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return [
        f"POST {plan.path} HTTP/1.1\r\n{head}content-length: {len(one)}\r\n\r\n".encode() + one
        for one in bodies
    ]


def cpu_time(roots: Sequence[int]) -> float:
    """CPU seconds of these processes and all their descendants, ended ones that were waited for included."""
    total = 0.0
    for root in roots:
        family = [psutil.Process(root)]
        family += family[0].children(recursive=True)
        for process in family:
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue  # it ended meanwhile; its parent has its time now
    return total


def busy_time(cpu: int) -> float:
    """Seconds in which this CPU did anything, since the machine was started."""
    times = psutil.cpu_times(percpu=True)[cpu]
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


class Load:
    """All connections together: what to send next and when, and what was found."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self._kinds, self._weights = list(plan.mix), list(plan.mix.values())
        self._requests = {kind: requests(plan, kind) for kind in self._kinds}
        self._random = random.Random(1)
        self._sent = 0
        self.answers = 0
        self.counting = False
        self.ending = False
        self.found = Found()
        self.waits = array("f")
        self.firsts = array("f")
        self._due = self.loop.time()

    def next(self) -> tuple[str, bytes]:
        """The kind of the next request, and its bytes."""
        self._sent += 1
        kind = self._kinds[0]
        if len(self._kinds) > 1:
            (kind,) = self._random.choices(self._kinds, self._weights)
        return kind, self._requests[kind][self._sent % MODELS]

    def wait(self) -> float:
        """Seconds until the next request may go. Time that was lost is not caught up."""
        if not self.plan.rate:
            return 0.0
        now = self.loop.time()
        self._due = max(self._due + 1 / self.plan.rate, now - 0.1)
        return self._due - now

    def complain(self, why: str) -> None:
        """Count an answer that was none."""
        if self.counting:
            self.found.errors += 1
            self.found.complaint = self.found.complaint or why[:300]


class Counter:
    """Counts the events of a stream that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """How many events began since the last piece."""
        text = self._tail + data
        self._tail = text[-len(_DATA) + 1 :]
        return text.count(_DATA)


class Connection(asyncio.Protocol):
    """One client, which has one request in flight. It comes again when its connection is closed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._timer: asyncio.TimerHandle | None = None
        self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._later()

    def _later(self) -> None:
        wait = self._load.wait()
        if wait > 0:
            self._timer = self._load.loop.call_later(wait, self._send)
        else:
            self._send()

    def _send(self) -> None:
        if self._load.ending:
            return
        self._parser = httptools.HttpResponseParser(self)
        self._kind, request = self._load.next()
        self.is_busy, self._first, self._events, self._wrong = True, 0.0, 0, b""
        self._counter = Counter()
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._wrong += data
            return
        if self._kind == "plain":
            return
        events = self._counter.feed(data)
        if events and not self._first:
            self._first = time.perf_counter() - self._sent
        self._events += events
        if self._load.counting:
            self._load.found.events += events
        if self._kind == "aborted":
            self._abort()

    def _abort(self) -> None:
        if self._load.counting and self.is_busy:
            self._load.found.aborted += 1
        self.is_busy = False
        self._transport.abort()

    def on_message_complete(self) -> None:
        if not self.is_busy:
            return
        self.is_busy = False
        self._book(time.perf_counter() - self._sent)
        if self._parser.should_keep_alive():
            self._load.loop.call_soon(self._unless_ended)
        else:
            self._transport.close()

    def _unless_ended(self) -> None:
        if not self._transport.is_closing() and not self._load.ending:
            self._later()

    def _book(self, took: float) -> None:
        load = self._load
        load.answers += 1
        if self._parser.get_status_code() != 200:
            load.complain(f"{self._parser.get_status_code()} {self._wrong.decode(errors='replace')}")
        elif load.counting:
            load.found.requests += 1
            load.found.whole += self._events
            load.waits.append(took)
            if self._first:
                load.firsts.append(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        if self.is_busy:
            self._load.complain(f"the connection was closed in the middle of an answer: {exc!r}")
        if not self._load.ending:
            self._load.loop.create_task(self.connect())

    async def connect(self) -> None:
        """Open the connection (again); a refusal counts, and is followed by another try."""
        while not self._load.ending:
            try:
                await self._load.loop.create_connection(lambda: self, "127.0.0.1", self._load.plan.port)
                return
            except OSError as error:
                self._load.complain(repr(error))
                await asyncio.sleep(0.1)

    def close(self) -> None:
        """Leave, whatever is in flight."""
        self.is_busy = False
        self._transport.abort()


async def run(plan: Plan) -> Found:
    """Warm up, count for the length of the window, leave."""
    load = Load(plan)
    clients = [Connection(load) for _ in range(plan.connections)]
    # Spread over the warm-up, so that paced streams are not all in step.
    gap = plan.warm_up / 2 / plan.connections
    async with asyncio.timeout(plan.patience):
        for client in clients:
            await client.connect()
            await asyncio.sleep(gap)
    await _until(load, plan.warm_up / 2, min(plan.connections, plan.enough), plan.patience)
    before, others, began = _used(plan), busy_time(plan.cpu), time.perf_counter()
    load.counting = True
    await _until(load, plan.seconds, plan.enough, plan.patience)
    load.counting, load.ending, found = False, True, load.found
    found.seconds = time.perf_counter() - began
    found.cpu, found.database = (now - then for now, then in zip(_used(plan), before, strict=True))
    others = busy_time(plan.cpu) - others - found.cpu - found.database
    found.other = max(0.0, others) / found.seconds
    await _all_answered(clients)
    for client in clients:
        client.close()
    await asyncio.sleep(0.05)
    found.median, found.p95 = quantile(load.waits, 0.5), quantile(load.waits, 0.95)
    found.first_median, found.first_p95 = quantile(load.firsts, 0.5), quantile(load.firsts, 0.95)
    return found


async def _all_answered(clients: Sequence[Connection]) -> None:
    """Let what is under way end: streams that are left in the middle are work of another kind."""
    for _ in range(round(LONGEST_END / 0.05)):
        if not any(client.is_busy for client in clients):
            return
        await asyncio.sleep(0.05)


def _used(plan: Plan) -> tuple[float, float]:
    return cpu_time(plan.watched), cpu_time(plan.database)


async def _until(load: Load, seconds: float, answers: int, patience: float) -> None:
    """For so many seconds, and longer while answers are missing."""
    began, wanted = load.loop.time(), load.answers + answers
    await asyncio.sleep(seconds)
    while load.answers < wanted and load.loop.time() < began + patience:
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    wanted = orjson.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(orjson.dumps(asdict(uvloop.run(run(Plan(**wanted))))))
