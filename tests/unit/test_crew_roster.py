"""The roster file: every mistake is named with its line, and the tables become what it says."""

from pathlib import Path

import pytest
import yaml

from quarterdeck.crew.roster import AgentEntry, Roster, check_entry, read_roster
from quarterdeck.crew.service import Crew
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import Invalid, Misconfigured, NotFound, Unauthorized

ROSTER = """\
agents:
  - slug: analyst
    parameters: {program: agents/analyst, args: [--fast]}
  - slug: developer
    name: Dev
    max_concurrent: 2
    parameters:
      program: develop
      env: {MODEL_KEY: null}
people:
  - slug: anna
    role: member
    may_approve: true
    handles: {telegram: 4711}
    token_env: ANNA_TOKEN
  - slug: viktor
    role: viewer
notifications:
  - channel: log
"""


@pytest.fixture
def crew(database: Database, tmp_path: Path) -> Crew:
    return Crew(database, {}, tmp_path / "runs")


def roster(folder: Path, text: str = ROSTER) -> Roster:
    path = folder / "crew.yaml"
    path.write_text(text)
    return read_roster(path)


def test_a_roster_says_who_works_here(tmp_path: Path) -> None:
    found = roster(tmp_path)
    assert [agent.slug for agent in found.agents] == ["analyst", "developer"]
    assert found.agents[0].columns()["name"] == "Analyst"
    assert found.agents[0].parameters["program"] == str(tmp_path / "agents/analyst")
    assert found.agents[1].parameters["program"] == "develop"
    assert found.people[0].handles == {"telegram": "4711"}
    assert found.notifications == [{"channel": "log"}]


@pytest.mark.parametrize(
    ("said", "meant"),
    [("spaces/coo", "{here}/spaces/coo"), ("/srv/coo", "/srv/coo"), ("~/coo", "{home}/coo")],
)
def test_the_folder_of_to_do_documents_is_the_same_one_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, meant: str
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    beat = {"category": "business", "workspace": said}
    entry = {"slug": "coo", "parameters": {"program": "a"}, "heartbeat": beat}
    found = roster(tmp_path, yaml.safe_dump({"agents": [entry]}))
    assert found.agents[0].heartbeat == beat | {"workspace": meant.format(here=tmp_path, home=home)}


def test_a_home_that_nobody_has_is_named_with_its_line(tmp_path: Path) -> None:
    beat = {"category": "business", "workspace": "~nobody-of-this-name/coo"}
    entry = {"slug": "coo", "parameters": {"program": "a"}, "heartbeat": beat}
    with pytest.raises(Misconfigured, match=r"crew\.yaml.*whose home is meant by '~nobody-of-this-name/coo'"):
        roster(tmp_path, yaml.safe_dump({"agents": [entry]}))


@pytest.mark.parametrize("workspace", ["spaces/coo", "~/coo", "."])
def test_an_entry_without_a_file_names_its_folder_in_full(workspace: str) -> None:
    beat = {"category": "business", "workspace": workspace}
    entry = AgentEntry(slug="coo", parameters={"program": "a"}, heartbeat=beat)
    with pytest.raises(Invalid, match=r"heartbeat\.workspace: must be an absolute path"):
        check_entry(entry)
    check_entry(entry.model_copy(update={"heartbeat": beat | {"workspace": "/srv/coo"}}))


def test_an_empty_file_is_a_small_company(tmp_path: Path) -> None:
    assert roster(tmp_path, "{}") == Roster()


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("slug: developer", "slug: Developer", 4, "slug: must be small letters"),
        ("slug: developer", "slug: analyst", 4, "the name analyst is taken"),
        ("slug: developer", "slug: engine", 4, "the name engine is taken"),
        ("slug: developer", "slug: owner", 4, "the name owner is taken"),
        ("slug: viktor", "slug: anna", 16, "the name anna is taken"),
        ("slug: viktor", "slug: developer", 16, "the name developer is taken"),
        ("name: Dev", "title: Dev", 5, "title: is not known here"),
        ("max_concurrent: 2", "max_concurrent: 0", 6, "max_concurrent: Input should be greater"),
        ("name: Dev", "runtime: magic", 5, "no runtime 'magic'; there is: agent_api, command"),
        ("program: develop", "programme: develop", 7, "program: Field required"),
        ("program: develop", "program: ''", 8, "program: String should have at least 1"),
        ("MODEL_KEY: null", "QUARTERDECK_TOKEN: null", 9, "QUARTERDECK_TOKEN belongs to the desk"),
        ("MODEL_KEY: null", "'A=B': x", 9, "cannot be the name of an environment variable"),
        ("role: viewer", "role: boss", 17, "role: Input should be"),
        ("role: viewer", "handles: {telegram: '4711'}", 17, "somebody else has this handle"),
        ("role: viewer", "handles: {pigeon: x}", 17, "handles.pigeon"),
        ("slug: viktor", "slug: owner", 17, "the owner's role is owner"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(
    tmp_path: Path, old: str, new: str, line: int, reason: str
) -> None:
    assert old in ROSTER
    with pytest.raises(Misconfigured) as caught:
        roster(tmp_path, ROSTER.replace(old, new))
    assert f"{tmp_path / 'crew.yaml'}:{line}: " in caught.value.detail
    assert reason in caught.value.detail


async def test_an_import_makes_the_tables_what_the_file_says(crew: Crew, tmp_path: Path) -> None:
    assert await crew.is_empty()
    told = await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    assert "Agent analyst is in the file, but not in the table." in told
    assert not await crew.is_empty()
    assert await crew.names() == {"analyst", "developer", "anna", "viktor"}
    developer = await crew.agent("developer")
    assert (developer.name, developer.max_concurrent) == ("Dev", 2)
    assert developer.parameters == {"program": "develop", "env": {"MODEL_KEY": None}}


async def test_an_import_can_be_repeated(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    before = [await crew.agent("developer"), *await crew.people()]
    assert await crew.drift(roster(tmp_path)) == []
    assert await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"}) == []
    assert [await crew.agent("developer"), *await crew.people()] == before


async def test_drift_is_told_in_sentences_without_secrets(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {})
    changed = yaml.safe_load(ROSTER)
    changed["agents"][1] |= {"max_concurrent": 5, "parameters": {"program": "x", "env": {"KEY": "canary"}}}
    changed["people"][1]["slug"] = "ivan"
    sentences = await crew.drift(roster(tmp_path, yaml.safe_dump(changed)))
    assert sentences == [
        "Agent developer differs: parameters, max_concurrent (file: 5, table: 2).",
        "Person ivan is in the file, but not in the table.",
        "Person viktor is in the table, but not in the file.",
    ]


async def test_who_left_the_file_is_taken_out_with_token_and_rights(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    await crew.import_roster(roster(tmp_path, "agents: [{slug: analyst, parameters: {program: a}}]"), {})
    assert await crew.names() == {"analyst"}
    with pytest.raises(Unauthorized):
        await crew.who("annas-token")
    with pytest.raises(NotFound, match="There is: analyst"):
        await crew.agent("developer")


async def test_a_token_says_who_is_asking_and_what_they_may_do(crew: Crew, tmp_path: Path) -> None:
    text = ROSTER.replace("slug: viktor", "slug: viktor\n    may_approve: true\n    token_env: VIKTOR_TOKEN")
    await crew.import_roster(roster(tmp_path, text), {"ANNA_TOKEN": "annas", "VIKTOR_TOKEN": "viktors"})
    anna, viktor = await crew.who("annas"), await crew.who("viktors")
    assert (anna.name, anna.door, anna.is_owner, anna.may_write, anna.may_approve) == (
        "anna",
        "api",
        False,
        True,
        True,
    )
    assert (viktor.may_write, viktor.may_approve) == (False, False)


@pytest.mark.parametrize("token", ["", "anna", "annas-toke", "annas-token ", "' or 1=1 --", "\x00", "\ud800"])
async def test_a_token_that_nobody_has_is_refused(crew: Crew, tmp_path: Path, token: str) -> None:
    await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    with pytest.raises(Unauthorized):
        await crew.who(token)


async def test_the_table_holds_no_token_that_could_be_used(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    (anna, _) = await crew.people()
    assert anna.token_hash and "annas-token" not in anna.token_hash
    with pytest.raises(Unauthorized):
        await crew.who(anna.token_hash)


async def test_a_token_whose_variable_is_not_set_now_stays(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    told = await crew.import_roster(roster(tmp_path), {})
    assert told == ["anna gets no token now: ANNA_TOKEN is not set."]
    assert (await crew.who("annas-token")).name == "anna"


async def test_a_token_that_the_file_no_longer_names_ends(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "annas-token"})
    await crew.import_roster(roster(tmp_path, ROSTER.replace("    token_env: ANNA_TOKEN\n", "")), {})
    with pytest.raises(Unauthorized):
        await crew.who("annas-token")


async def test_people_may_exchange_their_tokens_but_not_share_one(crew: Crew, tmp_path: Path) -> None:
    both = roster(tmp_path, ROSTER.replace("slug: viktor", "slug: viktor\n    token_env: VIKTOR_TOKEN"))
    await crew.import_roster(both, {"ANNA_TOKEN": "one", "VIKTOR_TOKEN": "two"})
    await crew.import_roster(both, {"ANNA_TOKEN": "two", "VIKTOR_TOKEN": "one"})
    assert (await crew.who("one")).name == "viktor"
    with pytest.raises(Misconfigured, match="anna and viktor have the same token"):
        await crew.import_roster(both, {"ANNA_TOKEN": "one", "VIKTOR_TOKEN": "one"})


async def test_the_owner_is_there_without_the_file_and_survives_it(crew: Crew, tmp_path: Path) -> None:
    assert not await crew.has_owner_token()
    await crew.set_owner_token("owners-first")
    await crew.set_owner_token("owners-token")
    assert await crew.is_empty()
    await crew.import_roster(roster(tmp_path), {})
    assert await crew.drift(roster(tmp_path)) == []
    owner = await crew.who("owners-token")
    assert owner.is_owner and owner.may_write and owner.may_approve
    with pytest.raises(Unauthorized):
        await crew.who("owners-first")


async def test_the_owner_can_be_described_in_the_file_and_keeps_the_token(crew: Crew, tmp_path: Path) -> None:
    await crew.set_owner_token("owners-token")
    text = "people: [{slug: owner, name: Boss, role: owner, handles: {telegram: 1}}]"
    await crew.import_roster(roster(tmp_path, text), {})
    assert (await crew.who("owners-token")).is_owner
    by_chat = await crew.by_handle("telegram", "1")
    assert by_chat and by_chat.is_owner and by_chat.door == "telegram"


async def test_nobody_can_be_given_the_owners_token(crew: Crew, tmp_path: Path) -> None:
    await crew.set_owner_token("owners-token")
    with pytest.raises(Misconfigured, match="anna would get the token that owner has"):
        await crew.import_roster(roster(tmp_path), {"ANNA_TOKEN": "owners-token"})
    assert await crew.is_empty()


async def test_a_door_knows_people_by_their_handle(crew: Crew, tmp_path: Path) -> None:
    await crew.import_roster(roster(tmp_path), {})
    anna = await crew.by_handle("telegram", "4711")
    assert anna and (anna.name, anna.door) == ("anna", "telegram")
    assert await crew.by_handle("matrix", "4711") is None
    assert await crew.by_handle("telegram", "") is None
