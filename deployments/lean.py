"""For a process that must stay small: structlog and uvicorn without what they import and we never use here.

Import it before everything else. structlog colours tracebacks with rich where that is installed, and uvicorn
can watch files with watchfiles; together that is 4.5 MB.
"""

import sys

_OPTIONAL = ("rich", "watchfiles")

_absent = [name for name in _OPTIONAL if name not in sys.modules]
sys.modules.update(dict.fromkeys(_absent))  # type: ignore[arg-type]  # None: as if it were not installed

import structlog  # noqa: E402, F401
import uvicorn  # noqa: E402, F401

for _name in _absent:
    del sys.modules[_name]  # whoever really needs it later finds it
