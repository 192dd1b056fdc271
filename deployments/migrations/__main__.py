"""Write the next step: what the tables of the models have and the steps so far do not.

    python -m deployments.migrations "Items have a colour"

It uses a server of its own, made for the occasion. Read the file it writes before you commit it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alembic import command

from deployments import schema
from quarterdeck.kernel.postgres import EmbeddedPostgres


def main(words: str) -> None:
    """Write the step, formatted, or say that none is needed."""
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home), fast=True).running() as server:
        schema.migrate(server.url())
        with schema.connected(server.url()) as connection:
            configuration = schema.config(connection)
            number = f"{max(_numbers()) + 1:04d}"
            command.revision(configuration, words, autogenerate=True, rev_id=number)
    written = list(Path(__file__).parent.glob(f"versions/{number}_*.py"))
    for file in written:
        _tidy(file)
    print("\n".join(map(str, written)) or "The steps make all tables already.")


def _numbers() -> Iterator[int]:
    """Of all steps; the newest need not have the highest."""
    return (int(file.name[:4]) for file in Path(__file__).parent.glob("versions/[0-9]*.py"))


def _tidy(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "# ###" not in line))  # Alembic's own remarks
    for how in (["check", "--silent", "--fix", "--exit-zero"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *how, file], check=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Change the tables")
