"""Links from a message into Prefect's UI: to all runs of its work item, and to its own run.

The API's own addresses are no links for people: a browser has no token to send with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from quarterdeck.kernel.settings import Settings
from quarterdeck.notify.markup import MAX_UNITS, escape, shorten, units


@dataclass(frozen=True)
class Links:
    """Addresses as templates; empty = no such link."""

    item: str = ""
    run: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "Links":
        """Both in Prefect's UI, which asks people to sign in; none while nobody said where it can be opened.

        `tag` is the filter of its list of runs: every stage run has its item's key as a tag.
        """
        base = settings.prefect_public_url.rstrip("/")
        return cls(base + "/runs?tag={key}", base + "/runs/flow-run/{run}") if base else cls()

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
