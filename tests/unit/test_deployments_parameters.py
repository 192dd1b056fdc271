"""What a deployment may be started with."""

from typing import Any

import pytest

from deployments.starting import check
from quarterdeck.kernel.errors import Invalid

SCHEMA: dict[str, Any] = {
    "title": "Parameters",
    "type": "object",
    "properties": {
        "item": {"type": "string", "position": 0},
        "round": {"type": "integer", "minimum": 0, "default": 0},
        "approval": {"type": "string", "format": "uuid"},
    },
    "required": ["item"],
    "definitions": {},
}


def test_parameters_that_fit_are_let_through() -> None:
    check({"item": "ET-007", "round": 2, "approval": "3f2b8c1e-9f58-4f6f-8a80-6f7d3b1a2c4d"}, SCHEMA)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters.item"),
        ({"item": 7}, "parameters.item"),
        ({"item": "ET-007", "round": "two"}, "parameters.round"),
        ({"item": "ET-007", "round": -1}, "parameters.round"),
        ({"item": "ET-007", "approval": "nonsense"}, "parameters.approval"),
        ({"item": "ET-007", "colour": "red"}, "parameters.colour"),
        ({"item": {"__prefect_kind": "jinja", "template": "{{ 1 }}"}}, "parameters.item"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_field(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        check(parameters, SCHEMA)
    assert refusal.value.data["field"] == field
    assert "item, round, approval" in refusal.value.instruction


def test_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(Invalid) as refusal:
        check({"item": "ET-007", "round": "hunter2"}, SCHEMA)
    assert "hunter2" not in str(refusal.value)
