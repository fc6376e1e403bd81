"""Rounds: siblings that stand on each other go down together, in reverse, and come up together, in order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from turnkeeper.kernel.supervision.child import Restart
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.slot import SlotState
from turnkeeper.kernel.supervision.strategy import Strategy, affected
from turnkeeper.supervisors.place import Place

__all__ = ["Rounds"]


class Rounds:
    """Replaces what is affected by falls, one round at a time; it has a task while a round is under way."""

    __slots__ = ("_fallen", "_owed", "_places", "_start", "_strategy", "_task")

    def __init__(self, strategy: Strategy, places: Mapping[str, Place], start: Callable[[Place], None]) -> None:
        """Replace children at these places.

        Args:
            strategy: who is affected by whose fall.
            places: in the order of their starts.
            start: starts one; where it cannot be started, it has fallen once more when this returns.
        """
        self._strategy = strategy
        self._places = places
        self._start = start
        self._fallen: list[tuple[Place, float]] = []
        self._owed: set[str] = set()  # stopped by a round, and not started again yet: the next round goes on with them
        self._task: asyncio.Task[None] | None = None

    async def over(self) -> None:
        """Wait until no round is under way."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def add(self, place: Place, due_at: float) -> None:
        """Replace one that has fallen, with its siblings, not before `due_at` (the loop's time, s)."""
        self._fallen.append((place, due_at))
        if self._task is None:
            self._begin()

    def cancel(self) -> None:
        """Start nothing any more; what is being stopped goes down all the same."""
        self._fallen.clear()
        self._owed.clear()
        if self._task is not None:
            self._task.cancel()

    def behind(self, work: Awaitable[None] | None) -> Awaitable[None] | None:
        """Return work with the end of the round that is under way, which nobody else waits for, behind it."""
        return work if self._task is None else self._behind(work)

    async def _behind(self, work: Awaitable[None] | None) -> None:
        if work is not None:
            await work
        await self.over()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._done)

    def _done(self, _: object) -> None:
        self._task = None
        if self._fallen:
            self._begin()

    async def _run(self) -> None:
        fallen, self._fallen = self._fallen, []
        names = [*self._places]
        of_each = (affected(self._strategy, names, place.spec.name) for place, _ in fallen if place.spec.name in names)
        anew = {name for names_ in of_each for name in names_}
        await self._take_down([self._places[name] for name in reversed(names) if name in anew])
        self._owed.update(place.spec.name for place, _ in fallen if place.spec.name in names)
        await asyncio.sleep(max(due_at for _, due_at in fallen) - asyncio.get_running_loop().time())
        await self._bring_up()

    async def _take_down(self, group: list[Place]) -> None:
        for place in group:
            if place.slot.state in {SlotState.SPAWNING, SlotState.RUNNING}:
                if place.spec.restart is not Restart.TEMPORARY:
                    self._owed.add(place.spec.name)
                await place.over(place.end())

    async def _bring_up(self) -> None:
        """Start what is owed, in order. One that has fallen again makes those behind it wait for its next round."""
        for name, place in list(self._places.items()):
            if name not in self._owed or place.desired is not Desired.RUNNING:
                continue
            if place.slot.state is SlotState.IDLE:
                self._start(place)
            await place.over(place.work)
            if any(fallen is place for fallen, _ in self._fallen):
                return
            self._owed.discard(name)
