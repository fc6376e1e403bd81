"""The alarm: it wakes suspended turns at their deadlines, out of the store, however many there are."""

import asyncio
import math
from contextlib import suppress
from typing import Final, NamedTuple

from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import ShuttingDown, TurnkeeperError, UnknownAgent
from turnkeeper.kernel.ports import DueTurn

__all__ = ["Alarm"]

_PAGE_MAX: Final = 100
"""Turns that are woken at once."""

_ASIDE_MAX: Final = 1_000
"""Turns that could not be woken and are tried again by themselves; with more, it is the store that fails."""

_LOOK_EVERY_S: Final = 60.0
"""How often, at least, the wall clock is looked at: it may be put forward."""


class _Aside(NamedTuple):
    """A turn that could not be woken: how often that was tried, and when it is again (wall time, s)."""

    due: DueTurn
    tries: int
    again_at: float


class Alarm:
    """Knows the next deadline, and nothing of the others: they stand in the store, in their order.

    `_place` is how far that order has been gone through. Turns of agents that this runtime was not given stay behind.
    One that cannot be woken, because what is stored of it is damaged, say, is put `_aside`, and holds up nobody.
    """

    __slots__ = ("_aside", "_node", "_place", "_until", "_woken")

    def __init__(self, node: Node) -> None:
        """Wake the turns of a node; from now on it says which deadlines come."""
        self._node = node
        self._place = (-math.inf, -1)
        self._aside: dict[int, _Aside] = {}
        self._until = -math.inf
        self._woken = asyncio.Event()
        node.on_due = self.told

    def told(self, due_at: float) -> None:
        """Take note of a deadline of a turn that was suspended just now (wall time, s)."""
        if due_at <= self._place[0]:
            self._place = (due_at, -1)
        if due_at < self._until:
            self._woken.set()

    async def run(self) -> None:
        """Wake who is due, again and again, until cancelled."""
        node = self._node
        while True:
            self._woken.clear()
            self._until = math.inf
            try:
                await self._ring()
                next_due = None if self._full else await node.store.waiting.next_due(self._place[0])
                due = [] if next_due is None else [next_due]
                again = [aside.again_at for aside in self._aside.values()]
                self._until = min([*due, *again, node.clock.time() + _LOOK_EVERY_S])
            except TurnkeeperError as error:
                if node.closing:
                    return
                node.log.warning("alarm.failed", error=str(error))
                self._until = node.clock.time() + node.settings.retry_base_s
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until - node.clock.time())):
                    await self._woken.wait()

    async def _ring(self) -> None:
        """Wake everybody whose deadline has come.

        Raises:
            StorageFailed: the store cannot be read.
        """
        node, now = self._node, self._node.clock.time()
        await asyncio.gather(*[self._wake(one.due) for one in self._aside.values() if one.again_at <= now])
        while not self._full:
            page = await node.store.waiting.due_turns(self._place, node.clock.time(), _PAGE_MAX)
            if not page:
                return
            self._place = page[-1][:2]
            await asyncio.gather(*map(self._wake, page))

    @property
    def _full(self) -> bool:
        return len(self._aside) >= _ASIDE_MAX

    async def _wake(self, due: DueTurn) -> None:
        """Wake a turn, or put it aside where that fails."""
        node, turn_id = self._node, due.turn_id
        try:
            with suppress(UnknownAgent, ShuttingDown):
                async with node.hold(due.address) as agent:
                    await agent.expire(turn_id)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not hold up the others
            tries = self._aside[turn_id].tries + 1 if turn_id in self._aside else 1
            pause_s = node.settings.backoff_s(tries, node.chance.random())
            self._aside[turn_id] = _Aside(due, tries, node.clock.time() + pause_s)
            address, kind = str(due.address), type(error).__name__
            node.log.warning("turn.unreadable", turn_id=turn_id, address=address, error=kind)
        else:
            self._aside.pop(turn_id, None)
