"""Secrets and connections as Prefect blocks: the forms in which people enter them.

A block is a form and nothing more: its values are copied, encrypted, into `connections`, and the rooms
of the core read only that.
"""
