"""The Telegram surface: one consumer of the bots' updates, which talks to people and hands files on.

    converter    updates to the core's events
    rooms        where each chat is, and which agent answers there
    surface      what becomes of an update, and of what the core answers
    files        both ways between Telegram and the agents' workspaces

The bots, their polling and their queues are `quarterdeck.telegram`'s. No type of a library leaves this room.
"""
