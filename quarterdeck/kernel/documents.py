"""YAML files that people write: read so that every complaint names the file and the line.

document = load_yaml(home / "crew.yaml")
crew = document.validate(CrewFile)                    # a Pydantic model
raise document.wrong(("agents", 2, "slug"), "the slug is taken")
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from quarterdeck.kernel.errors import Misconfigured

MOST_BYTES = 1_000_000
"""A file of settings larger than this is a mistake."""

MOST_COMPLAINTS = 10

Place = tuple[str | int, ...]
"""Keys and list positions (from 0) that lead from the top of a document to a value."""

Model = TypeVar("Model", bound=BaseModel)

_WORDS = {"missing": "is missing", "extra_forbidden": "is not known here"}


@dataclass(frozen=True)
class Document:
    """What a file says (`data`), and where it says it."""

    path: Path
    data: Any
    root: yaml.Node | None = field(repr=False, default=None)

    def line_of(self, place: Place) -> int:
        """The line (from 1) of a value, or of the nearest thing around it that exists."""
        node, line = self.root, _line(self.root)
        for step in place:
            key, child = _child(node, step)
            if child is not None:  # steps that are not in the file are names of union members
                node, line = child, _line(key)
        return line

    def wrong(self, place: Place, what: str, instruction: str = "", *, code: str = "") -> Misconfigured:
        """The error to raise about a value: file, line and what is the matter with it."""
        line = self.line_of(place)
        return _misconfigured(self.path, line, f"{_name(place)}{what}", instruction, code)

    def validate(self, model: type[Model]) -> Model:
        """The data as a model. Raises `Misconfigured` for all that is wrong, without the values."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            wrong = error.errors()
        (place, what), *others = [(tuple(e["loc"]), _what(e["type"], e["msg"])) for e in wrong]
        shown = others[: MOST_COMPLAINTS - 1]
        also = [f"line {self.line_of(p)}: {_name(p)}{w}" for p, w in shown]
        if len(others) > len(shown):
            also.append(f"and {len(others) - len(shown)} more")
        raise self.wrong(place, "; ".join([what, *also]))


def load_yaml(path: Path) -> Document:
    """Read a file of one YAML document (safe types only, UTF-8, at most 1 MB).

    Raises `Misconfigured` when it cannot be read, is not YAML, or says a key twice.
    """
    loader = None
    try:
        loader = _Loader(_read(path))
        root = loader.get_single_node()
        for key, first in _repeated(root):
            raise _misconfigured(path, _line(key), f"{key.value}: was said before, in line {_line(first)}.")
        return Document(path, None if root is None else loader.construct_document(root), root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"this is not YAML: {error.problem or error.context}."
        raise _misconfigured(path, mark.line + 1 if mark else 1, what) from None
    except yaml.reader.ReaderError as error:
        raise _misconfigured(path, 1, f"this is not YAML: {error.reason}.") from None
    except RecursionError:
        raise _misconfigured(path, 1, "this is nested too deeply.") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """The safe loader; values that look like a number or a date and are none get a line too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError:
            kind = node.tag.rpartition(":")[2]
            problem = f"this looks like a {kind} and is none (put quotes round it)"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Misconfigured(
            f"{path}: the file cannot be read: {error.strerror}.", "Make it readable, then try again."
        ) from None
    if len(raw) > MOST_BYTES:
        raise Misconfigured(f"{path}: the file is larger than {MOST_BYTES} bytes.", "Is it the right one?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _misconfigured(path, line, "this is not UTF-8.", "Save the file as UTF-8.") from None


def _repeated(root: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys that a mapping says twice, each with its first place."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias leads to the same node again
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: dict[Any, yaml.Node] = {}
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        yield key, keys[key.value]
                    keys[key.value] = key
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The node that names the step and the node it leads to."""
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # merged-in keys come first and lose
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step], node.value[step]
    return None, None


def _line(node: yaml.Node | None) -> int:
    return 1 if node is None else node.start_mark.line + 1


def _what(kind: str, message: str) -> str:
    return _WORDS.get(kind, message.removeprefix("Value error, "))


def _name(place: Place) -> str:
    return ".".join(map(str, place)) + ": " if place else ""


def _misconfigured(path: Path, line: int, what: str, instruction: str = "", code: str = "") -> Misconfigured:
    ending = "" if what.endswith((".", "!", "?")) else "."
    return Misconfigured(
        f"{path}:{line}: {what}{ending}",
        instruction or "Correct the file, then try again.",
        code=code,
        file=str(path),
        line=line,
    )
