"""Stopping: where a process under test may be killed, and the kill."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from turnkeeper.kernel.edge import Edge
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Happening, LiveTurn, Marks, Points, Store
from turnkeeper.kernel.receipt import ReceiptRow
from turnkeeper.kernel.records import Deliverable, Record, StateSet
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.noted import ChildEvent, DesiredRow
from turnkeeper.kernel.turn import TurnRow

__all__ = ["POINTS", "KillAt", "PointedStore"]

T = TypeVar("T")

POINTS: Final = ("commit.before", "commit.after", "effect.before", "effect.after")
"""The names of the crash points, in the order in which an effect's intent passes them."""


class KillAt:
    """Points that are counted, and at one of which the process is killed. `passed` is how many were reached."""

    __slots__ = ("_at", "passed")

    def __init__(self, at: int | None) -> None:
        """Take the number of the point to be killed at, from 1; None to live."""
        self._at = at
        self.passed = 0

    def reached(self, point: str, subject: str) -> None:  # noqa: ARG002 - which point it is makes no difference
        """Count the point; kill this process with SIGKILL if it is the one."""
        self.passed += 1
        if self.passed == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


class PointedStore:
    """A store that says when a commit begins and when it stands: `commit.before` and `commit.after`."""

    __slots__ = ("_points", "_store", "path", "waiting")

    def __init__(self, store: Store, points: Points) -> None:
        """Stand before a store."""
        self._store = store
        self._points = points
        self.path = store.path
        self.waiting = store.waiting

    async def open(self) -> Marks:
        """See `Store.open`."""
        return await self._store.open()

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        """Pass a point, write, pass a point; see `Store.apply`."""
        self._points.reached("commit.before", "")
        rejected = await self._store.apply(points)
        self._points.reached("commit.after", "")
        return rejected

    async def live_turns(self) -> list[LiveTurn]:
        """See `Store.live_turns`."""
        return await self._store.live_turns()

    async def awake_turns(self) -> list[LiveTurn]:
        """See `Store.awake_turns`."""
        return await self._store.awake_turns()

    async def live_turns_of(self, actor_id: int) -> list[LiveTurn]:
        """See `Store.live_turns_of`."""
        return await self._store.live_turns_of(actor_id)

    async def live_turns_after(self, actor_id: int, turn_id: int, limit: int) -> list[LiveTurn]:
        """See `Store.live_turns_after`."""
        return await self._store.live_turns_after(actor_id, turn_id, limit)

    async def actor_id(self, address: Address) -> int | None:
        """See `Store.actor_id`."""
        return await self._store.actor_id(address)

    async def receipt(self, actor_id: int, key: str) -> ReceiptRow | None:
        """See `Store.receipt`."""
        return await self._store.receipt(actor_id, key)

    async def turn(self, turn_id: int) -> TurnRow | None:
        """See `Store.turn`."""
        return await self._store.turn(turn_id)

    async def edges(self, turn_id: int) -> list[Edge]:
        """See `Store.edges`."""
        return await self._store.edges(turn_id)

    async def state(self, actor_id: int) -> StateSet | None:
        """See `Store.state`."""
        return await self._store.state(actor_id)

    async def happened(self, since: int, limit: int) -> list[Happening]:
        """Return committed edges after an offset."""
        return await self._store.happened(since, limit)

    async def desired(self) -> list[DesiredRow]:
        """See `Store.desired`."""
        return await self._store.desired()

    async def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        """See `Store.child_events`."""
        return await self._store.child_events(path, after, limit)

    async def look(self, question: Callable[[Rows], T]) -> T:
        """Answer a question from one consistent view of the rows."""
        return await self._store.look(question)

    async def prune(self, ended_before: float, now: float, limit: int) -> int:
        """Delete turns that are over; a crash point before and after, as around a commit."""
        self._points.reached("commit.before", "prune")
        pruned = await self._store.prune(ended_before, now, limit)
        self._points.reached("commit.after", "prune")
        return pruned

    async def deliverable(self, turn_id: int) -> Deliverable | None:
        """See `Store.deliverable`."""
        return await self._store.deliverable(turn_id)
