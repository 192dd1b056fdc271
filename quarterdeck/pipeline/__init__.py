"""The pipeline: stages, gates, rounds, approvals: the engine that alone moves a work item.

`rules.py` decides from recorded facts what comes next; `service.py` writes the decision, its events and
its messages in one transaction. Whoever works on a stage holds its claim, with a fencing number.
Must not be here: how an agent is executed, what a code host looks like, how a message is sent.
"""
