"""The port to agents, over the ways in which the crew executes them: `agent_api`, `openclaw`, a model.

No history is kept here but one: a model remembers nothing, so a bounded window of its last messages is.
"""
