"""Coordination errors: the coordinator refuses."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import CoordinationError

__all__ = [
    "ClaimDenied",
    "NotOwner",
    "StaleClaim",
    "UnknownEvent",
]


@dataclass(eq=False)
class ClaimDenied(CoordinationError):
    """The task cannot be claimed now; `reason` says why, `retry_after_s` when to try again."""

    task_id: str
    reason: str
    retry_after_s: float | None
    says = "task {task_id} cannot be claimed: {reason}"


@dataclass(eq=False)
class StaleClaim(CoordinationError):
    """The claim has passed to another; the update changed nothing."""

    task_id: str
    claim_epoch: int
    says = "task {task_id} has left claim epoch {claim_epoch}; the update was refused"


@dataclass(eq=False)
class NotOwner(CoordinationError):
    """Only the task's owner may do this."""

    task_id: str
    participant: str
    says = "task {task_id} is not {participant}'s"


@dataclass(eq=False)
class UnknownEvent(CoordinationError):
    """An event of a type or status nobody declared; it was refused, not guessed at."""

    what: str
    says = "unknown event: {what}"
