"""Variables that look like ours and mean nothing: one letter too many, and a setting is not there."""

from collections.abc import Mapping
from difflib import get_close_matches

from quarterdeck.crew.keeper import MARK
from quarterdeck.kernel import keyring
from quarterdeck.kernel.settings import Settings, variable
from quarterdeck.router import config
from quarterdeck.router.config import RouterSettings

_OURS = ("QUARTERDECK_", "SIDECAR_")
_OTHERS = {
    keyring.VARIABLE,
    keyring.OLD_VARIABLE,
    MARK,
    "QUARTERDECK_CRASH_AT",
    "QUARTERDECK_CRASH_LOG",
}
"""What is read besides the settings."""


def meaningless(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that nobody reads, with the one that may be meant; never a value."""
    known = {variable(name) for name in Settings.model_fields} | _OTHERS
    known |= {config.variable(name) for name in RouterSettings.model_fields}
    strangers = sorted(name for name in environ if name.startswith(_OURS) and name not in known)
    return [_told(name, known) for name in strangers]


def _told(name: str, known: set[str]) -> str:
    meant = get_close_matches(name, known, 1)
    return f"{name} means nothing here{f'; is {meant[0]} meant?' if meant else '.'}"
