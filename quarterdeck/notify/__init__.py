"""Telling people: which event goes to whom, in which words, over which channel, and whether it arrived.

Texts come from catalogues, never from a model. A message is committed with the event that caused it
(outbox) and delivered afterwards in rounds: in order per chat, within limits, with retries.
Must not be here: what an event means for its work item, and anything that can make a command fail.
"""
