"""Decisions in comments of a tracker: `:approved:`, or `:rejected: why`, by a person who may.

Who wrote the text counts, not whose comment it is. The same person deciding the same way in the same
comment counts once, however often it arrives.
"""

from quarterdeck.crew.service import Crew
from quarterdeck.forge import tracker_store as store
from quarterdeck.forge.tracker import SOURCE, Comment, Tracker
from quarterdeck.forge.tracker_model import HeardComment
from quarterdeck.kernel.database import Database, Unit
from quarterdeck.kernel.errors import Conflict, Forbidden, Invalid
from quarterdeck.kernel.identity import Caller
from quarterdeck.kernel.inbox_model import Ignored
from quarterdeck.pipeline import mirror_rules as rules
from quarterdeck.pipeline import posts
from quarterdeck.pipeline.mirror_rules import Said
from quarterdeck.pipeline.service import Engine

DOOR = "plane"


class Comments:
    """Hears what people decide in comments."""

    def __init__(self, database: Database, tracker: Tracker, engine: Engine, crew: Crew) -> None:
        self._database = database
        self._tracker = tracker
        self._engine = engine
        self._crew = crew

    async def take(self, comment: Comment) -> str:
        """Do what a comment decides, if it does; says what was done. Refusals are answered by a comment."""
        said = rules.said(comment.text)
        if said is None:
            return Ignored("It decides nothing.")
        async with self._database.read() as session:
            tracked = await store.tracked(session, comment.issue)
        if tracked is None:
            return Ignored("Its issue is no item here.")
        if comment.external_source == SOURCE or comment.editor == await self._tracker.myself():
            return Ignored("It is the desk's own.")
        if not comment.editor:
            return Ignored("Nobody says who wrote it.")
        return await self._decide(tracked.item_key, comment, said)

    async def _decide(self, key: str, comment: Comment, said: Said) -> str:
        caller = await self._crew.by_handle(DOOR, comment.editor)
        try:
            async with self._database.command("decide by comment") as unit:
                if not await self._is_new(unit, key, comment, said, said.word):
                    return Ignored("It was heard before.")
                await self._engine.decide_within(
                    unit,
                    key,
                    _known(caller, comment),
                    approved=said.approved,
                    comment=said.remark,
                    said_at=comment.changed_at,
                )
        except (Forbidden, Conflict, Invalid) as error:
            return await self._refuse(key, comment, said, str(error))
        return f"{key}: {said.word} by {caller.name if caller else ''}."

    async def _refuse(self, key: str, comment: Comment, said: Said, why: str) -> str:
        async with self._database.command("refuse comment") as unit:
            if not await self._is_new(unit, key, comment, said, why):
                return Ignored("It was heard before.")
            posts.answer(unit, key, f"{comment.id}:{said.word}:{comment.editor}", why)
        return Ignored(why)

    @staticmethod
    async def _is_new(unit: Unit, key: str, comment: Comment, said: Said, outcome: str) -> bool:
        heard = HeardComment(
            comment_id=comment.id,
            said=said.word,
            editor=comment.editor,
            item_key=key,
            outcome=outcome,
            at=unit.now,
        )
        return await store.take_comment(unit.session, heard)


def _known(caller: Caller | None, comment: Comment) -> Caller:
    if caller is None:
        raise Forbidden(
            "Nobody in the roster has this Plane user.",
            f"The owner can add `handles: {{plane: {comment.editor}}}` to a person.",
        )
    return caller
