"""Schedules: who runs next among those that are ready, chosen by a seed, or as chosen before."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

__all__ = ["ReplayedSchedule", "Schedule", "SeededSchedule"]

_BOLDNESS = (1.0, 0.5, 0.1, 1.0)
"""How often a seed leaves the order of arrival, by seed modulo 4. Bugs of two kinds hide from either extreme: some
need many upsets in a row, others one upset in an otherwise orderly run."""


class Schedule(Protocol):
    """Chooses who runs next."""

    def choose(self, ready: Sequence[asyncio.Handle]) -> int:
        """Return which of the callbacks (two or more, in the order in which they became ready) runs next."""
        ...


class SeededSchedule:
    """Choices that follow from a seed. Those that are not the first in line are kept, if asked, for shrinking."""

    __slots__ = ("_bold", "_draw", "_kept", "_number")

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        """Begin the schedule of a seed."""
        self._draw = Random(f"schedule {seed}").random
        self._bold = _BOLDNESS[seed % len(_BOLDNESS)]
        self._kept: dict[int, int] | None = {} if keep else None
        self._number = 0

    @property
    def upsets(self) -> Mapping[int, int]:
        """Return the kept choices: the number of the choice, and who ran first instead of the first in line."""
        return self._kept or {}

    def choose(self, ready: Sequence[asyncio.Handle]) -> int:
        """Choose; see `Schedule`."""
        draw = self._draw()
        chosen = int(draw / self._bold * len(ready)) if draw < self._bold else 0
        if self._kept is not None:
            if chosen:
                self._kept[self._number] = chosen
            self._number += 1
        return chosen


class ReplayedSchedule:
    """The order of arrival, but for the given upsets. `said` tells in words what each of them did."""

    __slots__ = ("_number", "_upsets", "said")

    def __init__(self, upsets: Mapping[int, int]) -> None:
        """Take the upsets by the number of the choice."""
        self._upsets = upsets
        self._number = -1
        self.said: list[str] = []

    def choose(self, ready: Sequence[asyncio.Handle]) -> int:
        """Choose; see `Schedule`. An upset that no longer fits takes the last in line."""
        self._number += 1
        chosen = min(self._upsets.get(self._number, 0), len(ready) - 1)
        if chosen:
            self.said.append(f"choice {self._number}: {_named(ready[chosen])} before {_named(ready[0])}")
        return chosen


def _named(handle: asyncio.Handle) -> str:
    """Return whose step a callback is: a task's name, or the function's."""
    callback = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    return str(getattr(callback, "__qualname__", callback))
