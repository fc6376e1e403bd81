"""Chronicles: what is kept of supervision, and what was wanted when the last runtime ended."""

from typing import Protocol

from turnkeeper.kernel.supervision.child import Exit
from turnkeeper.kernel.supervision.desired import Desired, Verb

__all__ = ["Chronicle", "Unrecorded"]


class Chronicle(Protocol):
    """Keeps what a tree is told, and what happens in it."""

    def desired(self, path: str) -> Desired:
        """Return what is wanted of a child."""
        ...

    async def wanted(self, path: str, desired: Desired, verb: Verb, reason: str) -> None:
        """Keep what is wanted from now on; durable when this returns."""
        ...

    def noted(self, path: str, kind: str, incarnation: int, exit_: Exit | None) -> None:
        """Keep what has happened to a child; not waited for."""
        ...


class Unrecorded:
    """Keeps nothing: a tree beside no runtime."""

    def desired(self, path: str) -> Desired:  # noqa: ARG002 - nothing is known of any
        """Want everything to run."""
        return Desired.RUNNING

    async def wanted(self, path: str, desired: Desired, verb: Verb, reason: str) -> None:
        """Keep nothing."""

    def noted(self, path: str, kind: str, incarnation: int, exit_: Exit | None) -> None:
        """Keep nothing."""
