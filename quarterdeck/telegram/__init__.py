"""Telegram: many bots in one process, none of them in another's way.

It owns the bots: their tokens, the one poller of each, and the one queue of what each has to say, with
Telegram's limits. Every update becomes a stored event before Telegram is told that it arrived. What must not
be in it: what a message means, who may do what, agents, work items, Prefect.
"""
