"""The program `multica`, on the books of a fake server: python -S multica_program.py STATE issue list …

Exit codes: 0 ok, 1 other, 2 network, 3 auth, 4 not found, 5 validation. JSON goes to the output, everything
else to the error output; without `--output json` a list is a table.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import multica_books as books
from openclaw_program import parsed as parsed_words
from state_file import opened

CODES = {401: 3, 403: 3, 404: 4, 400: 5, 422: 5}
FLAGS = {"no-start", "content-stdin", "unassign"}
ESCAPES = {r"\n": "\n", r"\t": "\t", "\\\\": "\\"}


def parsed(words):
    flags = {word[2:]: True for word in words if word[2:] in FLAGS and word.startswith("--")}
    options, arguments = parsed_words([word for word in words if word[2:] not in FLAGS])
    return options | flags, arguments


def issue_list(state, options, arguments):
    asked = {name: options[name] for name in ("status", "limit", "offset") if name in options}
    asked.setdefault("limit", "50")
    if "assignee-id" in options:
        asked["assignee_id"] = options["assignee-id"]
    told = books.listed(state, asked)
    offset, limit = int(asked.get("offset", 0)), min(int(asked["limit"]), books.MOST)
    more = offset + len(told["issues"]) < told["total"]
    return told | {"limit": limit, "offset": offset, "has_more": more}


def issue_get(state, options, arguments):
    found = books.find(state, arguments[0])
    return found | {"status_category": state["custom"].get(found["status"], found["status"])}


def issue_status(state, options, arguments):
    books.update(state, arguments[0], {"status": arguments[1], "suppress_run": "no-start" in options})
    print(f"Issue {arguments[0]} is {arguments[1]}.", file=sys.stderr)


def issue_assign(state, options, arguments):
    changes = {
        "assignee_type": "agent",
        "assignee_id": options["to-id"],
        "suppress_run": "no-start" in options,
    }
    return books.update(state, arguments[0], changes)


def comment_add(state, options, arguments):
    if "content-stdin" in options:
        content = sys.stdin.read().removesuffix("\n")
    else:
        content = re.sub(r"\\[nt\\]", lambda m: ESCAPES[m[0]], options.get("content", ""))
    return books.comment(state, arguments[0], content)


COMMANDS = {
    ("issue", "list"): issue_list,
    ("issue", "get"): issue_get,
    ("issue", "status"): issue_status,
    ("issue", "assign"): issue_assign,
    ("issue", "comment", "list"): lambda state, options, arguments: books.comments(state, arguments[0]),
    ("issue", "comment", "add"): comment_add,
    ("issue", "comment", "delete"): lambda state, options, arguments: books.delete_comment(
        state, arguments[0]
    ),
}


def command(words):
    size = 3 if words[:2] == ["issue", "comment"] else 2
    return COMMANDS[tuple(words[:size])], words[size:]


def main(path, words):
    do, rest = command(words)
    options, arguments = parsed(rest)
    with opened(Path(path), books.EMPTY) as state:
        state["calls"].append(words)
        fault = state["fault"]
        if not fault:
            return answered(state, do, options, arguments)
    if fault == "hang":
        time.sleep(600)
    if fault == "half":
        sys.stdout.write('{"issues": [{"id": ')
    if fault == "rubbish":
        sys.stdout.write("ID   TITLE   STATUS")
    if fault == "huge":
        for _ in range(50):
            sys.stdout.write("x" * 1_000_000)
    if fault in ("exit", "network"):
        print("Error: it does not work", file=sys.stderr)
        return 2 if fault == "network" else 1
    return 0


def answered(state, do, options, arguments):
    try:
        must_be_let_in(state, options)
        told = do(state, options, arguments)
    except books.Trouble as trouble:
        print(f"Error: {trouble.words}", file=sys.stderr)
        return CODES.get(trouble.status, 1)
    if told is not None:
        print(json.dumps(told) if options.get("output") == "json" else "ID TITLE STATUS")
    return 0


def must_be_let_in(state, options):
    if os.environ.get("MULTICA_TOKEN") != state["token"]:
        raise books.Trouble(401, "not authenticated")
    if options.get("workspace-id") != state["workspace"]:
        raise books.Trouble(400, "workspace_id is required")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
