"""How each process of ours ends that cannot go on: with one sentence and exit code 1."""

import sys
from collections.abc import Callable

from quarterdeck.kernel.errors import QuarterdeckError


def run(main: Callable[[], object]) -> None:
    """Be the process that `main` is. What somebody must mend is told; a traceback is for our own mistakes."""
    try:
        main()
    except QuarterdeckError as error:
        sys.exit(str(error))
