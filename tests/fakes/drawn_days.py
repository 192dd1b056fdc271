"""Days of heartbeats that nobody thought of: one number chooses what goes wrong in them, and how much.

verdict = run(happened(drawn(4711, days=0.5)))
"""

import random

from deployments.simulation.jobs import Nature
from deployments.simulation.week import Plan


def drawn(seed: int, days: float) -> Plan:
    """What is to happen; the same for the same seed."""
    chance = random.Random(seed)
    often = chance.choice((0.2, 0.5, 0.9))
    return Plan(
        seed=seed,
        days=days,
        jobs_a_day=chance.choice((2.5, 6)),
        natures=tuple(nature for nature in Nature if chance.random() < often),
        deaths=chance.choice((0.02, 0.1)),
        overlaps=chance.choice((0.03, 0.2)),
        late=chance.choice((0.05, 0.3)),
        outages=chance.random() < 0.6,
        slots=chance.choice((1, 1, 2)),
        day_rounds=chance.choice((2, 6)),
    )
