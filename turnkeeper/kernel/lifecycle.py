"""Decisions: each takes a turn's row and what happened, and returns the new row with the records to commit.

All of a transition's records go into one commit point, so a crash leaves all of them or none.
"""

from typing import NamedTuple

import msgspec

from turnkeeper.kernel.edge import (
    Detail,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    Requeued,
    Resumed,
    Suspended,
    encode_detail,
)
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.records import (
    Deliverable,
    EdgeAppended,
    EdgeAppendedLate,
    ReceiptAccepted,
    ReceiptRetired,
    ReceiptSeen,
    Record,
    TurnAcquired,
    TurnInserted,
    TurnReleased,
)
from turnkeeper.kernel.turn import TurnRow, begin, evolve

__all__ = [
    "Arrival",
    "Change",
    "accept",
    "acquire",
    "drop_duplicate",
    "end",
    "failure_of",
    "observe",
    "requeue",
    "resume",
    "suspend",
]


_MESSAGE_LEN_MAX = 10_000
"""Characters kept of an exception's message."""


class Change(NamedTuple):
    """A decision: the row as it will be once the records are committed."""

    row: TurnRow
    records: list[Record]


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An inbound about to be accepted. Its receipt has the turn's id. Times are wall time, s; `payload` is msgpack."""

    turn_id: int
    actor_id: int
    key: str
    payload: bytes
    digest: bytes
    at: float
    expires_at: float


def _append(row: TurnRow, kind: EdgeKind, detail: Detail | None, at: float) -> tuple[TurnRow, EdgeAppended]:
    """Return the row after an edge, and the edge's record, fenced by the epoch that the row then has."""
    after = evolve(row, kind, detail)
    edge = EdgeAppended(row.edges, kind._value_, after.epoch, at, encode_detail(detail), row.turn_id, after.epoch)
    return after, edge


def accept(arrival: Arrival, lease: Lease | None, retired: int | None = None) -> Change:
    """Accept an inbound: receipt, turn and edge in one commit, with the lease if the actor is idle.

    Args:
        arrival: the inbound.
        lease: the boot's lease where the turn may run at once, None where it must queue.
        retired: the receipt that held the key until its time to live was over.
    """
    row = begin(arrival.turn_id, arrival.actor_id)
    inbound = Inbound(arrival.key, msgspec.Raw(arrival.payload))
    fence = 0 if lease is None else 1
    edges: list[Record] = [
        EdgeAppended(0, EdgeKind.INBOUND_RECEIVED._value_, 0, arrival.at, encode_detail(inbound), row.turn_id, fence)
    ]
    if lease is not None:
        row, edge = _append(row, EdgeKind.LEASE_ACQUIRED, LeaseGranted(lease.boot_id, lease.until), arrival.at)
        edges.append(edge)
    records: list[Record] = [] if retired is None else [ReceiptRetired(retired)]
    records += (
        TurnInserted(row.turn_id, row.actor_id, row.state._value_, row.epoch, row.version, row.attempt, row.boot_id),
        ReceiptAccepted(
            arrival.turn_id,
            arrival.actor_id,
            arrival.key,
            arrival.turn_id,
            arrival.digest,
            arrival.at,
            arrival.at,
            arrival.expires_at,
        ),
        *edges,
    )
    return Change(row, records)


def drop_duplicate(
    row: TurnRow | None, receipt_id: int, turn_id: int, at: float
) -> tuple[TurnRow | None, list[Record]]:
    """Count a duplicate on its receipt and its turn; `row` is None where the turn is not held in memory."""
    seen = ReceiptSeen(at, receipt_id)
    if row is None:
        return None, [seen, EdgeAppendedLate(EdgeKind.DUPLICATE_DROPPED._value_, at, b"", turn_id)]
    row, edge = _append(row, EdgeKind.DUPLICATE_DROPPED, None, at)
    return row, [seen, edge]


def observe(row: TurnRow, kind: EdgeKind, detail: Detail | None, at: float) -> Change:
    """Record something that leaves the turn's state as it is: a step's intent, result, failure or doubt."""
    row, edge = _append(row, kind, detail, at)
    return Change(row, [edge])


def acquire(row: TurnRow, lease: Lease, at: float) -> Change:
    """Grant the right to run a queued turn."""
    after, edge = _append(row, EdgeKind.LEASE_ACQUIRED, LeaseGranted(lease.boot_id, lease.until), at)
    return Change(after, [_acquired(row, after, lease), edge])


def requeue(row: TurnRow, why: Requeued, at: float) -> Change:
    """Take a running turn back to its queue, for recovery or for a retry, as one more attempt."""
    return _released(row, EdgeKind.TURN_REQUEUED, why, at)


def suspend(row: TurnRow, wait: Suspended, at: float) -> Change:
    """Let a running turn stand on a wait; the lease is given back."""
    return _released(row, EdgeKind.TURN_SUSPENDED, wait, at)


def resume(row: TurnRow, lease: Lease, found: Resumed, at: float) -> Change:
    """Let a suspended turn run again, with what its wait came to."""
    after, edge = _append(row, EdgeKind.TURN_RESUMED, found, at)
    return Change(after, [_acquired(row, after, lease), edge])


def end(row: TurnRow, kind: EdgeKind, body: bytes, at: float) -> Change:
    """End a turn: its terminal state and its one deliverable, in one commit."""
    after, records = _released(row, kind, None, at)
    return Change(after, [Deliverable(row.turn_id, after.state._value_, body, at), *records])


def failure_of(error: BaseException, traceback_digest: str = "") -> Failure:
    """Return what is recorded of an exception; always something that can be stored, whatever its author wrote."""
    try:
        message = str(error)
    except BaseException as broken:  # noqa: BLE001 - a user's __str__ may raise anything; the turn must end all the same
        message = f"(its message cannot be read: {type(broken).__name__})"
    storable = message[:_MESSAGE_LEN_MAX].encode(errors="replace").decode()
    return Failure(type(error).__name__, storable, traceback_digest)


def _released(row: TurnRow, kind: EdgeKind, detail: Detail | None, at: float) -> Change:
    after, edge = _append(row, kind, detail, at)
    moved = TurnReleased(
        after.state._value_,
        after.epoch,
        after.version,
        after.attempt,
        after.due_at,
        after.deliverable_id,
        row.turn_id,
        row.epoch,
        row.version,
    )
    return Change(after, [moved, edge])


def _acquired(row: TurnRow, after: TurnRow, lease: Lease) -> TurnAcquired:
    return TurnAcquired(after.epoch, after.version, lease.boot_id, row.turn_id, row.epoch, row.version)
