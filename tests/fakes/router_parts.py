"""What tests of the router's store need: keys, prices, a form, a store, a call, a cooldown."""

import base64
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.keyring import VARIABLE, Keyring
from quarterdeck.router.admin.forms import BackendForm
from quarterdeck.router.backend import Limit, Pool, Prices, Usage
from quarterdeck.router.call import Call, Caller
from quarterdeck.router.exchange import Outcome
from quarterdeck.router.limits.standing import Change, CooldownStarted
from quarterdeck.router.storage.keys import Seals
from quarterdeck.router.storage.snapshot import KeyConnections
from quarterdeck.router.storage.store import Store

LIST_PRICE = Prices(input=150_000, output=600_000)
NOON = datetime(2026, 11, 22, 12, 30, tzinfo=UTC).timestamp()
PLAIN_KEY = "sk-canary-0123456789abcdef"
UNTIL = NOON + 60
STARTED = CooldownStarted("BKD", Limit.QUOTA, 2, 60.0, UNTIL, NOON, "slow down")
"""A cooldown of a backend that `of` names."""

_numbers = count()


class PriceList:
    """Knows one model."""

    def of(self, api: str, native_id: str) -> Prices | None:
        return LIST_PRICE if native_id == "listed" else None


def keyring() -> Keyring:
    """With a key of its own, that lies nowhere."""
    return Keyring(Path("/nowhere"), {VARIABLE: base64.b64encode(secrets.token_bytes(32)).decode()})


def hex_key() -> str:
    """A value for `SIDECAR_ENCRYPTION_KEY`."""
    return secrets.token_hex(32)


def form(**fields: Any) -> BackendForm:
    """A backend that needs nothing else."""
    needed = {
        "name": "One",
        "api_base_url": "http://127.0.0.1:9/v1",
        "api_key": PLAIN_KEY,
        "model_mappings": {"gpt": {"native_id": "gpt-native"}},
    }
    return BackendForm.model_validate(needed | fields)


def store(database: Database, seals: Seals | None = None, connections: KeyConnections | None = None) -> Store:
    return Store(database, seals or Seals(keyring()), PriceList(), connections)


def call(**fields: Any) -> Call:
    """An attempt that went well."""
    number = next(_numbers)
    usual = Call(
        id=f"{number:032x}",
        at=NOON,
        request=f"req-{number}",
        attempt=1,
        is_answer=True,
        backend_id="bkd_1",
        pool=Pool.PRIMARY,
        is_emergency=False,
        model="gpt",
        caller=Caller(),
        outcome=Outcome.OK,
        status=200,
        is_stream=False,
        usage=Usage(prompt=10, completion=5, total=15),
        cost=1_000,
        latency_ms=120,
        ttft_ms=None,
    )
    return replace(usual, **fields)


def of(backend_id: str, *changes: Change) -> list[Change]:
    """These changes, of this backend."""
    return [replace(change, backend_id=backend_id) for change in changes]
