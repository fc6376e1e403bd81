"""Virtual time and seeded chance: what a simulated runtime takes for the machine's clock and randomness."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

__all__ = ["SeededChance", "VirtualClock"]

_EPOCH_S: Final = 1_700_000_000.0
"""What virtual wall clocks begin at: a moment in November 2023, as good as any."""


class VirtualClock:
    """Wall time that is a world's virtual time."""

    __slots__ = ("_now",)

    def __init__(self, now: Callable[[], float]) -> None:
        """Take what says how many virtual seconds have passed since the world began."""
        self._now = now

    @property
    def now_s(self) -> float:
        """Return virtual seconds since the world began."""
        return self._now()

    def time(self) -> float:
        """Return virtual seconds since the epoch: what rows hold."""
        return _EPOCH_S + self._now()

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, and everything that is due in it happen."""
        await asyncio.sleep(seconds)


class SeededChance:
    """The runtime's randomness, from the seed."""

    __slots__ = ("_seed", "random")

    def __init__(self, seed: int) -> None:
        """Take the seed."""
        self._seed = seed
        self.random = Random(f"runtime {seed}").random

    def token(self) -> str:
        """Return one name for all that one seed makes."""
        return f"disk-{self._seed}"
