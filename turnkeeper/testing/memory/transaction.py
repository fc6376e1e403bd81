"""The transaction: what each record does to a disk, which of them are refused, and why."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from turnkeeper.kernel import records
from turnkeeper.kernel.edge import Edge, EdgeKind, chained
from turnkeeper.kernel.errors import (
    DeliverableRecorded,
    KeyTaken,
    LeaseHeld,
    StaleEpoch,
    TurnkeeperError,
    TurnNotFound,
    VersionConflict,
)
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import Record
from turnkeeper.kernel.rows import NumberedEdge
from turnkeeper.kernel.supervision import noted
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.turn import TERMINAL, TurnState
from turnkeeper.testing.memory.disk import Disk, Node, Pruned, Receipt, Turn
from turnkeeper.testing.memory.fitting import FITS, refused, require, require_text, require_times
from turnkeeper.testing.memory.waiting import Waiting

__all__ = ["prune", "write"]


def _or_nothing(time: float | None) -> float | None:
    return None if time is None or math.isnan(time) else time


class _Transaction(Waiting):
    """Changes a disk. Every change is noted with what was there before, so that it can be undone."""

    __slots__ = ("_careful", "_disk")

    def __init__(self, disk: Disk, *, careful: bool) -> None:
        super().__init__()
        self._disk = disk
        self._careful = careful

    # ------------------------------------------------------------ nodes, actors, receipts

    def node_started(self, record: records.NodeStarted) -> None:
        require_times(record, record.started_at, record.lease_until)
        require(record.boot_id not in self._disk.nodes, record, "the boot has started already")
        node = Node(record.boot_id, record.pid, record.started_at, record.lease_until)
        self._put(self._disk.nodes, record.boot_id, node)

    def node_beat(self, record: records.NodeBeat) -> None:
        node = self._node(record.boot_id, record)
        require_times(record, record.lease_until)
        self._put(self._disk.nodes, record.boot_id, _replace(node, lease_until=record.lease_until))

    def node_stopped(self, record: records.NodeStopped) -> None:
        node = self._node(record.boot_id, record)
        self._put(self._disk.nodes, record.boot_id, _replace(node, stopped_at=_or_nothing(record.stopped_at)))

    def actor_opened(self, record: records.ActorOpened) -> None:
        address = Address(record.tenant, record.session_id, record.agent_id)
        require(record.actor_id not in self._disk.actors, record, "the id has an actor already")
        require(address not in self._disk.addresses, record, "the address has an actor already")
        self._put(self._disk.actors, record.actor_id, address)
        self._put(self._disk.addresses, address, record.actor_id)

    def receipt_accepted(self, record: records.ReceiptAccepted) -> None:
        require_times(record, record.first_seen, record.last_seen, record.expires_at)
        if record.receipt_id in self._disk.receipts or (record.actor_id, record.key) in self._disk.keys:
            raise KeyTaken(record.key)
        require(record.actor_id in self._disk.actors, record, "there is no such actor")
        require(record.turn_id in self._disk.turns, record, "there is no such turn")
        self._put(self._disk.receipts, record.receipt_id, Receipt(*msgspec.structs.astuple(record)))
        self._put(self._disk.keys, (record.actor_id, record.key), record.receipt_id)

    def receipt_seen(self, record: records.ReceiptSeen) -> None:
        receipt = self._disk.receipts.get(record.receipt_id)
        if receipt is None:
            raise VersionConflict(record.receipt_id, 0)
        require_times(record, record.last_seen)
        seen = _replace(receipt, duplicate_count=receipt.duplicate_count + 1, last_seen=record.last_seen)
        self._put(self._disk.receipts, record.receipt_id, seen)

    def receipt_moved(self, record: records.ReceiptMoved) -> None:
        receipt = self._disk.receipts.get(record.receipt_id)
        if receipt is None:
            raise VersionConflict(record.receipt_id, 0)
        require(record.turn_id in self._disk.turns, record, "there is no such turn")
        self._put(self._disk.receipts, record.receipt_id, _replace(receipt, turn_id=record.turn_id))

    def receipt_retired(self, record: records.ReceiptRetired) -> None:
        receipt = self._disk.receipts.get(record.receipt_id)
        if receipt is None or receipt.retired:
            raise VersionConflict(record.receipt_id, 0)
        self._put(self._disk.receipts, record.receipt_id, _replace(receipt, retired=True))
        self._drop(self._disk.keys, (receipt.actor_id, receipt.key))

    # ------------------------------------------------------------ turns

    def turn_inserted(self, record: records.TurnInserted) -> None:
        disk, running = self._disk, record.state == TurnState.RUNNING
        require(running or record.state == TurnState.QUEUED, record, f"no turn begins as {record.state}")
        require(running == (record.boot_id is not None), record, "a turn has an owner while it runs, and only then")
        if record.turn_id in disk.turns or (running and record.actor_id in disk.running):
            raise LeaseHeld(record.actor_id)
        require(record.actor_id in disk.actors, record, "there is no such actor")
        if running:
            self._node(record.boot_id, record)
            self._put(disk.running, record.actor_id, record.turn_id)
        begun = {name: getattr(record, name) for name in record.__struct_fields__}
        self._put(disk.turns, record.turn_id, Turn(**begun))
        self._put(disk.edges, record.turn_id, {})

    def turn_released(self, record: records.TurnReleased) -> None:
        turn = self._guarded(record)
        due_at, delivered = _or_nothing(record.due_at), record.deliverable_id is not None
        require(record.state in _STATES, record, f"{record.state} is no state")
        require(record.state != TurnState.RUNNING, record, "a turn that runs has an owner")
        require(record.state != TurnState.SUSPENDED or due_at is not None, record, "a wait has a deadline")
        require((record.state in TERMINAL) == delivered, record, "a turn has a deliverable once it ends, not before")
        require(record.deliverable_id in {None, record.turn_id}, record, "a deliverable is its own turn's")
        require(not delivered or record.turn_id in self._disk.deliverables, record, "there is no such deliverable")
        if turn.state == TurnState.RUNNING:
            self._drop(self._disk.running, turn.actor_id)
        after = Turn(
            turn.turn_id,
            turn.actor_id,
            record.state,
            record.epoch,
            record.version,
            record.attempt,
            None,
            due_at,
            record.deliverable_id,
            record.digest,
            turn.parent_id,
        )
        self._stands_no_more(turn, record.state)
        self._put(self._disk.turns, turn.turn_id, after)

    def turn_acquired(self, record: records.TurnAcquired) -> None:
        turn = self._guarded(record)
        require(turn.deliverable_id is None, record, "a turn that has ended does not run again")
        if self._disk.running.get(turn.actor_id, turn.turn_id) != turn.turn_id:
            raise LeaseHeld(turn.actor_id)
        self._node(record.boot_id, record)
        after = Turn(
            turn.turn_id,
            turn.actor_id,
            TurnState.RUNNING._value_,
            record.epoch,
            record.version,
            turn.attempt,
            record.boot_id,
            digest=turn.digest,
            parent_id=turn.parent_id,
        )
        self._stands_no_more(turn, after.state)
        self._put(self._disk.turns, turn.turn_id, after)
        self._put(self._disk.running, turn.actor_id, turn.turn_id)

    def deliverable(self, record: records.Deliverable) -> None:
        require_times(record, record.at)
        require(record.outcome in TERMINAL, record, f"{record.outcome} is no end")
        if record.turn_id in self._disk.deliverables:
            raise DeliverableRecorded(record.turn_id)
        require(record.turn_id in self._disk.turns, record, "there is no such turn")
        self._put(self._disk.deliverables, record.turn_id, record)

    def state_set(self, record: records.StateSet) -> None:
        turn = self._disk.turns.get(record.turn_id)
        said = turn is not None and (turn.actor_id, turn.state) == (record.actor_id, TurnState.COMPLETED)
        require(said, record, "it is not that turn's to say")
        require_times(record, record.at)
        self._put(self._disk.states, record.actor_id, record)

    # ------------------------------------------------------------ edges

    def edge_appended(self, record: records.EdgeAppended) -> None:
        turn = self._disk.turns.get(record.turn_id)
        edges = self._disk.edges.get(record.turn_id, {})
        gap = self._careful and record.ordinal != 0 and record.ordinal - 1 not in edges
        if turn is None or turn.epoch != record.fence or gap:
            raise StaleEpoch(record.turn_id, record.fence)
        require_times(record, record.at)
        if record.ordinal in edges:
            raise VersionConflict(record.turn_id, record.ordinal)
        self._append(record, record.ordinal, record.epoch, record.digest)

    def edge_appended_late(self, record: records.EdgeAppendedLate) -> None:
        turn = self._disk.turns.get(record.turn_id)
        edges = self._disk.edges[record.turn_id] if turn is not None else {}
        if turn is None or not edges:  # nothing to follow
            raise TurnNotFound(record.turn_id)
        require_times(record, record.at)
        last = max(edges)
        digest = chained(edges[last].edge.digest, record.turn_id, record.kind, record.at, record.detail)
        self._append(record, last + 1, turn.epoch, digest)

    def _append(
        self, record: records.EdgeAppended | records.EdgeAppendedLate, ordinal: int, epoch: int, digest: bytes
    ) -> None:
        kind = cast("EdgeKind", record.kind)  # as written, known or not: whoever reads it finds out
        edge = Edge(record.turn_id, ordinal, kind, epoch, record.at, record.detail, digest)
        number = self._disk.counts["edges"] + 1
        self._put(self._disk.counts, "edges", number)
        self._put(self._disk.edges[record.turn_id], ordinal, NumberedEdge(number, edge))

    # ------------------------------------------------------------ supervision

    def desired_set(self, record: records.DesiredSet) -> None:
        require_times(record, record.at)
        require(record.path != "", record, "it has no path")
        require_text(record, record.path, noted.PATH_BYTES_MAX)
        require_text(record, record.reason, noted.TEXT_BYTES_MAX)
        require_text(record, record.changed_by, noted.TEXT_BYTES_MAX)
        require(record.desired in _DESIRED, record, f"{record.desired} is nothing that can be wanted")
        row = noted.DesiredRow(*msgspec.structs.astuple(record))
        self._put(self._disk.desired, record.path, row._replace(desired=Desired(record.desired)))

    def child_noted(self, record: records.ChildNoted) -> None:
        disk = self._disk
        require_times(record, record.at)
        require(record.path != "", record, "it has no path")
        require_text(record, record.path, noted.PATH_BYTES_MAX)
        require(record.kind in _NOTED, record, f"{record.kind} is no kind of event")
        require(record.incarnation >= 0, record, "an incarnation is a number from 0")
        require(len(record.detail) <= noted.DETAIL_BYTES_MAX, record, "its detail is too long")
        self._node(record.boot_id, record)
        number = disk.counts["child_events"] + 1
        event = noted.ChildEvent(
            number,
            record.at,
            record.boot_id,
            record.path,
            noted.ChildEventKind(record.kind),
            record.incarnation,
            record.detail,
            record.digest,
        )
        self._put(disk.counts, "child_events", number)
        if record.path not in disk.noted:
            self._put(disk.noted, record.path, {})
        of_path = disk.noted[record.path]
        self._put(of_path, number, event)
        if len(of_path) > noted.EVENTS_PER_PATH_MAX:
            self._drop(of_path, min(of_path))
        for other in disk.noted.values():  # each event takes at most one with it, so no more can be too old
            if number - noted.EVENTS_MAX in other:
                self._drop(other, number - noted.EVENTS_MAX)

    # ------------------------------------------------------------ what several need

    def _node(self, boot_id: int | None, record: Record) -> Node:
        """Return a node that has started."""
        node = None if boot_id is None else self._disk.nodes.get(boot_id)
        if node is None:
            raise refused(record, "there is no such boot")
        return node

    def _guarded(self, record: records.TurnReleased | records.TurnAcquired) -> Turn:
        """Return the turn, if it is where the record moves it from."""
        turn = self._disk.turns.get(record.turn_id)
        if turn is None or (turn.epoch, turn.version) != (record.epoch_before, record.version_before):
            raise StaleEpoch(record.turn_id, record.epoch_before)
        return turn


_STATES: Final = frozenset(TurnState)
_DESIRED: Final = frozenset(Desired)
_NOTED: Final = frozenset(noted.ChildEventKind)
_replace: Final = msgspec.structs.replace
_APPLY: Final[Mapping[type[Record], Callable[[_Transaction, Any], None]]] = MappingProxyType(
    {
        records.NodeStarted: _Transaction.node_started,
        records.NodeBeat: _Transaction.node_beat,
        records.NodeStopped: _Transaction.node_stopped,
        records.ActorOpened: _Transaction.actor_opened,
        records.ReceiptAccepted: _Transaction.receipt_accepted,
        records.ReceiptSeen: _Transaction.receipt_seen,
        records.ReceiptMoved: _Transaction.receipt_moved,
        records.WaitStood: _Transaction.wait_stood,
        records.SignalRetired: _Transaction.signal_retired,
        records.SignalSent: _Transaction.signal_sent,
        records.SignalTaken: _Transaction.signal_taken,
        records.HandedOff: _Transaction.handed_off,
        records.ReceiptRetired: _Transaction.receipt_retired,
        records.TurnInserted: _Transaction.turn_inserted,
        records.TurnReleased: _Transaction.turn_released,
        records.TurnAcquired: _Transaction.turn_acquired,
        records.EdgeAppended: _Transaction.edge_appended,
        records.EdgeAppendedLate: _Transaction.edge_appended_late,
        records.Deliverable: _Transaction.deliverable,
        records.DesiredSet: _Transaction.desired_set,
        records.ChildNoted: _Transaction.child_noted,
        records.StateSet: _Transaction.state_set,
    }
)
_COLUMNS: Final[Mapping[type[Record], tuple[tuple[str, Callable[[object], bool]], ...]]] = MappingProxyType(
    {kind: tuple((field.name, FITS[field.type]) for field in msgspec.structs.fields(kind)) for kind in _APPLY}
)


def write(disk: Disk, points: Sequence[Sequence[Record]], *, careful: bool = False) -> dict[int, TurnkeeperError]:
    """Apply each point wholly or, where one of its records is refused, not at all; return the refusals.

    Where one is refused, and where `careful`, what stands on a refused edge is refused, too: SQLite's store looks for
    that only then.
    """
    if not _applied(disk, points, careful=careful, together=True):
        return {}
    return _applied(disk, points, careful=True, together=False)


def _applied(
    disk: Disk, points: Iterable[Sequence[Record]], *, careful: bool, together: bool
) -> dict[int, TurnkeeperError]:
    """Apply the points; `together`, none of them once one is refused."""
    rejected: dict[int, TurnkeeperError] = {}
    transaction = _Transaction(disk, careful=careful)
    try:
        for number, point in enumerate(points):
            mark = transaction.mark()
            refusal = _write_point(transaction, point)
            if refusal is not None:
                rejected[number] = refusal
                transaction.roll_back(0 if together else mark)
                if together:
                    break
    except BaseException:
        transaction.roll_back(0)
        raise
    return rejected


def _write_point(transaction: _Transaction, point: Sequence[Record]) -> TurnkeeperError | None:
    for record in point:
        kind = type(record)
        try:
            for (name, fits), value in zip(_COLUMNS[kind], msgspec.structs.astuple(record), strict=True):
                if not fits(value):
                    raise refused(record, f"{name} cannot be stored")
            _APPLY[kind](transaction, record)
        except TurnkeeperError as error:
            return _told(record, error)
    return None


def _told(record: Record, error: TurnkeeperError) -> TurnkeeperError:
    """Return what its writer is told: a receipt that cannot be changed, for whatever reason, is not as it was read."""
    match record:
        case records.ReceiptSeen(receipt_id=receipt_id) | records.ReceiptRetired(receipt_id=receipt_id):
            return VersionConflict(receipt_id, 0)
        case _:
            return error


def prune(disk: Disk, ended_before: float, now: float, limit: int) -> int:
    """Delete turns that are over, with all that is theirs; see `Store.prune`."""
    numbered = ((edge.number, turn_id) for turn_id, edges in disk.edges.items() for edge in edges.values())
    newest = max(disk.receipts, default=0)
    live = {turn_id for turn_id, turn in disk.turns.items() if turn.state not in TERMINAL}
    kept = {max(numbered, default=(0, 0))[1], newest, *(wait.child_id for wait in disk.stood())}
    kept.update(turn_id for turn_id, turn in disk.turns.items() if turn.parent_id in live)
    for receipt in disk.receipts.values():
        if receipt.expires_at > now or receipt.receipt_id == newest:
            kept.update((receipt.turn_id, receipt.receipt_id))
    over = [
        turn_id
        for turn_id, delivered in sorted(disk.deliverables.items())
        if turn_id in disk.receipts and turn_id not in kept
        if delivered.at < ended_before and disk.turns[turn_id].state in TERMINAL
    ]
    for turn_id, opened in [(turn_id, disk.receipts[turn_id]) for turn_id in over[:limit]]:
        turn, delivered = disk.turns.pop(turn_id), disk.deliverables.pop(turn_id)
        disk.pruned[turn_id] = Pruned(turn, opened, delivered, disk.edges.pop(turn_id))
        for receipt in [one for one in disk.receipts.values() if turn_id in {one.receipt_id, one.turn_id}]:
            del disk.receipts[receipt.receipt_id]
            if not receipt.retired:
                del disk.keys[receipt.actor_id, receipt.key]
    last = max(disk.signals, default=0)
    for sent, taken_by, _ in [*disk.signals.values()]:
        if taken_by is not None and sent.expires_at <= now and sent.signal_id != last:
            del disk.signals[sent.signal_id]
    return len(over[:limit])
