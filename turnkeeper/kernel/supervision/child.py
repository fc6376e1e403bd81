"""Children: what a supervisor is told of one, and what it may ask of it."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

__all__ = ["Child", "ChildSpec", "Exit", "Exited", "Restart", "Retired", "Staff"]


class Restart(StrEnum):
    """Whether a child that has ended by itself is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # if it crashed
    TEMPORARY = "temporary"  # never

    def wanted(self, *, normal: bool) -> bool:
        """Say whether a child comes back after this end."""
        return self is Restart.PERMANENT or (self is Restart.TRANSIENT and not normal)


class Exit(msgspec.Struct, frozen=True, gc=False):
    """How an incarnation ended.

    Args:
        reason: one word for logs and events: `normal`, `crashed`, `killed`, `exited`, `silent`, `stopped`.
        normal: it ended as it was meant to.
        error: type of what it raised, or what its process said of its end; empty for none.
        code: exit code of a process, None where it was no process, or was killed.
        signal: what killed a process, None for nothing.
    """

    reason: str
    normal: bool
    error: str = ""
    code: int | None = None
    signal: int | None = None


Exited = Callable[[Exit], None]
"""Told once, of an incarnation that has ended by itself. Never of one that `stop` has ended."""


class Child(Protocol):
    """Whatever a supervisor can start and stop: it outlives its incarnations."""

    def start(self, exited: Exited) -> Awaitable[None] | None:
        """Bring one incarnation up: None where it is up at once, else what to wait for.

        What is raised, now or by the awaitable, counts as its exit. Cancelling the awaitable takes back what was begun.
        """
        ...

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:
        """Bring the incarnation down, by force once `shutdown_s` is over: None where it is down at once.

        Promises: nothing of it is left when this is over. Stopping what is down does nothing.
        """
        ...


@runtime_checkable
class Retired(Protocol):
    """A child that keeps something for its next incarnation, such as its mail."""

    def retire(self) -> None:
        """Let it go: there will be no next one."""
        ...


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One child of a supervisor, in OTP's words.

    Args:
        name: unique among its siblings; a path of names leads from the root to it.
        child: what is started and stopped.
        restart: whether it comes back when it has ended by itself.
        shutdown_s: how long it may take to stop.
    """

    name: str
    child: Child
    restart: Restart = Restart.PERMANENT
    shutdown_s: float = 5.0


class Staff(Protocol):
    """A supervisor as those see it whose children come and go while it runs, such as worker processes."""

    def add(self, spec: ChildSpec) -> None:
        """Add a child, and start it.

        Raises:
            InvalidName: the name is taken, is empty, or holds a slash.
        """
        ...

    async def ensure_running(self, name: str) -> None:
        """Return once the child runs; however many ask, it is started once, and no pause is cut short.

        Raises:
            UnknownChild, ShuttingDown: there is no such child, or no supervisor any more.
            ChildQuarantined, ChildNotWanted: it is put away, or was told to rest.
        """
        ...
