"""An answer in words is taken apart without changing what is in its files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.crew.answer import parse
from quarterdeck.kernel.errors import Invalid

BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""What Python takes for ends of lines, and neither git nor editors do."""

LINE = st.text(f"ab \t{BREAKS}", max_size=6)


@given(st.lists(LINE, min_size=1, max_size=6))
def test_every_character_of_a_fenced_file_is_kept(lines: list[str]) -> None:
    content = "\n".join(lines) + "\n"
    told = parse(f"Here.\n=== a.js ===\n```js\n{content}```\n=== end ===\n")
    assert told.files == {"a.js": content}


def test_a_file_without_a_fence_keeps_its_lines_and_not_the_empty_ones_around_it() -> None:
    text = f"let a = '{BREAKS}';\n\nlet b;"
    assert parse(f"=== a.js ===\n\n{text}\n\n").files == {"a.js": f"{text}\n"}


def test_lines_that_end_as_on_windows_end_as_everywhere() -> None:
    told = parse("Here.\r\n=== a.md ===\r\n# A\r\n\r\nb\r\n=== end ===\r\nDone.\r\n")
    assert (told.files, told.summary) == ({"a.md": "# A\n\nb\n"}, "Here.\n\nDone.")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside.md", "a/../../b", ".git/config", "a/.GIT/b", "c:\\x", "a//b", "a/./b"]
)
def test_a_path_that_leads_out_of_the_work_tree_or_into_git_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="wanted to write") as refusal:
        parse(f"=== good.md ===\nGood.\n=== {path} ===\nowned\n=== end ===\n")
    assert refusal.value.code == "bad_path"
