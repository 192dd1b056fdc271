"""Code hosts: repositories, branches, pull requests, reviews and CI results behind one protocol.

`local` is a folder of bare git repositories with a CI that runs the repository's own test command;
Gitea speaks the same protocol.
Must not be here: what a red CI or a missing review means for a work item.
"""
