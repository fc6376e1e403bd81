"""The disk: the tables that survive a process, and a view of them for those who check."""

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b

import msgspec

from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import STATE_OF, ReceiptRow
from turnkeeper.kernel.records import Deliverable, HandedOff, StateSet, WaitStood
from turnkeeper.kernel.rows import AgentRow, NumberedEdge, Rows, SessionRow, SignalRow, StoredTurn
from turnkeeper.kernel.supervision.noted import ChildEvent, DesiredRow
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState
from turnkeeper.kernel.wait import OpenWait

__all__ = ["Disk", "Node", "Pruned", "Receipt", "Turn"]


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
    digest: bytes | None = None
    parent_id: int | None = None


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
    arrived: str = ""
    duplicate_count: int = 0
    retired: bool = False


class Pruned(msgspec.Struct, frozen=True, gc=False):
    """What was deleted of a turn that was over, kept for whoever asks whether it might be."""

    turn: Turn
    receipt: Receipt
    delivered: Deliverable
    edges: dict[int, NumberedEdge]


class Disk:
    """What survives the process: the tables, by their ids. A store is one process's handle on it.

    `owner` is the store that has it open. `addresses`, `keys` and `running` are the unique indexes,
    `counts` the numbers given out; `noted` are the events of supervision, by path and number. `pruned` is no table: it
    is what was deleted.
    """

    __slots__ = (
        "actors",
        "addresses",
        "counts",
        "deliverables",
        "desired",
        "edges",
        "handoffs",
        "keys",
        "nodes",
        "noted",
        "owner",
        "pruned",
        "receipts",
        "running",
        "signals",
        "states",
        "store_id",
        "turns",
        "waits",
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
        self.counts: dict[str, int] = {"edges": 0, "child_events": 0}
        self.deliverables: dict[int, Deliverable] = {}
        self.addresses: dict[Address, int] = {}
        self.keys: dict[tuple[int, str], int] = {}
        self.running: dict[int, int] = {}
        self.pruned: dict[int, Pruned] = {}
        self.desired: dict[str, DesiredRow] = {}
        self.noted: dict[str, dict[int, ChildEvent]] = {}
        self.waits: dict[int, dict[int, WaitStood]] = {}
        self.signals: dict[int, SignalRow] = {}
        self.handoffs: dict[int, HandedOff] = {}
        self.states: dict[int, StateSet] = {}

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
                for table in (self.turns, self.receipts, self.deliverables, self.states, self.handoffs)
            ),
            [(number, *msgspec.structs.astuple(edge)) for number, edge in edges],
            [msgspec.structs.astuple(wait) for wait in self.stood()],
            [(*msgspec.structs.astuple(sent), *later) for _, (sent, *later) in sorted(self.signals.items())],
            self.wanted(),
            self.child_events(),
        )
        return blake2b(msgspec.msgpack.encode(tables), digest_size=32).hexdigest()

    def stood(self) -> list[WaitStood]:
        """Return what turns stand on, in the order of acceptance and, of each, of its steps."""
        return [wait for _, of_turn in sorted(self.waits.items()) for _, wait in sorted(of_turn.items())]

    def wanted(self) -> list[DesiredRow]:
        """Return what is wanted of whom, by path."""
        return [row for _, row in sorted(self.desired.items())]

    def child_events(self, path: str | None = None, after: int = 0) -> list[ChildEvent]:
        """Return events of supervision after a number, in the order in which they were committed."""
        tables = self.noted.values() if path is None else [self.noted.get(path, {})]
        return sorted(event for of_path in tables for number, event in of_path.items() if number > after)

    def turn_row(self, turn: Turn) -> TurnRow:
        """Return a turn as its readers see it."""
        edges = self.edges[turn.turn_id]
        last = max(edges, default=-1)
        return TurnRow(
            turn.turn_id,
            turn.actor_id,
            TurnState(turn.state),
            turn.epoch,
            turn.version,
            turn.attempt,
            last + 1,
            turn.boot_id,
            turn.due_at,
            edges[last].edge.digest if edges else b"",
        )

    def joined(self, turn_id: int) -> list[Receipt]:
        """Return the receipts of the messages that have joined a turn, in the order of acceptance."""
        receipts = sorted(self.receipts.items())
        return [receipt for number, receipt in receipts if receipt.turn_id == turn_id != number]

    def receipt_row(self, receipt: Receipt, state: TurnState | None = None) -> ReceiptRow:
        """Return a receipt as its readers see it; its state is its turn's, whatever turn it is read with."""
        return ReceiptRow(
            receipt.receipt_id,
            receipt.actor_id,
            receipt.key,
            receipt.turn_id,
            receipt.digest,
            STATE_OF[state or TurnState(self.turns[receipt.turn_id].state)],
            receipt.duplicate_count,
            receipt.first_seen,
            receipt.last_seen,
            receipt.expires_at,
            receipt.arrived,
            receipt.retired,
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

    def agents(self) -> list[AgentRow]:
        found: dict[str, Counter[str]] = {}
        for actor_id, turns in self._turns.items():
            found.setdefault(self._disk.actors[actor_id].agent_id, Counter()).update(turn.state for turn in turns)
        states = (TurnState.QUEUED, TurnState.RUNNING, TurnState.SUSPENDED)
        return [AgentRow(agent_id, *(turns[state] for state in states)) for agent_id, turns in sorted(found.items())]

    def histories(self) -> Iterator[tuple[SessionRow, list[StoredTurn]]]:
        for session in self.sessions():
            yield session, self.turns(session.actor_id)

    def turns(self, actor_id: int) -> list[StoredTurn]:
        return [self._stored(turn) for turn in self._turns.get(actor_id, ())]

    def turn(self, turn_id: int) -> StoredTurn | None:
        turn = self._disk.turns.get(turn_id)
        return None if turn is None else self._stored(turn)

    def _stored(self, turn: Turn) -> StoredTurn:
        receipt = self._disk.receipts.get(turn.turn_id)
        row = self._disk.turn_row(turn)
        opening = None if receipt is None else self._disk.receipt_row(receipt, row.state)
        return StoredTurn(row, turn.digest, opening)

    def address(self, actor_id: int) -> Address | None:
        return self._disk.actors.get(actor_id)

    def live(self) -> list[int]:
        return [turn_id for turn_id, turn in sorted(self._disk.turns.items()) if turn.state not in TERMINAL]

    def live_of(self, actor_id: int) -> list[int]:
        return [turn.turn_id for turn in self._turns.get(actor_id, ()) if turn.state not in TERMINAL]

    def running(self) -> list[int]:
        return [turn_id for turn_id in self.live() if self._disk.turns[turn_id].state == TurnState.RUNNING]

    def waits(
        self,
        kind: str,
        after: tuple[int, int],
        limit: int,
        *,
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> list[tuple[int, int]]:
        disk = self._disk

        def within(turn_id: int) -> bool:
            found = disk.actors[disk.turns[turn_id].actor_id]
            return tenant in {None, found.tenant} and session_id in {None, found.session_id}

        return [
            (wait.turn_id, wait.issued)
            for wait in disk.stood()
            if wait.kind == kind and (wait.turn_id, wait.issued) > after and within(wait.turn_id)
        ][:limit]

    def stands(self, turn_id: int) -> list[OpenWait]:
        waits = sorted(self._disk.waits.get(turn_id, {}).items())
        return [OpenWait(issued, wait.kind, wait.due_at, wait.child_id) for issued, wait in waits]

    def signals(self) -> Iterator[SignalRow]:
        yield from (signal for _, signal in sorted(self._disk.signals.items()))

    def duplicated(self) -> list[int]:
        return [receipt.turn_id for _, receipt in sorted(self._disk.receipts.items()) if receipt.duplicate_count]

    def lease_until(self, boot_id: int) -> float | None:
        node = self._disk.nodes.get(boot_id)
        return None if node is None or node.stopped_at is not None else node.lease_until

    def edges(self, turn_id: int) -> list[NumberedEdge]:
        return [edge for _, edge in sorted(self._disk.edges.get(turn_id, {}).items())]

    def joined(self, turn_id: int) -> list[ReceiptRow]:
        return [self._disk.receipt_row(receipt) for receipt in self._disk.joined(turn_id)]

    def deliverable(self, turn_id: int) -> Deliverable | None:
        return self._disk.deliverables.get(turn_id)

    def state(self, actor_id: int) -> StateSet | None:
        return self._disk.states.get(actor_id)

    def desired(self) -> list[DesiredRow]:
        return self._disk.wanted()

    def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        return self._disk.child_events(path, after)[:limit]

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
        for sent, taken_by, _ in self._disk.signals.values():
            if taken_by in turns and turns[taken_by].actor_id != sent.actor_id:
                yield f"signal {sent.signal_id}", f"was taken by turn {taken_by} of another actor"
        for handoff in self._disk.handoffs.values():
            turn, to = turns.get(handoff.turn_id), Address(handoff.tenant, handoff.session_id, handoff.to_agent)
            if to not in self._disk.addresses:
                yield f"handoff {handoff.turn_id}", "is to an agent whom nobody has spoken to"
            if turn is not None and self._disk.actors[turn.actor_id] != to:
                yield f"handoff {handoff.turn_id}", "is told of a turn of another agent"
