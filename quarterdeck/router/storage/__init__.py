"""What outlives the process: backends, clients, settings, sealed keys, backups; and the lease on it."""
