"""`docs/reference/router-faults.md`: what was seen of every fault, as a table that can be read back.

Cases of one fault that ended alike share a row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path

from tests.fakes.provider_faults import FAULTS, Fault, K

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "router-faults.md"

WAYS = ("direct", "LiteLLM")
KINDS = ("plain", "stream")
ALL = {WAYS: "both", KINDS: "both"}
HEAD = ("Fault", "Meaning", "Way", "Kind", "The client gets", "Calls", "Ledger", "First backend afterwards")

PROSE = f"""# What becomes of a provider's faults

Every row was seen, not written: the tests ask a provider that fails on purpose, through a router with two
backends, and compare what they see with this page (`make test`). After a change on purpose
`QUARTERDECK_WRITE_PAGES=1 .venv/bin/python -m pytest tests/unit/test_router_faults.py` writes it anew.

- **Way**: *direct* is a backend that speaks the OpenAI dialect (`openai-completions`), *LiteLLM* one that
  does not (`anthropic-messages`).
- **Calls**: how often the first and the second backend were called. The first one has the fault; the second
  one is well, and in the fallback pool.
- **Ledger**: one entry per attempt: outcome, prompt + completion tokens. `~` marks tokens that the provider
  did not tell and that were counted by us; *= invoice* that tokens and money are those of its invoice,
  to the token and the pico-dollar.
- A good answer has 12 tokens, and is *whole* in a stream when `[DONE]` comes after them. Faults of a stream
  break it after {K} tokens.
- Anthropic's dialect always tells the usage where it tells the finish: there `usage-inline` is the usual way.
"""


@dataclass(frozen=True, order=True)
class Case:
    """One cell of the wall."""

    fault: str
    way: str
    kind: str

    def __str__(self) -> str:
        return f"{self.fault}-{self.way}-{self.kind}"


@dataclass(frozen=True)
class Seen:
    """What a fault did, in the words of the page."""

    client: str
    calls: str
    ledger: str
    backend: str


def makes_sense(fault: Fault, kind: str) -> bool:
    return fault.ways == "both" or kind == "stream"


CASES = [
    Case(fault.name, way, kind)
    for fault, way, kind in product(FAULTS.values(), WAYS, KINDS)
    if makes_sense(fault, kind)
]


def render(seen: Mapping[Case, Seen]) -> str:
    """The whole page."""
    lines = [_row(HEAD), _row(["---"] * len(HEAD))]
    for fault in FAULTS.values():
        mine = {case: result for case, result in seen.items() if case.fault == fault.name}
        for result in dict.fromkeys(mine.values()):
            for way, kind in _labels([case for case, other in mine.items() if other == result]):
                name, meaning = f"`{fault.name}`", fault.meaning
                lines.append(_row([name, meaning, way, kind, *astuple(result)]))
    return f"{PROSE}\n" + "\n".join(lines) + "\n"


def _labels(cases: Iterable[Case]) -> Iterable[tuple[str, str]]:
    """As few rows as tell the same: both ways, both kinds, or each by itself."""
    kinds: dict[str, list[str]] = {}
    for case in cases:
        kinds.setdefault(case.way, []).append(case.kind)
    by_kinds: dict[tuple[str, ...], list[str]] = {}
    for way, list_of_kinds in kinds.items():
        by_kinds.setdefault(tuple(list_of_kinds), []).append(way)
    for some_kinds, some_ways in by_kinds.items():
        yield ALL.get(tuple(some_ways), some_ways[0]), ALL.get(some_kinds, some_kinds[0])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read(page: str) -> dict[Case, Seen]:
    """What a page says of each case."""
    seen: dict[Case, Seen] = {}
    for line in page.splitlines():
        cells = line.strip("| ").split(" | ")
        if not line.startswith("| `") or len(cells) != len(HEAD):
            continue
        ways = WAYS if cells[2] == "both" else (cells[2],)
        kinds = KINDS if cells[3] == "both" else (cells[3],)
        for way, kind in product(ways, kinds):
            seen[Case(cells[0].strip("`"), way, kind)] = Seen(*cells[4:])
    return seen
