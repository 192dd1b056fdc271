"""What the record of a sweep says of each source. Pure."""

from collections import Counter
from typing import Any

from quarterdeck.heartbeat import rules
from quarterdeck.heartbeat.checking import DOCUMENTS, MULTICA
from quarterdeck.heartbeat.overview import Overview
from quarterdeck.heartbeat.roster import Heartbeat
from quarterdeck.heartbeat.work import Answer, Status, Trouble


def state_of(answer: Answer, beat: Heartbeat, overview: Overview | None) -> dict[str, Any]:
    """A source's answer as the record keeps it; `overview` is `None` where nothing was decided."""
    trouble = answer.trouble or _unasked(answer.source, beat)
    mine = overview.by_agent.get(beat.agent, ()) if overview else ()
    own = [place for place in mine if place.ref.source == answer.source]
    counts = overview.counts.get(answer.source, Counter()) if overview else Counter[Status]()
    return {
        "state": trouble.value if trouble else "ok",
        "found": len(answer.found),
        "todo": counts[Status.TODO],
        "in_progress": counts[Status.IN_PROGRESS],
        "own": len(own),
        "first": [rules.report(place) for place in own[: beat.backlog_shown]],
        "detail": answer.detail[:300],
        "cached": answer.is_cached,
        "at": answer.at.isoformat(),
    }


def _unasked(source: str, beat: Heartbeat) -> Trouble | None:
    """Without an id, or a folder, of this agent a source has nothing to say of it: not "no tasks"."""
    is_missing = (source == MULTICA and not beat.multica_id) or (source == DOCUMENTS and not beat.workspace)
    return Trouble.NOT_CONFIGURED if is_missing else None
