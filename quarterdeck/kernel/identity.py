"""Who is asking. The door (token, chat, form, command line) says who; the roster says what they may do."""

from dataclasses import dataclass

from quarterdeck.kernel.errors import Forbidden


@dataclass(frozen=True)
class Caller:
    """A person at a door. Agents are never callers: they have no way to the doors that decide."""

    name: str
    door: str
    is_owner: bool = False
    may_write: bool = False
    may_approve: bool = False

    def must_write(self) -> None:
        """Raise `Forbidden` unless this person may change things."""
        if not self.may_write:
            raise Forbidden(
                f"{self.name} may look, but not change anything.",
                "Ask the owner for the role `member` in the roster.",
            )

    def must_be_owner(self) -> None:
        """Raise `Forbidden` unless this is the owner."""
        if not self.is_owner:
            raise Forbidden(f"{self.name} is not the owner.", "Ask the owner to do it.")

    def acting_for(self, by: str | None) -> str:
        """The name that counts: `by` only when the owner says it, else the caller's own."""
        return by if by and self.is_owner else self.name


def owner(door: str) -> Caller:
    """The owner, for doors that only the owner can open (the command line, the Prefect UI)."""
    return Caller(name="owner", door=door, is_owner=True, may_write=True, may_approve=True)
