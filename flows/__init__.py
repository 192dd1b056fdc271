"""The stories: Prefect flows, one file each. They call tasks, and decide nothing themselves."""
