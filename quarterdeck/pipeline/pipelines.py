"""Pipelines: taken from files into their table, and read from there whenever they count.

`setup --apply` changes them while desks are open, so nobody keeps them longer than a transaction.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from quarterdeck.board.model import OUTSIDE, WorkItem
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.documents import load_yaml
from quarterdeck.kernel.errors import Conflict, NotFound
from quarterdeck.pipeline import rules, store
from quarterdeck.pipeline.definition import Gate, Pipeline, Stage
from quarterdeck.pipeline.model import StoredPipeline


class Pipelines:
    """The pipelines there are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parsed: dict[str, tuple[dict[str, Any], Pipeline]] = {}

    async def load(self) -> Mapping[str, Pipeline]:
        """All pipelines of the table, by name."""
        async with self._database.read() as session:
            return await self.all(session)

    async def all(self, session: AsyncSession) -> Mapping[str, Pipeline]:
        return {row.name: self._parse(row) for row in await store.pipelines(session)}

    async def agents(self, session: AsyncSession) -> Mapping[tuple[str, str], str]:
        """Whose stage it is, by pipeline and stage; those of the engine are left out."""
        return {
            (pipeline.name, stage.name): stage.agent
            for pipeline in (await self.all(session)).values()
            for stage in pipeline.stages
            if not stage.is_engine
        }

    def _parse(self, row: StoredPipeline) -> Pipeline:
        """Once for each definition."""
        definition, pipeline = self._parsed.get(row.name, (None, None))
        if pipeline is None or definition != row.definition:
            pipeline = Pipeline.model_validate(row.definition)
            self._parsed[row.name] = (row.definition, pipeline)
        return pipeline

    async def one(self, session: AsyncSession, name: str) -> Pipeline:
        """Raises `NotFound` naming the pipelines there are."""
        if row := await store.pipeline(session, name):
            return self._parse(row)
        raise NotFound.among("pipeline", name, await self.all(session))

    async def way_of(self, session: AsyncSession, item: WorkItem) -> tuple[Pipeline, Stage]:
        """Its pipeline, and the stage it stands in. Raises `NotFound`, or `Conflict` if that is gone."""
        pipeline = await self.one(session, item.pipeline)
        stage = pipeline.stage(item.stage)
        if stage is None:
            ways = rules.ways_back(pipeline, item.stage, await store.stages_so_far(session, item.id))
            raise Conflict(
                f"{item.key} stands in {item.stage!r}, which pipeline {pipeline.name!r} no longer has.",
                f"`quarterdeck item move {item.key} STAGE` puts it into one that is there: {', '.join(ways)}."
                " Or put the stage back into the pipeline file, then `quarterdeck setup --apply`.",
                code="no_stage",
            )
        return pipeline, stage

    async def has_stage_of(self, session: AsyncSession, item: WorkItem) -> bool:
        """Is the stage in which it stands still in its pipeline? Raises `NotFound`."""
        return (await self.one(session, item.pipeline)).stage(item.stage) is not None

    async def way_back(self, session: AsyncSession, item: WorkItem, to: str) -> Stage:
        """The stage to which a person moves an item. Raises `NotFound`, or `Conflict` if it lies ahead."""
        pipeline = await self.one(session, item.pipeline)
        stage = pipeline.stage(to)
        if stage is None:
            raise NotFound.among("stage", to, [one.name for one in pipeline.stages])
        open_ways = rules.ways_back(pipeline, item.stage, await store.stages_so_far(session, item.id))
        if to not in open_ways:
            raise Conflict(
                f"{to} lies ahead of {item.key}, which stands in {item.stage}.",
                f"Only gates and approvals let it go on; it can be moved to: {', '.join(open_ways)}.",
                code="stage_ahead",
            )
        return stage

    async def first_stage(self, pipeline: str) -> str:
        """Where a new item of this pipeline starts. Raises `NotFound`, or `Conflict` where none is filed."""
        if pipeline == OUTSIDE:
            raise Conflict(
                "Nothing is filed there: it holds the work that heartbeats found elsewhere.",
                "Take another project: `quarterdeck project list`.",
                code="not_ours",
            )
        async with self._database.read() as session:
            return (await self.one(session, pipeline)).stages[0].name

    async def import_from(self, folder: Path, agents: Sequence[str]) -> list[str]:
        """Take the files of a folder into the table; returns the names that changed.

        Raises `Misconfigured` with file and line: nothing is imported then.
        """
        found = read_pipelines(folder, agents)
        async with self._database.command("import pipelines") as unit:
            stored = {row.name: row for row in await store.pipelines(unit.session)}
            changed = [pipeline for pipeline in found if _differs(pipeline, stored.get(pipeline.name))]
            for pipeline in changed:
                row = stored.get(pipeline.name) or StoredPipeline(
                    name=pipeline.name, definition={}, updated_at=unit.now
                )
                row.definition, row.updated_at = pipeline.model_dump(mode="json"), unit.now
                unit.session.add(row)
        return [pipeline.name for pipeline in changed]

    async def drift(self, folder: Path, agents: Sequence[str]) -> list[str]:
        """Sentences about pipelines whose file and table differ."""
        found = {pipeline.name: pipeline for pipeline in read_pipelines(folder, agents)}
        async with self._database.read() as session:
            stored = {row.name: row for row in await store.pipelines(session)}
        return [f"pipeline {n!r}: the file differs" for n, p in found.items() if _differs(p, stored.get(n))]

    async def orphans(self, folder: Path, agents: Sequence[str]) -> list[str]:
        """Sentences about pipelines that have no file any more, though projects file into them.

        One into which nobody files is no trouble: what is left of its items goes on with what is stored.
        """
        found = {pipeline.name for pipeline in read_pipelines(folder, agents)}
        async with self._database.read() as session:
            users = await store.projects_by_pipeline(session)
        return [
            f"pipeline {name!r} has no file, and {', '.join(keys)} still files into it: put the file back,"
            f" or `quarterdeck project edit {keys[0]} --pipeline …`"
            for name, keys in users.items()
            if name not in found
        ]

    async def in_use(self) -> Mapping[str, Pipeline]:
        """Those in which items stand that are open, or into which projects file."""
        async with self._database.read() as session:
            used = {*await store.projects_by_pipeline(session), *await store.pipelines_of_open_items(session)}
            return {name: one for name, one in (await self.all(session)).items() if name in used}


def read_pipelines(folder: Path, agents: Sequence[str]) -> list[Pipeline]:
    """All pipeline files of a folder, checked."""
    return [read_pipeline(path, agents) for path in sorted(folder.glob("*.yaml"))]


def read_pipeline(path: Path, agents: Sequence[str]) -> Pipeline:
    """One pipeline file, checked. Raises `Misconfigured` with file and line."""
    document = load_yaml(path)
    pipeline = document.validate(Pipeline)
    for position, stage in enumerate(pipeline.stages):
        if not stage.is_engine and stage.agent not in agents:
            raise document.wrong(
                ("stages", position, "agent"),
                f"stage {stage.name!r} needs the agent {stage.agent!r}, who is not in the roster",
                f"There is: {', '.join(sorted(agents)) or 'nobody'}. Correct the name, or add the agent.",
            )
        for number, gate in enumerate(stage.gates):
            if why := _never_asked(gate, stage.gates[:number]):
                raise document.wrong(("stages", position, "gates", number), f"{gate.name} {why}")
    return pipeline


def _never_asked(gate: Gate, before: Sequence[Gate]) -> str:
    """Why a gate would let everything pass; empty = it asks something."""
    if gate.name in [one.name for one in before]:
        return "stands twice, and only the first one would be asked; put all documents into one list"
    if gate.name == "check_documents" and not gate.needs:
        return "names no document: write `check_documents: [brd, …]`"
    if gate.name != "check_documents" and gate.needs:
        return "takes no names"
    return ""


def _differs(pipeline: Pipeline, row: StoredPipeline | None) -> bool:
    return row is None or Pipeline.model_validate(row.definition) != pipeline
