"""The desk's own doors in a messenger: filing, looking, approving. They know no messenger.

    commands    `new`, `items`, `item`, `approve`, `reject`, `status`, `crew`, `backlog`, and the two buttons
    texts       what they say, in four languages

A surface registers them on the dispatcher of the desk's bot. Who asks is looked up in the roster by the name
that the messenger knows them by; an agent has no such name, so no way in. What must not be in it: what a
decision leads to (the pipeline's), how a message looks in a messenger (the surface's).
"""
