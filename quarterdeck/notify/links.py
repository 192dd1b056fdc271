"""Links from a message to its work item and to its Prefect run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.markup import MAX_UNITS, escape, shorten, units


@dataclass(frozen=True)
class Links:
    """Addresses as templates; empty = no such link."""

    item: str = ""
    run: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "Links":
        """Both below the public address; Prefect's UI on the same host, on its own port."""
        base = settings.public_url.rstrip("/")
        if not base:
            return cls()
        parts = urlsplit(base)
        prefect = f"{parts.scheme}://{parts.hostname}:{settings.prefect_port}"
        return cls(item=base + "/api/v1/items/{key}", run=prefect + "/runs/flow-run/{run}")

    def append(self, words: Mapping[str, str], text: str, key: str | None, data: Mapping[str, Any]) -> str:
        """The text, and on a line of its own what it links to (a run is named by `flow_run` in the data)."""
        links = []
        if self.item and key:
            links.append(_anchor(self.item.format(key=quote(key)), words["item_link"]))
        if self.run and data.get("flow_run"):
            links.append(_anchor(self.run.format(run=quote(str(data["flow_run"]))), words["run_link"]))
        if not links:
            return text
        line = "\n" + " · ".join(links)
        return shorten(text, MAX_UNITS - units(line)) + line


def _anchor(address: str, words: str) -> str:
    return f'<a href="{escape(address)}">{escape(words)}</a>'
