"""What can be wrong with a source, as errors of actions and as troubles of answers."""

from quarterdeck.heartbeat.work import Trouble
from quarterdeck.kernel.errors import Conflict, Misconfigured, QuarterdeckError, Unavailable

_BY_CODE = {
    "timed_out": Trouble.TIMED_OUT,
    "wrong_answer": Trouble.UNREADABLE,
    "refused": Trouble.REFUSED,
    "not_connected": Trouble.NOT_CONFIGURED,
}


def unavailable(trouble: Trouble, detail: str, instruction: str = "It is tried again later.") -> Unavailable:
    """An error that remembers which trouble it is."""
    return Unavailable(detail, instruction, code=trouble.value.replace(" ", "_"), trouble=trouble.value)


def refused(detail: str, instruction: str = "Check its credentials.") -> Conflict:
    """The other side answered, and said no."""
    return Conflict(detail, instruction, code="refused", trouble=Trouble.REFUSED.value)


def not_configured(detail: str, instruction: str) -> Misconfigured:
    """Somebody must enter something first."""
    return Misconfigured(detail, instruction, code="not_connected", trouble=Trouble.NOT_CONFIGURED.value)


def may_work_later(error: QuarterdeckError) -> bool:
    """Whether the same action may work once the source is back, lets us in, or is connected.

    False: it is refused for what it is about; `code` does not tell these apart, as every refusal has one.
    """
    is_shut_out = error.data.get("trouble") == Trouble.REFUSED or error.data.get("status") in (401, 403)
    return is_shut_out or isinstance(error, Unavailable | Misconfigured)


def trouble_of(error: QuarterdeckError) -> Trouble:
    """Which trouble an error of an action or of a client is."""
    told = error.data.get("trouble")
    if told is not None:
        return Trouble(told)
    if isinstance(error, Misconfigured):
        return _BY_CODE.get(error.code, Trouble.FAILED)
    return _BY_CODE.get(error.code, Trouble.REFUSED if isinstance(error, Conflict) else Trouble.FAILED)
