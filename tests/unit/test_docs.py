"""The documentation is true: it names what there is, its links lead somewhere, it is up to date."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from blocks.registry import BLOCKS
from deployments import generated
from deployments.catalogue import CATALOGUE
from deployments.cli import app
from deployments.generated import REFERENCE, ROOT
from quarterdeck.kernel.errors import Misconfigured
from quarterdeck.notify.texts import KINDS
from quarterdeck.pipeline.definition import Pipeline, Stage
from quarterdeck.pipeline.doors import DOORS
from quarterdeck.pipeline.gates import GATES
from quarterdeck.router import config

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
OPERATIONS = ROOT / "deployments" / "operations"
DECISIONS = sorted(DOCS.glob("decisions/0*.md"))
COMMANDS = [path for path, _ in generated.leaves(get_command(app))]
PACKAGES = ("quarterdeck", "flows", "tasks", "blocks", "deployments")
SOURCES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_something(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name(page)} links to {link}"
        if anchor:
            assert anchor in anchors(path), f"{name(page)} links to {link}"


def test_every_page_can_be_found_from_the_index() -> None:
    index, seen = DOCS / "README.md", set()
    waiting = [index]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for link in links(page):
            path = (page.parent / link.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.is_file() and path not in seen:
                waiting.append(path)
    assert {name(page) for page in DOCS.rglob("*.md")} <= {name(page) for page in seen}


@pytest.mark.parametrize("path", generated.files(), ids=name)
def test_what_is_generated_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == generated.files()[path], "run `make docs`"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_what_its_options_mean(words: tuple[str, ...]) -> None:
    command = dict(generated.leaves(get_command(app)))[words]
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_the_text_exists(page: Path) -> None:
    words = {word for command in COMMANDS for word in [" ".join(command), " ".join(command[:2])]}
    for line in re.findall(r"(?:^    |`)quarterdeck ([a-z][a-z -]*)", page.read_text("utf-8"), re.MULTILINE):
        said = line.strip().split()
        known = {" ".join(["quarterdeck", *said[:n]]) for n in (1, 2)}
        assert known & words, f"{name(page)} says `quarterdeck {line}`"


def test_every_make_target_in_the_text_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE):
            assert target in targets, f"{name(page)} says `make {target}`"


def test_every_page_that_code_and_operations_name_exists() -> None:
    texts = [*SOURCES, *OPERATIONS.iterdir(), ROOT / "Makefile", ROOT / "prefect.yaml"]
    named = {
        (name(source), page)
        for source in texts
        for page in re.findall(r"\bdocs/[\w./-]+\.md\b", source.read_text("utf-8"))
    }
    missing = {(source, page) for source, page in named if not (ROOT / page).exists()}
    assert named and missing == {("quarterdeck/forge/rules.py", "docs/readme.md")}  # an example of a path


def test_every_block_is_named_as_people_find_it_in_prefect() -> None:
    forms = {form._block_type_name for form in BLOCKS}
    assert {door.block for door in DOORS.values()} <= forms
    for source in [*PAGES, *SOURCES]:
        for named in re.findall(r"\bblock (?:`|\*\*)([^{`*]+)[`*]", source.read_text("utf-8")):
            assert named in {*forms, "default"}, f"{name(source)} names the block {named}"


def test_every_unit_that_is_named_exists() -> None:
    for source in [*PAGES, *OPERATIONS.iterdir()]:
        for unit in re.findall(r"\b(quarterdeck[\w-]*\.service)\b", source.read_text("utf-8")):
            assert (OPERATIONS / unit).exists(), f"{name(source)} names {unit}"


def test_every_variable_of_ours_that_the_code_reads_is_documented() -> None:
    documented = "".join(page.read_text("utf-8") for page in REFERENCE.glob("*.md"))
    for source in SOURCES:
        for variable in re.findall(r"\bQUARTERDECK_[A-Z_]*[A-Z]", source.read_text("utf-8")):
            assert f"`{variable}`" in documented, f"{name(source)} reads {variable}"


def test_an_error_of_a_routers_setting_names_the_page_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_PORT", "canary")
    with pytest.raises(Misconfigured) as error:
        config.load()
    (page,) = re.findall(r"docs/[\w./-]+\.md", error.value.instruction)
    assert "`SIDECAR_PORT`" in (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_event_is_documented(kind: str) -> None:
    assert f"| `{kind}` |" in (REFERENCE / "events.md").read_text("utf-8")


@pytest.mark.parametrize("key", [*Pipeline.model_fields, *Stage.model_fields, *GATES])
def test_every_key_and_gate_of_a_pipeline_is_documented(key: str) -> None:
    assert f"`{key}" in (REFERENCE / "pipelines.md").read_text("utf-8")


@pytest.mark.parametrize("page", [DOCS / "how-to/write-a-pipeline.md", REFERENCE / "pipelines.md"], ids=name)
def test_a_pipeline_in_the_text_can_be_taken_over_and_merges_only_after_a_review(page: Path) -> None:
    shown = re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert shown
    for text in shown:
        pipeline = Pipeline.model_validate(yaml.safe_load(textwrap.dedent(text)))
        assert pipeline.asks("check_review_approved") or not pipeline.asks("check_merged")


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_says_context_choice_and_consequence(page: Path) -> None:
    text = page.read_text("utf-8")
    number = int(page.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == ["Context", "Choice", "Consequence"]
    assert f"[{number}]({page.name})" in (page.parent / "README.md").read_text("utf-8")


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_every_deployment_says_what_it_is_for() -> None:
    assert all(entry.description for entry in CATALOGUE)
