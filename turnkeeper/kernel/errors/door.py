"""Door errors: another process asked the runtime, and got no value."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import DoorError

__all__ = ["DoorClosed", "DoorRefused", "DoorSilent"]


@dataclass(eq=False)
class DoorClosed(DoorError):
    """No runtime could be asked, so nothing was done. Start one on the store, or open the store yourself."""

    path: str
    reason: str
    says = "{path}: no runtime can be asked here: {reason}"


@dataclass(eq=False)
class DoorRefused(DoorError):
    """The runtime answered with an error. `type` and `message` are those of what it raised."""

    type: str
    message: str
    says = "the runtime refused: {type}: {message}"


@dataclass(eq=False)
class DoorSilent(DoorError):
    """The runtime was asked and gave no answer: it may have done it or not. Look before you ask again."""

    path: str
    reason: str
    says = "{path}: asked, but no answer came ({reason}); it may have been done: look before asking again"
