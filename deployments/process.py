"""How each process of ours ends that cannot go on: with one sentence and exit code 1.

A supervisor is told more by the exit code: whether a person must mend something, or it may be tried again.
"""

import os
import sys
from collections.abc import Callable

from deployments import leash
from quarterdeck.kernel.errors import Misconfigured, QuarterdeckError

MISCONFIGURED = os.EX_CONFIG
TRY_AGAIN = os.EX_TEMPFAIL


def run(main: Callable[[], object]) -> None:
    """Be the process that `main` is. What somebody must mend is told; a traceback is for our own mistakes."""
    try:
        main()
    except QuarterdeckError as error:
        if not leash.is_held():
            sys.exit(str(error))
        print(" ".join(str(error).split()), file=sys.stderr, flush=True)
        sys.exit(MISCONFIGURED if isinstance(error, Misconfigured) else TRY_AGAIN)
