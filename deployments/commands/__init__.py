"""The commands of `quarterdeck`, one module per subject; `deployments/cli.py` puts them together.

A module imports at its top only what the help text needs: everything heavy is imported where it is used,
so that `quarterdeck --help` answers at once.
"""
