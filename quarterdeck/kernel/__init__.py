"""What every room stands on: settings, clock, ids, database, journal, keyring, bus, HTTP, errors, log.

A unit of work is one command: state, events and outbox rows commit together or not at all.
Must not be here: anything that knows what a work item, an agent or a message means.
"""
