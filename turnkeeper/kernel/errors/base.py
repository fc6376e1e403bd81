"""The roots of the tree: the base of every error, and of each branch."""

from typing import ClassVar, Self

__all__ = [
    "CoordinationError",
    "DoorError",
    "Refused",
    "StepError",
    "StorageError",
    "SupervisionError",
    "TurnError",
    "TurnkeeperError",
    "WaitError",
]


class TurnkeeperError(Exception):
    """Base of every error of this library.

    Facts are attributes; `says` is the message with places for them. `retryable` says whether running the same
    turn once more could end otherwise; the retry policy reads it.
    """

    retryable: ClassVar[bool] = False
    says: ClassVar[str] = ""

    def __str__(self) -> str:
        """Return the message: `says`, with the facts in it."""
        return self.says.format(**vars(self)) if self.says else super().__str__()

    def anew(self) -> Self:
        """Return the same error as if it had not been raised: raised again and again, one would grow with each time."""
        error = type(self).__new__(type(self))
        vars(error).update(vars(self))
        return error


class Refused(TurnkeeperError):
    """Nothing was accepted or written."""


class TurnError(TurnkeeperError):
    """A turn cannot do what was asked of it."""


class StepError(TurnkeeperError):
    """A step has no good result."""


class WaitError(TurnkeeperError):
    """A wait was answered wrongly, or could never be answered."""


class CoordinationError(TurnkeeperError):
    """The coordinator refuses a task's claim, update or event."""


class DoorError(TurnkeeperError):
    """The runtime that owns the store was asked from outside, and did not do it or did not say so."""


class SupervisionError(TurnkeeperError):
    """A child cannot be started, kept, or told what it was told."""


class StorageError(TurnkeeperError):
    """The store, not the caller, is at fault."""
