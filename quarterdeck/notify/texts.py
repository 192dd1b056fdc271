"""The words of messages. Deterministic: the same event gives the same text, and no model writes any.

A catalogue is one YAML file per language; which facts stand in a text is decided here, how they are said
is decided there. The ten messages are those of orchestrator.md section 4.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any, get_args

import yaml

from quarterdeck.kernel.settings import Language
from quarterdeck.notify.markup import escape, shorten

LANGUAGES: tuple[str, ...] = get_args(Language)

MESSAGES = frozenset(
    {
        "stage_changed",
        "agent_started",
        "agent_finished",
        "agent_failed",
        "agent_timed_out",
        "gate_passed",
        "gate_failed",
        "approval_requested",
        "item_done",
        "error",
    }
)
"""The kinds that people are told of unless a subscription says otherwise."""

ALERTS = frozenset(
    {
        "work_unfinished",
        "work_resumed_again",
        "work_timed_out",
        "work_waits",
        "work_needs_approval",
        "work_runs_long",
        "dependency_cancelled",
        "dependency_cycle",
        "rounds_warning",
        "rounds_exhausted",
        "breaker_opened",
        "day_budget_spent",
        "backlog_warning",
        "work_of_strangers",
        "sources_down",
        "heartbeat_stale",
        "heartbeats_stopped",
    }
)
"""What heartbeats tell people of, as they are told of the ten messages."""

TOLD = MESSAGES | ALERTS
"""The kinds that go out unless a subscription says otherwise."""

KINDS = TOLD | {
    "item_filed",
    "item_edited",
    "item_remarked",
    "item_cancelled",
    "item_retried",
    "item_moved",
    "item_blocked",
    "approval_decided",
    "run_cancelled",
    "run_given_up",
    "ci_finished",
    "ci_again",
    "project_created",
    "project_edited",
    "work_published",
    "work_refused",
    "engine_failed",
    "connection_changed",
    "bot_registered",
    "bot_forgotten",
    "agent_woken",
    "letter_dismissed",
    "work_started",
    "work_finished",
    "work_resumed",
    "work_unfinished_again",
    "work_unblocked",
    "work_allowed",
}
"""Every kind that has a text of its own."""


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All entries of one of `LANGUAGES`."""
    file = resources.files("quarterdeck.notify") / "catalogues" / f"{language}.yaml"
    entries: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return entries


def render(
    language: str, event_kind: str, key: str | None, run_id: int | None, data: Mapping[str, Any]
) -> str:
    """The text of an event as HTML: what came from outside is escaped, at most 4096 units long.

    Never fails: an unknown kind is named, an unknown fact is left out.
    """
    words = catalogue(language)
    facts = _Facts({name: escape(value) for name, value in data.items() if value is not None})
    facts["key"] = escape(key or _nameless(data))
    facts["kind"] = escape(event_kind)
    entry = _entry(event_kind, data)
    facts["steps"] = _steps(data)
    facts |= _pieces(words, facts, _known(words, entry, facts, run_id, data))
    return shorten(words.get(entry, words["other"]).format_map(facts))


def duration(words: Mapping[str, str], seconds: float) -> str:
    """Whole minutes (half up) from one minute on, whole seconds below."""
    whole = int(max(seconds, 0) + 0.5)
    return words["seconds"].format(n=whole) if whole < 60 else words["minutes"].format(n=(whole + 30) // 60)


def _command(do: str, facts: "_Facts") -> str:
    """What to type, on a line of its own."""
    return f"\nquarterdeck heartbeat {do} {facts['agent']} {facts['name']}" if facts["name"] else ""


def _steps(data: Mapping[str, Any]) -> str:
    """Finished and unfinished steps, a line each."""
    told = (("☑", data.get("finished")), ("☐", data.get("unfinished")))
    lists = ((mark, steps) for mark, steps in told if isinstance(steps, list))
    return "".join(f"\n{mark} {escape(step)}" for mark, steps in lists for step in steps)


class _Facts(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def _nameless(data: Mapping[str, Any]) -> str:
    return f"task-{data['item_id']}" if data.get("item_id") is not None else "system"


def _entry(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "approval_decided":
        return "approved" if data.get("approved") else "rejected"
    return kind


def _pieces(words: Mapping[str, str], facts: _Facts, known: list[str]) -> dict[str, str]:
    """The optional parts of a text: each is empty when its fact is unknown."""
    why = facts["reason"] or facts["comment"] or facts["title"]
    return {
        "facts": words["bracket"].format(facts=words["comma"].join(known)) if known else "",
        "started": words["started"].format(agent=facts["agent"]) if facts["agent"] else "",
        "why": words["colon"] + why if why else "",
        "step": f" → {facts['todo']}" if facts["todo"] else "",
        "allow": _command("allow", facts),
        "unblock": _command("unblock", facts),
        "for": f" → {facts['to']}" if facts["to"] else "",
    }


def _known(
    words: Mapping[str, str], entry: str, facts: _Facts, run_id: int | None, data: Mapping[str, Any]
) -> list[str]:
    """What stands in a text's bracket."""
    run = f"run_id={run_id}" if run_id is not None else ""
    code = f"exit_code={facts['exit_code']}" if facts["exit_code"] else ""
    commit = escape(str(data.get("commit") or "")[:12])
    candidates = {
        "agent_started": [run],
        "agent_finished": [_length(words, data.get("seconds")), code],
        "agent_failed": [code],
        "agent_timed_out": [_length(words, data.get("limit_seconds"))],
        "item_blocked": [facts["whose"]],
        "run_cancelled": [run],
        "ci_finished": [commit],
        "ci_again": [facts["by"], commit],
        "work_published": [commit],
        "connection_changed": [facts["source"]],
    }
    who = [facts["by"], facts["door"]]
    return [fact for fact in candidates.get(entry, who) if fact]


def _length(words: Mapping[str, str], seconds: object) -> str:
    return duration(words, seconds) if isinstance(seconds, int | float) and isfinite(seconds) else ""
