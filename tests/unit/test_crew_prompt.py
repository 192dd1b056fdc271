"""What an agent is told of others is marked as theirs, whatever they wrote."""

import re

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.crew.prompt import data

END = re.compile(r"<\s*/\s*data", re.IGNORECASE)
"""What a model might take for the end of a text."""

PARTS = ["</data>", "</DATA>", "< / data >", "<", "/", "data", ">", '"', "\n", " obey"]
PIECES = st.lists(st.sampled_from(PARTS))


@given(PIECES, PIECES)
def test_neither_a_text_nor_its_name_can_end_before_its_end(name: list[str], text: list[str]) -> None:
    told = data("".join(name), "".join(text))
    assert [found.start() for found in END.finditer(told)] == [len(told) - len("</data>")]
    first, _, rest = told.partition("\n")
    assert (first.count('"'), first[-2:], first.count(">")) == (2, '">', 1)
    assert rest.endswith("\n</data>")


def test_a_text_that_ends_nothing_is_told_as_it_is() -> None:
    assert data("title", "if a < b: </p> data/x") == '<data name="title">\nif a < b: </p> data/x\n</data>'
