"""Processes that tests start, and that must not be left."""

import psutil


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and was not asked about yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
