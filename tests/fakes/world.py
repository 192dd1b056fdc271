"""A company that works with the whole world: issues in Plane, an analyst in OpenClaw, code in Gitea.

    prepare(surroundings, openclaw)
    async with world(await open_desk(), folder, {"url": …, "token": …}) as here:
        await travel(here)

What happens outside is told at the real doors, each delivery twice; what is put on `losing` never arrives.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from quarterdeck.board.cards import Card, ProjectDraft, Wanted
from quarterdeck.board.model import State
from quarterdeck.kernel.connections import Source
from quarterdeck.pipeline.mirror_sweep import sweep
from tests.fakes.doors import desk_doors
from tests.fakes.gitea_house import BRANCH, KEY, REPOSITORY, GiteaCompany, gitea_company
from tests.fakes.gitea_house import leave_the_word_to_people as silence_the_reviewer
from tests.fakes.plane import FakePlane
from tests.fakes.plane_hooks import Hook
from tests.fakes.quiet_desk import OWNER, QuietDesk, Surroundings

DOCUMENTS = ("brd", "specification", "acceptance")
ANALYSIS = "\n".join(
    f"=== docs/items/{KEY}/{name}.md ===\n# {name.capitalize()}\nGreet the user by name."
    for name in DOCUMENTS
)
"""What the analyst answers: every document that the stage needs."""


class PlanePost:
    """Brings to the desk's door what Plane tells: everything twice, except what is lost."""

    def __init__(self, plane: FakePlane, door: httpx.AsyncBaseTransport) -> None:
        self._plane = plane
        self._client = httpx.AsyncClient(transport=door, base_url="http://desk.test")
        self._brought = 0
        self.losing: Counter[str] = Counter()
        self.lost: list[str] = []
        self.answers: list[str] = []

    async def bring(self) -> None:
        """What was told since the last time."""
        hooks, self._brought = self._plane.hooks[self._brought :], len(self._plane.hooks)
        for hook in hooks:
            if self.losing[hook.about] > 0:
                self.losing[hook.about] -= 1
                self.lost.append(hook.about)
                continue
            self.answers += [await self._ring(hook) for _ in range(2)]

    async def _ring(self, hook: Hook) -> str:
        answer = await self._client.post("/webhooks/plane", content=hook.body, headers=dict(hook.headers))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["status"])

    async def close(self) -> None:
        await self._client.aclose()


class World(GiteaCompany):
    """The company of the Gitea tests, with a Plane in front of it. anna is known in both, and may approve."""

    plane: FakePlane
    plane_post: PlanePost
    anna: str
    project: str

    async def hear(self) -> None:
        await self.plane_post.bring()
        await super().hear()

    async def look_for_what_was_lost(self) -> None:
        """As the schedules do: Plane is read, and every waiting item is looked at."""
        await sweep(self.desk.house.mirror)
        self.plane.rest()
        await self.wait_for_a_look()

    async def tell_plane(self) -> None:
        """Do in Plane what waits to be done, and hear what Plane says about it."""
        await self.desk.house.posts.work_off()
        self.plane.rest()
        await self.hear()

    def looks_at_ci(self) -> int:
        """How often Gitea was asked what its CI says."""
        return sum(call.path.endswith("/status") for call in self.gitea.calls)

    async def items(self) -> list[Card]:
        return (await self.desk.house.board.items(Wanted())).items


def prepare(surroundings: Surroundings, plane: FakePlane) -> None:
    """Before the desk is opened: the analyst lives in OpenClaw, and anna is known to Plane and Gitea."""
    silence_the_reviewer(surroundings)
    analyst = next(agent for agent in surroundings.crew["agents"] if agent["slug"] == "analyst")
    analyst |= {"runtime": "openclaw", "parameters": {}}
    handles = {"plane": plane.books.person("anna"), "gitea": "anna"}
    surroundings.crew["people"] = [{"slug": "anna", "may_approve": True, "handles": handles}]


@asynccontextmanager
async def world(
    desk: QuietDesk, folder: Path, plane: FakePlane, openclaw: Mapping[str, str]
) -> AsyncIterator[World]:
    """The desk, connected to all of them; the project ET has its code in Gitea and follows Plane's ORC."""
    house = desk.house
    async with gitea_company(desk, folder) as company:
        here = World(desk, company.gitea, company.repo, company.clock)
        here.plane, here.plane_post = plane, PlanePost(plane, httpx.ASGITransport(app=desk_doors(house)))
        here.anna = next(i for i, who in plane.books.people.items() if who["display_name"] == "anna")
        here.project = plane.books.project("ORC")
        async with house.database.command("connect") as unit:
            await house.connections.put(unit, "plane", "default", plane.connection, Source.API)
            await house.connections.put(unit, "openclaw", "default", dict(openclaw), Source.API)
        draft = ProjectDraft(key="ET", name="Enduro", repository=REPOSITORY)
        await house.board.create_project(OWNER, draft)
        await house.mirror.link(OWNER, "ET", "ORC")
        await here.install_hooks()
        company.gitea.post.twice = True
        yield here
        await here.plane_post.close()


async def travel(here: World) -> None:
    """One item's whole way, from an issue in Plane to done there, with all that can be lost on it."""
    issue = await _filed(here)
    await _approved(here, issue)
    await _developed(here)
    await _reviewed_and_merged(here)
    await here.tell_plane()
    assert here.plane.state(issue) == "Done"
    assert [card.key for card in await here.items()] == [KEY]
    await _nothing_was_done_twice(here, issue)


async def _filed(here: World) -> str:
    books, losing = here.plane.books, here.plane_post.losing
    losing.update(["issue created", "issue updated"])
    issue = books.file(here.project, here.anna, "Greet the user", description_html="<p>By name</p>")
    await here.hear()
    assert await here.items() == []
    await here.look_for_what_was_lost()
    assert [card.title for card in await here.items()] == ["Greet the user"]
    books.change(issue, here.anna, name="Greet the user by name")
    await here.hear()
    assert [card.title for card in await here.items()] == ["Greet the user"]
    books.change(issue, here.anna, priority="high")
    await here.hear()
    (card,) = await here.items()
    assert (card.title, card.priority.value) == ("Greet the user by name", "high")
    return issue


async def _approved(here: World, issue: str) -> None:
    """The analyst has its turn; a stranger's yes counts for nothing; anna's never arrives, and is found."""
    card = await here.until("analysis", State.WAITING_APPROVAL)
    await here.tell_plane()
    assert here.plane.state(issue) == "In Progress"
    assert len([text for text in here.plane.comments(issue) if ":approved:" in text]) == 1
    here.plane.books.say(issue, here.plane.books.person("stranger"), "<p>:approved:</p>")
    await here.hear()
    here.plane_post.losing["issue_comment created"] += 1
    here.plane.books.say(issue, here.anna, "<p>Looks right <b>:approved:</b></p>")
    await here.hear()
    assert (await here.desk.house.board.item(card.key)).state is State.WAITING_APPROVAL
    await here.look_for_what_was_lost()
    approval = await here.desk.house.engine.approval_of(KEY)
    assert approval and (approval.decided_by, approval.door) == ("anna", "plane")
    here.plane.books.say(issue, here.anna, "<p>As I said: <b>:approved:</b></p>")


async def _developed(here: World) -> None:
    """CI's first words are lost, those on an older commit count for nothing, its last ones arrive twice."""
    gitea, repo = here.gitea, here.repo
    gitea.post.losing = Counter(("status", "workflow_run", "push", "pull_request"))
    await here.until("development", State.WAITING_GATE)
    head = (await here.pull()).head
    await gitea.report(repo, head, "pending")  # lost
    await gitea.workflow(repo, head, BRANCH, "in_progress")  # lost
    asked = here.looks_at_ci()
    await here.until("development", State.WAITING_GATE)
    assert here.looks_at_ci() == asked, "nobody told, so nobody looked"
    await here.look_for_what_was_lost()
    await here.until("development", State.WAITING_GATE)
    assert here.looks_at_ci() > asked
    older = await repo.commit(f"{head}~1")
    assert older
    await gitea.workflow(repo, older, BRANCH, "completed", "success", "older.yaml")
    await gitea.report(repo, older, "success")
    await here.look_for_what_was_lost()
    await here.until("development", State.WAITING_GATE)
    await gitea.workflow(repo, head, BRANCH, "completed", "success")
    await gitea.report(repo, head, "success")
    await here.until("review", State.WAITING_GATE)


async def _reviewed_and_merged(here: World) -> None:
    """Both words of anna are lost, and found; that to an older commit counts for nothing.

    The first try to merge comes too early for Gitea.
    """
    here.gitea.post.losing.update(["pull_request_approved"] * 2)
    pull = await here.pull()
    older = await here.repo.commit(f"{pull.head}~1")
    await here.gitea.review(here.repo, pull.number, "APPROVED", commit=str(older))
    await here.look_for_what_was_lost()
    await here.until("review", State.WAITING_GATE)
    await here.gitea.review(here.repo, pull.number, "APPROVED")
    await here.until("review", State.WAITING_GATE)
    here.repo.pull(1).computing = 1
    await here.look_for_what_was_lost()
    await here.until("done", State.DONE)
    assert here.repo.head("main") == (await here.pull()).merged_commit
    assert any((call.path.endswith("/merge"), call.status) == (True, 405) for call in here.gitea.calls)


async def _nothing_was_done_twice(here: World, issue: str) -> None:
    counted = await here.kinds()
    assert (counted["item_done"], counted["agent_started"], counted["approval_decided"]) == (1, 4, 1)
    said = here.plane.comments(issue)
    assert len(said) == 6, said  # the question, the stranger's yes and anna's two, the answers to two of them
    assert set(here.plane_post.lost) == {"issue created", "issue updated", "issue_comment created"}
    kinds = {"status", "workflow_run", "push", "pull_request", "pull_request_approved"}
    assert set(here.gitea.post.lost) == kinds
    assert {sent.status for sent in here.gitea.sent} == {202}
    answers = Counter(here.plane_post.answers)
    assert answers["accepted"] == answers["known"] > 0
    outcomes = Counter(await here.outcomes())
    assert outcomes[f"ci/tests: success: woke {KEY}"] == 1, "once, though it was told twice"
    assert outcomes[f"push to {BRANCH}: the desk did that itself"] == 2, "one of its three was lost"
    assert outcomes["It is the desk's own."] == 1, "its question names the marker"
