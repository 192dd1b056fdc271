"""The steps by which the database's tables came to be what they are, in order.

Made by `alembic` from the difference between the tables and a migrated database, then read by a person.
A released step is never changed. Must not be here: anything that imports a room's code.
"""
