"""The store in memory: one process's handle on a disk."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from turnkeeper.kernel.edge import Edge, EdgeKind
from turnkeeper.kernel.errors import StorageFailed, StoreInUse, TurnkeeperError
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Happening, LiveTurn, Marks
from turnkeeper.kernel.receipt import ReceiptRow
from turnkeeper.kernel.records import Deliverable, Record, StateSet
from turnkeeper.kernel.refusal import CAREFUL_BATCHES, may_be_followed
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.noted import ChildEvent, DesiredRow
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState
from turnkeeper.testing.memory.asked import MemoryWaiting
from turnkeeper.testing.memory.disk import Disk
from turnkeeper.testing.memory.transaction import prune, write

__all__ = ["MemoryStore"]

T = TypeVar("T")


class MemoryStore:
    """A store on a `Disk`; see `kernel.ports.Store`. Points are applied one after another, in one step.

    A point's records are applied in their order. SQLite's store is laxer in one respect: a batch whose records all
    fit if sorted by kind stands there, even where a record of it came before what it needs.
    """

    __slots__ = ("_careful", "_dead", "_disk", "_pause", "path", "waiting")

    def __init__(self, disk: Disk, *, pause: Callable[[], Awaitable[None]] | None = None) -> None:
        """Take the disk; nothing is owned before `open`.

        Args:
            disk: where the rows are.
            pause: awaited before a commit, again once it stands, and before each read: latency, and the moments at
                which the process can be killed.
        """
        self.path = "memory"
        self._disk = disk
        self._pause = pause
        self.waiting = MemoryWaiting(disk, self._ready)
        self._dead = False
        self._careful = 0

    async def open(self) -> Marks:
        """Take the disk.

        Raises:
            StoreInUse: another store has it, or this one has it already.
            StorageFailed: the store's process was killed.
        """
        disk = self._disk
        if self._dead:
            raise self._unusable()
        if disk.owner is not None:
            raise StoreInUse(self.path, "another store")
        disk.owner = self
        tables = disk.nodes, disk.actors, disk.receipts, disk.signals
        return Marks(disk.store_id, *(max(table, default=0) for table in tables))

    async def close(self) -> None:
        """Give the disk back. Does nothing where it is not held: twice, after a failed `open`, or after `die`."""
        if self._disk.owner is self:
            self._disk.owner = None

    def die(self) -> None:
        """Be killed: the disk is free at once, and nothing that this store still tries lands or is answered."""
        self._dead = True
        if self._disk.owner is self:
            self._disk.owner = None

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        """Write the commit points; see `Store.apply`.

        Raises:
            StorageFailed: the store is closed, or its process was killed; then the points stand or do not.
        """
        await self._ready()
        rejected = write(self._disk, points, careful=self._careful > 0)
        followed = any(may_be_followed(points[number]) for number in rejected)
        self._careful = CAREFUL_BATCHES if followed else max(0, self._careful - 1)
        if self._pause is not None:
            await self._pause()
        if self._dead:
            raise self._unusable()
        return rejected

    async def live_turns(self) -> list[LiveTurn]:
        """Return every live turn, in the order of acceptance."""
        await self._ready()
        return self._live()

    async def awake_turns(self) -> list[LiveTurn]:
        """Return the live turns of the actors that have no suspended one."""
        live = await self.live_turns()
        asleep = {turn.actor_id for turn in self._disk.turns.values() if turn.state == TurnState.SUSPENDED}
        return [turn for turn in live if turn.row.actor_id not in asleep]

    async def live_turns_of(self, actor_id: int) -> list[LiveTurn]:
        """Return an actor's live turns."""
        return [turn for turn in await self.live_turns() if turn.row.actor_id == actor_id]

    async def live_turns_after(self, actor_id: int, turn_id: int, limit: int) -> list[LiveTurn]:
        """Return live turns behind a place in the order of actors and turns."""
        await self._ready()
        placed = {(live.row.actor_id, live.row.turn_id): live for live in self._live()}
        return [placed[place] for place in sorted(placed) if place > (actor_id, turn_id)][:limit]

    def _live(self) -> list[LiveTurn]:
        disk = self._disk
        live: list[LiveTurn] = []
        joined = Counter(one.turn_id for one in disk.receipts.values() if one.turn_id != one.receipt_id)
        for turn_id, turn in sorted(disk.turns.items()):
            receipt = disk.receipts.get(turn_id)
            if turn.state not in TERMINAL and receipt is not None and disk.edges[turn_id]:
                address = disk.actors[turn.actor_id]
                known = receipt.key, receipt.digest, receipt.expires_at
                told = turn.parent_id, receipt.arrived, joined[turn_id]
                live.append(LiveTurn(disk.turn_row(turn), address, *known, *told))
        return live

    async def actor_id(self, address: Address) -> int | None:
        """Return the id of an actor that has been spoken to before."""
        await self._ready()
        return self._disk.addresses.get(address)

    async def receipt(self, actor_id: int, key: str) -> ReceiptRow | None:
        """Return the receipt a key stands for now."""
        await self._ready()
        receipt_id = self._disk.keys.get((actor_id, key))
        if receipt_id is None:
            return None
        return self._disk.receipt_row(self._disk.receipts[receipt_id])

    async def turn(self, turn_id: int) -> TurnRow | None:
        """Return a turn as stored."""
        await self._ready()
        found = self._disk.turns.get(turn_id)
        return None if found is None else self._disk.turn_row(found)

    async def edges(self, turn_id: int) -> list[Edge]:
        """Return a turn's edges in order."""
        await self._ready()
        edges = sorted(self._disk.edges.get(turn_id, {}).items())
        return [msgspec.structs.replace(edge, kind=EdgeKind(edge.kind)) for _, (_, edge) in edges]

    async def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable once it has one."""
        await self._ready()
        return self._disk.deliverables.get(turn_id)

    async def state(self, actor_id: int) -> StateSet | None:
        """Return what an actor remembers."""
        await self._ready()
        return self._disk.states.get(actor_id)

    async def happened(self, since: int, limit: int) -> list[Happening]:
        """Return committed edges after an offset, in the order in which they were committed."""
        await self._ready()
        disk = self._disk
        numbered = sorted(edge for of_turn in disk.edges.values() for edge in of_turn.values() if edge.number > since)
        found = [
            Happening(
                number, edge.turn_id, edge.ordinal, edge.kind, edge.at, disk.actors[disk.turns[edge.turn_id].actor_id]
            )
            for number, edge in numbered[:limit]
        ]
        await self._ready()  # on its way back: more may be committed meanwhile, and its reader must not miss it
        return found

    async def desired(self) -> list[DesiredRow]:
        """Return what is wanted of whom, by path."""
        await self._ready()
        return self._disk.wanted()

    async def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        """Return events of supervision after a number, in the order in which they were committed."""
        await self._ready()
        return self._disk.child_events(path, after)[:limit]

    async def look(self, question: Callable[[Rows], T]) -> T:
        """Answer a question from the rows as they are."""
        await self._ready()
        return question(self._disk.rows())

    async def prune(self, ended_before: float, now: float, limit: int) -> int:
        """Delete turns that are over, in one step; see `Store.prune`."""
        if self._disk.owner is not self:
            raise self._unusable()
        return prune(self._disk, ended_before, now, limit)

    async def _ready(self) -> None:
        """Pause; refuse who does not own the disk before it, and who no longer owns it after it."""
        if self._disk.owner is not self:
            raise self._unusable()
        if self._pause is not None:
            await self._pause()
            if self._disk.owner is not self:
                raise self._unusable()

    def _unusable(self) -> StorageFailed:
        return StorageFailed(self.path, "the process was killed" if self._dead else "the store is closed")
