"""The router: every model call of the house goes through this one door, over many providers.

It chooses a backend by pool, limit and health, passes the call on in the provider's own dialect, fails
over before the first byte, and books every attempt to the token and the pico-dollar. It serves from memory:
alone, with the database, Prefect and the web process dead. What must not be in it: agents, work items
(they are names in headers here), Prefect, and anything heavy that a plain relay does not need.
"""
