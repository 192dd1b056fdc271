"""Surfaces: people talk to agents from their messengers.

One core for all messengers (protocol, dispatcher, chats, settings), and one adapter each that turns native
events into the core's and renders its answers. It talks to agents through the crew's runtimes, and keeps no
conversation. What must not be in it: what an agent does, how an item moves, and in the core, any messenger.
"""
