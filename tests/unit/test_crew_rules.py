"""Pure decisions of the crew room."""

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.crew import rules
from quarterdeck.crew.model import Agent, Person, Role

TABLES = st.dictionaries(st.sampled_from("abc"), st.fixed_dictionaries({"name": st.sampled_from("xy")}))


@given(st.integers(1, 100), st.integers(0, 200), st.booleans())
def test_an_agent_never_has_more_runs_than_slots(most: int, open_runs: int, is_enabled: bool) -> None:
    agent = Agent(slug="developer", name="Developer", max_concurrent=most, is_enabled=is_enabled)
    free = rules.free_slots(agent, open_runs)
    assert free >= 0
    assert free == 0 or (is_enabled and open_runs + free == most)


@given(st.sampled_from(Role), st.booleans())
def test_rights_never_exceed_the_role(role: Role, may_approve: bool) -> None:
    person = Person(slug="anna", name="Anna", role=role, may_approve=may_approve)
    caller = rules.caller(person, "api")
    assert caller.is_owner == (role is Role.OWNER)
    assert caller.may_write == (role is not Role.VIEWER)
    assert caller.may_approve == (role is Role.OWNER or (role is Role.MEMBER and may_approve))


@given(TABLES, TABLES)
def test_drift_is_told_exactly_for_what_differs(
    file: dict[str, dict[str, str]], table: dict[str, dict[str, str]]
) -> None:
    told = list(rules.drift("Agent", file, table))
    differing = [slug for slug in sorted({*file, *table}) if file.get(slug) != table.get(slug)]
    assert [sentence.split()[1] for sentence in told] == differing
