"""The world: what outlives a process. A life is what one process does in it, until it returns or is killed."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import NoReturn

import msgspec

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.kernel.settings import Settings
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.violated import Violated

__all__ = ["Life", "Load", "World"]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario is asked to do; it may use what it understands.

    Args:
        hours: virtual hours for which work arrives.
        arrivals: when it arrives, s from the beginning; empty for the scenario's own stream.
        hang_rate: how likely a tool never answers.
        slow_rate: how likely a tool takes many times its usual time.
        duplicate_rate: how likely a message is delivered twice.
    """

    hours: float = 0.001
    arrivals: Sequence[float] = ()
    hang_rate: float = 0.0
    slow_rate: float = 0.0
    duplicate_rate: float = 0.0


class World(ABC):
    """What outlives a process: its store, what its effects did outside, and what its clients were told.

    The same life runs in every world: in virtual time with seeded schedules, in a real process that is killed,
    and on files that a power cut leaves.

    Args:
        seed: what everything random follows from.
        life: which life this is, from 1.
        chance: the scenario's own draws, the same in each life, which no schedule disturbs.
        load: how much is to be done, and how often things go wrong that are not the machine's doing.
    """

    seed: int
    life: int
    chance: Random
    load: Load = Load()

    @abstractmethod
    def runtime(self, agents: Sequence[Agent], *, settings: Settings | None = None) -> Runtime:
        """Return a runtime on this world's store, not yet entered. What it acknowledges is kept in the world."""

    @abstractmethod
    def happen(self, effect: str) -> None:
        """Let an effect happen out in the world: it stays, whatever becomes of the process."""

    @abstractmethod
    def happened(self, effect: str) -> int:
        """Return how often an effect has happened."""

    def acknowledged(self, receipt: Receipt) -> None:  # noqa: B027 - a world may be told and do nothing
        """Remember that a client has this receipt in hand; this world's runtimes call it."""

    def delivered(self, result: Result) -> None:  # noqa: B027
        """Remember that a client has this deliverable in hand; this world's runtimes call it for `ask`."""

    @abstractmethod
    def check(self) -> object:
        """Check what must be true of the store, and of what clients were told.

        Raises:
            Violated: something may not be.
        """

    @abstractmethod
    def kill(self) -> NoReturn:
        """Kill the process, here: nothing of it goes on."""

    def report(self, violation: Violated) -> None:
        """End the run with a violation, from wherever: also from inside a handler, whose exceptions are its turn's.

        Raises:
            Violated: in a world that cannot end the run in another way.
        """
        raise violation

    def started(self, runtime: Runtime) -> None:  # noqa: B027
        """Be told that one of this world's runtimes has started."""

    def stopped(self, runtime: Runtime) -> None:  # noqa: B027
        """Be told that one of this world's runtimes has closed."""


Life = Callable[[World], Awaitable[None]]
"""What one process does. After a kill it is called again, in the same world: so it sends under keys."""
