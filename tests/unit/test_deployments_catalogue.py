"""The catalogue, and the file that is made from it."""

import subprocess
import sys

import pytest
import yaml

from deployments import catalogue
from deployments.supervisor import ROOT
from quarterdeck.kernel.errors import NotFound


def test_prefect_yaml_says_what_the_catalogue_says() -> None:
    assert catalogue.FILE.read_text(encoding="utf-8") == catalogue.render(), (
        "run `python -m deployments.catalogue`"
    )


def test_prefect_yaml_names_every_entry_once() -> None:
    names = [entry["name"] for entry in yaml.safe_load(catalogue.render())["deployments"]]
    assert sorted(names) == sorted({entry.name for entry in catalogue.CATALOGUE})


@pytest.mark.parametrize("entry", catalogue.CATALOGUE, ids=lambda entry: entry.name)
def test_every_flow_can_be_loaded_and_is_asynchronous(entry: catalogue.Entry) -> None:
    flow = entry.load()
    assert flow.isasync
    assert flow.persist_result is False
    assert flow.description


@pytest.mark.parametrize("entry", catalogue.CATALOGUE, ids=lambda entry: entry.name)
def test_default_parameters_are_parameters_of_the_flow(entry: catalogue.Entry) -> None:
    assert set(entry.parameters) <= set(entry.load().parameters.properties)


@pytest.mark.parametrize("name", ["approval", "deliver", "keep-house"])
def test_a_flow_in_a_process_of_its_own_has_a_time_limit(name: str) -> None:
    assert catalogue.find(name).load().timeout_seconds


def test_stage_asks_for_item_stage_and_round() -> None:
    schema = catalogue.find("stage").load().parameters
    assert set(schema.properties) == {"item", "stage", "round"}
    assert schema.required == ["item"]


def test_an_unknown_deployment_is_answered_with_those_that_exist() -> None:
    with pytest.raises(NotFound, match="keep-house") as refusal:
        catalogue.find("keep-hause")
    assert refusal.value.code == "unknown_deployment"


def test_reading_the_catalogue_imports_neither_flows_nor_prefect() -> None:
    script = "import sys, deployments.catalogue; print({'flows', 'prefect'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
