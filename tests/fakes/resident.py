"""A small program to be supervised: says it is ready, then stays until it is told to go.

python -m deployments.leash FD tests.fakes.resident [stubborn] [parent FILE] [fails] [misconfigured | waits]
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from deployments import leash, process
from quarterdeck.kernel.errors import Misconfigured, Unavailable


def main(arguments: list[str]) -> None:
    if "stubborn" in arguments:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "parent" in arguments:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(arguments[arguments.index("parent") + 1]).write_text(str(child.pid))
    if "fails" in arguments:
        sys.exit("cannot go on: no coal")
    if "misconfigured" in arguments:
        raise Misconfigured("The bunker is locked.", "Unlock it.")
    if "waits" in arguments:
        raise Unavailable("There is no coal yet.")
    leash.ready()
    time.sleep(600)


if __name__ == "__main__":
    process.run(lambda: main(sys.argv[1:]))
