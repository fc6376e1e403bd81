"""Wait errors: a wait was answered wrongly, or would never end."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import WaitError

__all__ = [
    "ApprovalDenied",
    "Deadlock",
    "HandoffRefused",
    "WaitExpired",
    "WaitTokenInvalid",
]


@dataclass(eq=False)
class WaitTokenInvalid(WaitError):
    """The answer's token is missing, wrong, expired or used; the wait stands as it was."""

    turn_id: int
    reason: str
    says = "turn {turn_id} takes no such answer: {reason}"


@dataclass(eq=False)
class WaitExpired(WaitError):
    """Nobody answered in time. `limit_s` is how long was waited."""

    what: str
    limit_s: float
    says = "{what} was not answered within {limit_s:g} s"


@dataclass(eq=False)
class ApprovalDenied(WaitError):
    """Whoever was asked said no, and why; `by` is empty where nobody answered and that counts as no."""

    what: str
    by: str
    reason: str
    says = "{what} was denied by {by!r}: {reason}"

    def __str__(self) -> str:
        """Return the message, without a name where there is none."""
        return super().__str__() if self.by else f"{self.what} was denied: {self.reason}"


@dataclass(eq=False)
class HandoffRefused(WaitError):
    """The turn may not be handed on: the packet lacks something, or the session has had its share of handoffs."""

    to: str
    reason: str
    says = "cannot be handed to {to!r}: {reason}"


@dataclass(eq=False)
class Deadlock(WaitError):
    """The ask would close a cycle of actors that wait for each other."""

    cycle: str
    says = "would wait for itself: {cycle}"
