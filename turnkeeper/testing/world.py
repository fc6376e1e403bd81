"""The world: what outlives a process. A life is what one process does in it, until it returns or is killed."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from turnkeeper.actors.definitions import Agent
from turnkeeper.kernel.settings import Settings
from turnkeeper.supervisors.runtime import Runtime

__all__ = ["Life", "World"]


class World(ABC):
    """What outlives a process: its store, what its effects did outside, and what its clients were told.

    The same life runs in every world: in virtual time with seeded schedules, in a real process that is killed,
    and on files that a power cut leaves.

    Args:
        seed: what everything random follows from.
        life: which life this is, from 1.
        chance: the scenario's own draws, which no schedule disturbs.
    """

    seed: int
    life: int
    chance: Random

    @abstractmethod
    def runtime(self, agents: Sequence[Agent], *, settings: Settings | None = None) -> Runtime:
        """Return a runtime on this world's store, not yet entered. What it acknowledges is kept in the world."""

    @abstractmethod
    def happen(self, effect: str) -> None:
        """Let an effect happen out in the world: it stays, whatever becomes of the process."""

    @abstractmethod
    def happened(self, effect: str) -> int:
        """Return how often an effect has happened."""


Life = Callable[[World], Awaitable[None]]
"""What one process does. After a kill it is called again, in the same world: so it sends under keys."""
