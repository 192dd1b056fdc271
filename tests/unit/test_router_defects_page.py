"""The page of defects that must not come back: complete, and every test on it exists."""

import ast
import re
from functools import cache

import pytest

from deployments.supervisor import ROOT

PAGE = ROOT / "docs" / "router-defects.md"
ALL = [f"D-{number:02d}" for number in range(1, 74)]


@cache
def table() -> dict[str, list[str]]:
    """The tests of each number."""
    rows = re.findall(r"^\| (D-\d\d) \| [^|]+ \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len({number for number, _ in rows}), "a number stands there twice"
    return {number: re.findall(r"`([^`]+)`", tests) for number, tests in rows}


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_defect_is_on_the_page_in_order() -> None:
    assert list(table()) == ALL


@pytest.mark.parametrize("number", ALL)
def test_a_defect_is_guarded_by_tests_that_exist(number: str) -> None:
    assert table()[number]
    for name in table()[number]:
        file, _, test = name.partition("::")
        assert test.startswith("test_")
        assert test in functions(file), f"{name} does not exist"
