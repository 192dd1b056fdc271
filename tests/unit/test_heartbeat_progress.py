"""How far work came: read off task lists, kept, told when its rounds are used up, and gone on from."""

from pathlib import Path

import pytest

from quarterdeck.heartbeat.progress import MOST, NO_PROGRESS, Progress, of_run, of_text, question
from quarterdeck.heartbeat.work import Status
from quarterdeck.kernel.database import Database
from tests.fakes.surroundings import OWNER
from tests.fakes.watch import Watch

REPORT = """The cause is found.

- [x] find the cause
* [X] tell the team
1. [ ] mend it
"""


@pytest.fixture
async def watch(database: Database, tmp_path: Path) -> Watch:
    made = Watch(database, tmp_path)
    await made.enrol(category="business")
    return made


async def test_what_is_paused_for_want_of_rounds_tells_which_steps_are_finished_and_which_are_left(
    watch: Watch,
) -> None:
    watch.multica.put("ENG-1", "Fix the login")
    await watch.sweep()
    await watch.end_runs(exit_code=1, error="out of tokens", says=REPORT)
    watch.multica.change("ENG-1", rounds=30)
    watch.minutes(15)
    await watch.sweep()
    [told] = await watch.facts("rounds_exhausted")
    assert (told["finished"], told["unfinished"]) == (["find the cause", "tell the team"], ["mend it"])
    [(_, why)] = watch.multica.said("block")
    assert why.splitlines()[2:] == ["- [x] find the cause", "- [x] tell the team", "- [ ] mend it"]
    [card] = [card for card in await watch.sweeper.overview() if card.agent == "developer"]
    assert (card.breakers[0].finished, card.breakers[0].unfinished) == (told["finished"], told["unfinished"])


async def test_what_has_more_rounds_goes_on_from_where_it_was(watch: Watch) -> None:
    watch.multica.put("ENG-1", "Fix the login", description="- [ ] find the cause\n- [ ] mend it")
    await watch.sweep()
    assert "came this far" not in (await watch.runs())[0].prompt
    await watch.end_runs(exit_code=1, error="out of tokens", says=REPORT)
    watch.multica.change("ENG-1", rounds=30)
    watch.minutes(15)
    await watch.sweep()
    await watch.sweeper.raise_limit(OWNER, "developer", "multica:ENG-1", 60)
    await watch.sweeper.settle()
    await watch.sweep()
    prompt = (await watch.runs())[1].prompt
    assert prompt.endswith("go on from there:\n- [x] find the cause\n- [x] tell the team\n- [ ] mend it")


async def test_without_a_word_of_its_steps_the_whole_of_it_is_left(watch: Watch) -> None:
    watch.multica.put("ENG-1", "Fix the login", status=Status.IN_PROGRESS, rounds=30)
    await watch.sweep()
    [told] = await watch.facts("rounds_exhausted")
    assert (told["finished"], told["unfinished"]) == ([], ["Fix the login"])


async def test_the_steps_of_a_description_count_until_a_run_says_more(watch: Watch) -> None:
    steps = "- [x] find the cause\n- [ ] mend it"
    watch.multica.put("ENG-1", status=Status.IN_PROGRESS, rounds=30, description=steps)
    await watch.sweep()
    [told] = await watch.facts("rounds_exhausted")
    assert (told["finished"], told["unfinished"]) == (["find the cause"], ["mend it"])


# Asking


async def test_a_run_that_only_asks_is_not_done_and_the_next_one_decides_itself(watch: Watch) -> None:
    watch.multica.put("ENG-1")
    await watch.sweep()
    await watch.end_runs(says="There are two ways.\nWhich do you prefer, or should I take the first one?")
    assert watch.multica.status("ENG-1") is Status.TODO
    [told] = await watch.facts("work_unfinished")
    assert told["reason"].startswith("it asked instead of going on: Which do you prefer")
    watch.minutes(15)
    await watch.sweep()
    prompt = (await watch.runs())[1].prompt
    assert "Which do you prefer" in prompt and "Decide it yourself" in prompt
    await watch.end_runs(says="I took the first one.")
    assert watch.multica.status("ENG-1") is Status.IN_REVIEW


async def test_one_question_after_the_other_opens_the_breaker_however_they_are_worded(watch: Watch) -> None:
    watch.multica.put("ENG-1")
    for asked in ("Shall I begin?", "May I begin now?", "Do you want me to begin?", "Should I?"):
        await watch.sweep()
        await watch.end_runs(says=asked)
        watch.minutes(15)
    assert (len(await watch.runs()), watch.multica.status("ENG-1")) == (3, Status.BLOCKED)


@pytest.mark.parametrize(
    "said",
    [
        "Shall I begin?", "Please confirm: is it the first one?", "Мне продолжать?", "Хотите, чтобы я начал?",
        "Мені починати?", "请确认，可以开始吗？", "I looked at it.\n\nWould you like me to mend it?\n",
    ],
)  # fmt: skip
def test_a_question_is_known_in_every_language_of_the_house(said: str) -> None:
    assert question(said) == said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "said",
    [
        "", "Done.", "Why it failed? The key had expired.", "What is left?", "Shall I begin? I did.",
        "- [x] mended it\n\nShould I deploy it, too?",
    ],
)  # fmt: skip
def test_what_reports_work_is_no_question(said: str) -> None:
    assert question(said) == ""


# Steps


def test_a_report_without_a_task_list_is_one_finished_step_if_it_is_done() -> None:
    assert of_run("\nMended it.\nAll tests pass.", is_done=True) == Progress(finished=("Mended it.",))
    assert of_run("It broke.", is_done=False) == of_run("", is_done=True) == NO_PROGRESS


def test_what_was_said_last_counts_and_no_step_stands_twice() -> None:
    before = Progress(("a",), ("b", "c"))
    assert before.then(Progress(("b",), ("d",))) == Progress(("a", "b"), ("d",))
    assert before.then(Progress((), ("a",))) == Progress((), ("a",))
    assert before.then(NO_PROGRESS) == before
    assert Progress.kept(before.to_keep()) == before


def test_steps_of_whatever_length_and_number_stay_within_bounds() -> None:
    many = of_text("\n".join(f"- [x] step {number} {'x' * 10_000}" for number in range(500)))
    kept = NO_PROGRESS.then(many)
    assert len(kept.finished) == MOST and kept.finished[-1].startswith("step 499")
    assert all(len(step) <= 200 for step in kept.finished)
    assert of_text("- [x] \n- []\n[x] no item\n- [y] what") == NO_PROGRESS
