"""Secrets and connections as Prefect blocks: the forms in which people enter them."""
