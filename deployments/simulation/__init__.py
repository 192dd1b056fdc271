"""A week of heartbeats in seconds: the real rules and services, with everything around them simulated.

Simulated are time, the places where work waits, the agents, the people, and the rows (kept in memory).
What goes wrong is drawn from a seed; whether anything was forgotten or done twice is judged by what really
happened in this world, never by what the room under test believes.
"""
