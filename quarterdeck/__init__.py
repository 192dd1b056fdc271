"""The core of Quarterdeck: plain Python, knows nothing of Prefect.

Floors, top to bottom: pipeline > board, crew, notify, forge > kernel.
Rooms on one floor do not import each other; they meet above, or through a protocol of the
kernel that the composition root (`deployments/`) binds.
"""

__version__ = "0.1.0"
