"""The board: projects and work items, their order, parents and dependencies.

What a card says is decided here; where it stands in its pipeline is decided by `pipeline/`, which alone
writes `stage`, `state`, `round` and `move`.
Must not be here: agents, gates, messages.
"""
