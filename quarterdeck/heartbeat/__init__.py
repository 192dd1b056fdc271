"""Heartbeats: no work is forgotten, no agent is stuck, none runs in circles.

A sweep of an agent looks into every source of work, starts what was found, notices what stands still, brings
it on or hands it over, and stops what turns in circles. It decides by rules over values; sources, crew and
board do what was decided. What must not be in it: how an agent is executed, how a message is sent, Prefect.
"""
