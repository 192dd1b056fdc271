"""The crew: who works here (agents, people), what they are doing (agent runs), and how a run is executed.

A run is executed by a runtime; `command` starts a program under a keeper, a small process that enforces
the limit, kills the process group and records the exit, and that survives whoever started it.
Must not be here: what a run means for its work item.
"""
