"""Tests of a commit run again because a person asks: the first result was not the commit's fault."""

from pydantic import BaseModel, Field

from quarterdeck.forge.forges import Forges
from quarterdeck.kernel.database import Database
from quarterdeck.kernel.errors import NotFound
from quarterdeck.kernel.idempotency import request
from quarterdeck.kernel.identity import Caller
from quarterdeck.pipeline import store
from quarterdeck.pipeline.work import key_of, repository_of


class Retest(BaseModel):
    """Which commit is tested anew."""

    project: str = Field(examples=["ET"])
    repository: str = Field(examples=["et"])
    commit: str = Field(examples=["1f0c9d2e4b6a8c0d1f2e3a4b5c6d7e8f90a1b2c3"])


class Retests:
    """Over the projects whose repositories the desk tests itself."""

    def __init__(self, database: Database, forge: Forges) -> None:
        self._database = database
        self._forge = forge

    async def begin(self, caller: Caller, project: str, what: str = "", request_key: str = "") -> Retest:
        """`what`: a branch or the whole id of a commit; empty = the project's default branch.

        Nothing changes if that commit's tests wait or run already, or when `request_key` is repeated.
        Raises `Forbidden`, `NotFound`, and `Conflict` for a project in Gitea, or a commit without tests.
        """
        caller.must_write()
        async with self._database.read() as session:
            known = {row.key: row for row in await store.projects(session)}
        if project not in known:
            raise NotFound.among("project", project, known)
        row = known[project]
        what, repository = what or row.default_branch, repository_of(row)
        asked = request(caller.name, request_key, "rerun tests", {"project": project, "of": what})
        commit = await self._forge.test_again(repository, what, caller.name, key_of(what) or None, asked)
        return Retest(project=project, repository=repository, commit=commit)
