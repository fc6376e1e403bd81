"""The disk: the tables that survive a process, and a view of them for those who check."""

from collections.abc import Iterator
from hashlib import blake2b

import msgspec

from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.rows import NumberedEdge, OpeningReceipt, Rows, SessionRow, StoredTurn
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState

__all__ = ["Disk", "Node", "Receipt", "Turn"]


class Node(msgspec.Struct, frozen=True, gc=False):
    """A runtime that opened the store."""

    boot_id: int
    pid: int
    started_at: float
    lease_until: float
    stopped_at: float | None = None


class Turn(msgspec.Struct, frozen=True, gc=False):
    """A turn without what its edges say."""

    turn_id: int
    actor_id: int
    state: str
    epoch: int
    version: int
    attempt: int
    boot_id: int | None
    due_at: float | None = None
    deliverable_id: int | None = None


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """A receipt; its state is its turn's."""

    receipt_id: int
    actor_id: int
    key: str
    turn_id: int
    digest: bytes
    first_seen: float
    last_seen: float
    expires_at: float
    duplicate_count: int = 0
    retired: bool = False


class Disk:
    """What survives the process: the tables, by their ids. A store is one process's handle on it.

    `owner` is the store that has it open. `addresses`, `keys` and `running` are the unique indexes,
    `counts` the numbers given out.
    """

    __slots__ = (
        "actors",
        "addresses",
        "counts",
        "deliverables",
        "edges",
        "keys",
        "nodes",
        "owner",
        "receipts",
        "running",
        "store_id",
        "turns",
    )

    def __init__(self, store_id: str = "disk") -> None:
        """Make an empty disk; `store_id` is the name of the store on it."""
        self.store_id = store_id
        self.owner: object | None = None
        self.nodes: dict[int, Node] = {}
        self.actors: dict[int, Address] = {}
        self.turns: dict[int, Turn] = {}
        self.receipts: dict[int, Receipt] = {}
        self.edges: dict[int, dict[int, NumberedEdge]] = {}
        self.counts: dict[str, int] = {"edges": 0}
        self.deliverables: dict[int, Deliverable] = {}
        self.addresses: dict[Address, int] = {}
        self.keys: dict[tuple[int, str], int] = {}
        self.running: dict[int, int] = {}

    def rows(self) -> Rows:
        """Return a view of the rows, good until the next commit; for `kernel.history.check_rows`."""
        return _DiskRows(self)

    def digest(self) -> str:
        """Return what two disks have in common only if all their rows are equal, nodes aside: they hold process ids."""
        edges = sorted((number, edge) for of_turn in self.edges.values() for number, edge in of_turn.values())
        tables = (
            sorted(self.actors.items()),
            *(
                [msgspec.structs.astuple(row) for _, row in sorted(table.items())]
                for table in (self.turns, self.receipts, self.deliverables)
            ),
            [(number, *msgspec.structs.astuple(edge)) for number, edge in edges],
        )
        return blake2b(msgspec.msgpack.encode(tables), digest_size=32).hexdigest()

    def turn_row(self, turn: Turn) -> TurnRow:
        """Return a turn as its readers see it."""
        return TurnRow(
            turn.turn_id,
            turn.actor_id,
            TurnState(turn.state),
            turn.epoch,
            turn.version,
            turn.attempt,
            max(self.edges[turn.turn_id], default=-1) + 1,
            turn.boot_id,
            turn.due_at,
        )


class _DiskRows:
    """The rows of a disk, see `kernel.rows.Rows`."""

    __slots__ = ("_disk", "_turns")

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._turns: dict[int, list[Turn]] = {actor_id: [] for actor_id in sorted(disk.actors)}
        for _, turn in sorted(disk.turns.items()):
            self._turns[turn.actor_id].append(turn)

    def sessions(self) -> Iterator[SessionRow]:
        seen: dict[int, float] = {}
        for receipt in self._disk.receipts.values():
            seen[receipt.actor_id] = max(receipt.last_seen, seen.get(receipt.actor_id, receipt.last_seen))
        for actor_id, turns in self._turns.items():
            yield SessionRow(
                actor_id,
                self._disk.actors[actor_id],
                len(turns),
                sum(turn.state not in TERMINAL for turn in turns),
                sum(turn.state == TurnState.FAILED for turn in turns),
                seen.get(actor_id),
            )

    def turns(self, actor_id: int) -> list[StoredTurn]:
        found: list[StoredTurn] = []
        for turn in self._turns.get(actor_id, ()):
            receipt = self._disk.receipts.get(turn.turn_id)
            row = self._disk.turn_row(turn)
            if receipt is None:
                found.append(StoredTurn(row, None, None))
            else:
                opening = OpeningReceipt(receipt.key, receipt.digest, receipt.duplicate_count)
                found.append(StoredTurn(row, opening, receipt.first_seen))
        return found

    def edges(self, turn_id: int) -> list[NumberedEdge]:
        return [edge for _, edge in sorted(self._disk.edges.get(turn_id, {}).items())]

    def deliverable(self, turn_id: int) -> Deliverable | None:
        return self._disk.deliverables.get(turn_id)

    def orphans(self) -> Iterator[tuple[str, str]]:
        receipts, turns = self._disk.receipts.values(), self._disk.turns
        received = {receipt.turn_id for receipt in receipts}
        for turn_id in turns:
            if turn_id not in received:
                yield f"turn {turn_id}", "has no receipt"
        for receipt in receipts:
            if turns[receipt.turn_id].actor_id != receipt.actor_id:
                yield (
                    f"receipt {receipt.receipt_id}",
                    f"and its turn {receipt.turn_id} belong to different actors",
                )
