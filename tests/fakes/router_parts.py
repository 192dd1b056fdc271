"""What tests of the router's store need: keys, prices, a form, a store."""

import base64
import secrets
from pathlib import Path
from typing import Any

from quarterdeck.kernel.database import Database
from quarterdeck.kernel.keyring import VARIABLE, Keyring
from quarterdeck.router.backend import Prices
from quarterdeck.router.forms import BackendForm
from quarterdeck.router.keys import Seals
from quarterdeck.router.snapshot import KeyConnections
from quarterdeck.router.store import Store

LIST_PRICE = Prices(input=150_000, output=600_000)
PLAIN_KEY = "sk-canary-0123456789abcdef"


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
