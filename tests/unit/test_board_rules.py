"""A way from an item back to itself is found when there is one, and only then."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.board.rules import cycle

keys = st.sampled_from([f"A-{number:03d}" for number in range(1, 8)])
graphs = st.dictionaries(keys, st.frozensets(keys, max_size=4), max_size=7)


def reachable(edges: dict[str, frozenset[str]], start: str) -> set[str]:
    """Everything that can be reached in one step or more, by growing until nothing is added."""
    found: set[str] = set(edges.get(start, ()))
    while more := {target for key in found for target in edges.get(key, ())} - found:
        found |= more
    return found


@given(graphs, keys)
def test_a_way_is_found_exactly_when_the_item_can_reach_itself(edges, start):
    assert bool(cycle(edges, start)) == (start in reachable(edges, start))


@given(graphs, keys)
def test_the_way_begins_and_ends_with_the_item_and_follows_links_without_detours(edges, start):
    way = cycle(edges, start)
    if way:
        assert way[0] == way[-1] == start
        assert all(target in edges[source] for source, target in pairwise(way))
        assert len(set(way)) == len(way) - 1


def test_the_way_is_told_in_the_order_of_waiting():
    edges = {"A-1": {"A-2"}, "A-2": {"A-3"}, "A-3": {"A-1", "A-4"}}
    assert cycle(edges, "A-1") == ("A-1", "A-2", "A-3", "A-1")


def test_an_item_that_waits_for_itself_is_the_shortest_cycle():
    assert cycle({"A-1": {"A-1", "A-2"}, "A-2": {"A-1"}}, "A-1") == ("A-1", "A-1")


def test_ten_thousand_items_in_a_row_are_no_cycle_and_no_trouble():
    chain = {f"A-{n}": {f"A-{n + 1}"} for n in range(10_000)}
    assert cycle(chain, "A-0") == ()
