"""Wait errors: a wait was answered wrongly, or would never end."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import WaitError

__all__ = [
    "Deadlock",
    "WaitTokenInvalid",
]


@dataclass(eq=False)
class WaitTokenInvalid(WaitError):
    """The answer's token is missing, wrong, expired or used; the wait stands as it was."""

    turn_id: int
    reason: str
    says = "turn {turn_id} takes no such answer: {reason}"


@dataclass(eq=False)
class Deadlock(WaitError):
    """The ask would close a cycle of actors that wait for each other."""

    cycle: str
    says = "would wait for itself: {cycle}"
