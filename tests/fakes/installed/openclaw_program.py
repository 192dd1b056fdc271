"""The program `openclaw`, as far as its WorkBoard and its automations go: python -S openclaw_program.py STATE

What surprises in the real one (spec contracts.md, section 1) is here too: the plug-in that is off, an object
with `cards`, no filter by agent, archived cards in every list, an error as JSON on the output with exit 1,
times in milliseconds, built-in automations, notes on the error output.
"""

import json
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from state_file import opened

STATUSES = ["triage", "backlog", "todo", "scheduled", "ready", "running", "review", "blocked", "done"]
BUILT_IN = [
    {"id": f"00000000-0000-4000-8000-00000000000{n}", "name": f"built-in-{n}", "enabled": True,
     "schedule": {"kind": "every", "everyMs": 3_600_000}, "payload": {"kind": "heartbeat"},
     "sessionTarget": "main", "wakeMode": "now"}
    for n in (1, 2, 3)
]  # fmt: skip
EMPTY = {"workboard": True, "cards": [], "jobs": BUILT_IN, "calls": [], "fault": "", "agents": []}
"""Without `agents` it knows everybody."""
FLAGS = {"json", "all", "exact", "no-deliver", "include-archived", "disabled", "enable", "disable"}


class Refused(Exception):
    """Told as JSON, with exit code 1."""


def now() -> int:
    return int(time.time() * 1000)


def parsed(words):
    """Options and arguments, as commander reads them."""
    options, arguments, literal = {}, [], False
    waiting = iter(words)
    for word in waiting:
        if literal or not word.startswith("--"):
            arguments.append(word)
        elif word == "--":
            literal = True
        elif word[2:] in FLAGS:
            options[word[2:]] = True
        else:
            options[word[2:]] = next(waiting, "")
    return options, arguments


def only(options, known):
    for name in options:
        if name not in known:
            raise Refused(f'OpenClaw does not recognize option "--{name}".')


def workboard(state, words):
    if not state["workboard"]:
        raise Refused(
            'The `openclaw workboard` command is provided by the "workboard" plugin, but that bundled'
            " plugin is disabled by default. Run `openclaw plugins enable workboard` to enable that"
            " CLI surface."
        )
    command, (options, arguments) = words[0], parsed(words[1:])
    return {"list": listed, "show": shown, "move": moved, "create": created}[command](
        state, options, arguments
    )


def listed(state, options, arguments):
    only(options, {"json", "board", "status", "include-archived"})
    wanted = options.get("status")
    return {"cards": [c for c in state["cards"] if not wanted or c.get("status") == wanted]}


def card_of(state, identity):
    found = [c for c in state["cards"] if c["id"].startswith(identity)]
    if len(found) != 1:
        raise Refused(f"Card not found: {identity}")
    return found[0]


def shown(state, options, arguments):
    only(options, {"json"})
    return {"card": card_of(state, arguments[0])}


def moved(state, options, arguments):
    only(options, {"json", "status"})
    if options.get("status") not in STATUSES:
        raise Refused(f"--status must be one of: {', '.join(STATUSES)}.")
    card = card_of(state, arguments[0])
    event = {"id": str(uuid.uuid4()), "at": now(), "kind": "moved", "fromStatus": card["status"]}
    card.setdefault("events", []).append(event | {"toStatus": options["status"]})
    card["status"], card["updatedAt"] = options["status"], now()
    if options["status"] == "running":
        card.setdefault("startedAt", now())
    return {"card": card}


def created(state, options, arguments):
    only(options, {"json", "notes", "status", "priority", "agent", "board", "labels"})
    card = {
        "id": str(uuid.uuid4()), "title": " ".join(arguments), "status": options.get("status", "todo"),
        "priority": options.get("priority", "normal"), "labels": [], "position": 1000,
        "createdAt": now(), "updatedAt": now(), "events": [],
        "metadata": {"automation": {"workspaceAccess": {"unrestricted": True}}},
    }  # fmt: skip
    for name, field in (("notes", "notes"), ("agent", "agentId")):
        if options.get(name):
            card[field] = options[name]
    state["cards"].append(card)
    return {"card": card}


SCHEDULING = {"name", "cron", "tz", "exact", "session", "message", "agent", "no-deliver", "declaration-key",
              "json", "description", "url", "port", "token", "timeout", "enable", "disable"}  # fmt: skip


def cron(state, words):
    command, (options, arguments) = words[0], parsed(words[1:])
    print("[openclaw] gateway 127.0.0.1", file=sys.stderr)
    if command == "list":
        only(options, {"json", "all", "agent", "url", "port", "token"})
        jobs = [job for job in state["jobs"] if job["enabled"] or options.get("all")]
        return {
            "jobs": jobs,
            "total": len(jobs),
            "offset": 0,
            "limit": 50,
            "hasMore": False,
            "nextOffset": None,
        }
    only(options, SCHEDULING)
    if state["agents"] and options.get("agent") not in (None, *state["agents"]):
        raise Refused(f"cron job agent is unavailable: {options['agent']}")
    if command == "add":
        key = options.get("declaration-key")
        found = [job for job in state["jobs"] if key and job.get("declarationKey") == key]
        job = found[0] if found else {"id": str(uuid.uuid4()), "createdAtMs": now(), "enabled": True}
        if not found:
            state["jobs"].append(job)
        written(job, options)
        return job
    job = next((job for job in state["jobs"] if job["id"] == arguments[0]), None)
    if job is None:
        raise Refused(f"Cron job not found: {arguments[0]}")
    if command == "edit":
        written(job, options)
        return job
    state["jobs"].remove(job)
    return {"ok": True, "removed": True}


def written(job, options):
    job["updatedAtMs"] = now()
    if "cron" in options:
        job["schedule"] = {"kind": "cron", "expr": options["cron"], "tz": options.get("tz", "")}
        if options.get("exact"):
            job["schedule"]["staggerMs"] = 0
    for option, field in (("name", "name"), ("agent", "agentId"), ("session", "sessionTarget"),
                          ("declaration-key", "declarationKey"), ("description", "description")):  # fmt: skip
        if option in options:
            job[field] = options[option]
    if "message" in options:
        job["payload"] = {"kind": "agentTurn", "message": options["message"]}
    if "no-deliver" in options:
        job["delivery"] = {"mode": "none"}
    job.setdefault("delivery", {"mode": "announce", "channel": "last"})
    if "enable" in options:
        job["enabled"] = True


def out_of_order(fault):
    """Behave badly, as told."""
    if fault == "hang":
        time.sleep(600)
    if fault == "huge":
        for _ in range(50):
            sys.stdout.write("x" * 1_000_000)
    if fault == "half":
        sys.stdout.write('{"cards": [{"id": "1", "tit')
    if fault == "rubbish":
        sys.stdout.write("Welcome to OpenClaw!")
    if fault == "exit":
        print("boom: token=abcdef1234567890", file=sys.stderr)
        return 1
    return 0


def main(path, words):
    with opened(Path(path), EMPTY) as state:
        state["calls"].append(words)
        fault = state["fault"]
        if not fault:
            try:
                told = {"workboard": workboard, "cron": cron}[words[0]](state, words[1:])
            except Refused as refused:
                print(json.dumps({"ok": False, "error": {"type": "cli_error", "message": str(refused)}}))
                print(f"[openclaw] Reason: {refused}", file=sys.stderr)
                return 1
            print(json.dumps(told, indent=2))
            return 0
    return out_of_order(fault)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
