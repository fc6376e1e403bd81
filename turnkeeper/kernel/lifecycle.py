"""Decisions: each takes a turn's row and what happened, and returns the new row with the records to commit.

All of a transition's records go into one commit point, so a crash leaves all of them or none.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from turnkeeper.kernel.arrival import Arrived, Policy
from turnkeeper.kernel.edge import (
    Answer,
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    PassedBack,
    Requeued,
    Resumed,
    Steered,
    StepResult,
    Suspended,
    chained,
    decode_detail,
    encode_detail,
    sealed,
)
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.records import (
    Deliverable,
    EdgeAppended,
    EdgeAppendedLate,
    ReceiptAccepted,
    ReceiptMoved,
    ReceiptRetired,
    ReceiptSeen,
    Record,
    TurnAcquired,
    TurnInserted,
    TurnReleased,
    WaitStood,
)
from turnkeeper.kernel.step import StepRecord
from turnkeeper.kernel.turn import TurnRow, begin, evolve
from turnkeeper.kernel.wait import OpenWait, WaitKind

__all__ = [
    "Arrival",
    "Change",
    "Fork",
    "accept",
    "acquire",
    "answered",
    "drop_duplicate",
    "end",
    "failure_of",
    "join",
    "observe",
    "part",
    "requeue",
    "resume",
    "suspend",
]


_MESSAGE_LEN_MAX = 10_000
"""Characters kept of an exception's message."""
_CODE_LEN_MAX = 100
_JOINS_BY = {Arrived.COALESCED._value_: Policy.COALESCE._value_, Arrived.STEERED._value_: Policy.STEER._value_}

_PASSED_BACK: Final[Mapping[str, EdgeKind]] = MappingProxyType(
    {WaitKind.HANDOFF: EdgeKind.HANDOFF_COMPLETED, WaitKind.ESCALATION: EdgeKind.ESCALATION_RESOLVED}
)


class Change(NamedTuple):
    """A decision: the row as it will be once the records are committed."""

    row: TurnRow
    records: list[Record]


class Fork(msgspec.Struct, frozen=True, gc=False):
    """What a fork begins with: whose record, how many steps of it, and the edges that record them.

    `again` are the effects behind them, which the fork may have once more. `coalesced` are the payloads that had joined
    the source before it began.
    """

    turn_id: int
    steps_taken: int
    steps: list[Edge]
    again: list[StepName]
    coalesced: list[bytes] = []

    @property
    def origin(self) -> tuple[int, int]:
        """Return the source turn and the number of steps taken, as the inbound's edge holds them."""
        return self.turn_id, self.steps_taken


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An inbound about to be accepted. Its receipt has the turn's id. Times are wall time, s; `payload` is msgpack.

    `chain` are the turns that a child turn descends from, its parent last; `arrived` is what it came to.
    """

    turn_id: int
    actor_id: int
    key: str
    payload: bytes
    digest: bytes
    at: float
    expires_at: float
    fork: Fork | None = None
    chain: list[int] = []
    arrived: str = ""


def _append(row: TurnRow, kind: EdgeKind, detail: Detail | None, at: float) -> tuple[TurnRow, EdgeAppended]:
    """Return the row after an edge, and the edge's record, fenced by the epoch that the row then has."""
    encoded = encode_detail(detail)
    digest = chained(row.digest, row.turn_id, kind._value_, at, encoded)
    after = evolve(row, kind, detail, digest)
    return after, EdgeAppended(row.edges, kind._value_, after.epoch, at, encoded, row.turn_id, after.epoch, digest)


def accept(arrival: Arrival, lease: Lease | None, retired: int | None = None, version: str = "") -> Change:
    """Accept an inbound: receipt, turn and edge in one commit, with the lease if the actor is idle.

    Args:
        arrival: the inbound; a fork's comes with the record it begins with.
        lease: the boot's lease where the turn may run at once, None where it must queue.
        retired: the receipt that held the key until its time to live was over.
        version: of the handler that a turn which may run at once starts under.
    """
    kind, fork = EdgeKind.INBOUND_RECEIVED._value_, arrival.fork
    origin, taken = fork.origin if fork else (None, 0)
    payload = msgspec.Raw(arrival.payload)
    joined = [msgspec.Raw(one) for one in fork.coalesced] if fork else []
    inbound = Inbound(arrival.key, payload, arrival.expires_at, origin, taken, arrival.chain, joined)
    encoded = encode_detail(inbound)
    digest = chained(b"", arrival.turn_id, kind, arrival.at, encoded)
    row = begin(arrival.turn_id, arrival.actor_id, digest)
    fence = 0 if lease is None else 1
    edges: list[Record] = [EdgeAppended(0, kind, 0, arrival.at, encoded, row.turn_id, fence, digest)]
    for step in fork.steps if fork else ():
        row, edge = _append(row, step.kind, decode_detail(step), arrival.at)
        edges.append(msgspec.structs.replace(edge, fence=fence))
    if lease is not None:
        granted = LeaseGranted(lease.boot_id, lease.until, version)
        row, edge = _append(row, EdgeKind.LEASE_ACQUIRED, granted, arrival.at)
        edges.append(edge)
    records: list[Record] = [] if retired is None else [ReceiptRetired(retired)]
    records += (
        TurnInserted(
            row.turn_id,
            row.actor_id,
            row.state._value_,
            row.epoch,
            row.version,
            row.attempt,
            row.boot_id,
            arrival.chain[-1] if arrival.chain else None,
        ),
        _receipt(arrival, row.turn_id),
        *edges,
    )
    return Change(row, records)


def join(row: TurnRow, arrival: Arrival, retired: int | None = None) -> Change:
    """Let an inbound join a live turn: its receipt, and the edge that holds it, in one commit.

    The edge comes first: where the turn is not, nothing of the inbound is.
    """
    payload, policy = msgspec.Raw(arrival.payload), _JOINS_BY[arrival.arrived]
    steered = Steered(arrival.turn_id, arrival.key, payload, arrival.expires_at, policy)
    row, edge = _append(row, EdgeKind.STEERED, steered, arrival.at)
    records: list[Record] = [] if retired is None else [ReceiptRetired(retired)]
    return Change(row, [*records, edge, _receipt(arrival, row.turn_id)])


def part(arrival: Arrival) -> Change:
    """Let an inbound that had joined a turn open one of its own, with its own number: that turn ends first."""
    change = accept(arrival, None)
    moved = ReceiptMoved(arrival.turn_id, arrival.turn_id)
    return Change(change.row, [moved if isinstance(one, ReceiptAccepted) else one for one in change.records])


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


def answered(row: TurnRow, step: StepRecord, answer: Answer, at: float) -> Change:
    """Give a wait its answer; where the matter was in other hands, it is back."""
    result = StepResult(step.issued, *step.name, msgspec.Raw(encode_detail(answer)))
    change = observe(row, EdgeKind.STEP_SUCCEEDED, result, at)
    kind = _PASSED_BACK.get(step.wait.kind) if step.wait is not None else None
    if kind is None or step.wait is None:
        return change
    by = step.wait.to[-1] if step.wait.to else answer.by
    back = observe(change.row, kind, PassedBack(by, answer.outcome), at)
    return Change(back.row, [*change.records, *back.records])


def acquire(row: TurnRow, lease: Lease, at: float, version: str = "") -> Change:
    """Grant the right to run a queued turn, under a version of its handler."""
    after, edge = _append(row, EdgeKind.LEASE_ACQUIRED, LeaseGranted(lease.boot_id, lease.until, version), at)
    return Change(after, [_acquired(row, after, lease), edge])


def requeue(row: TurnRow, why: Requeued, at: float) -> Change:
    """Take a running turn back to its queue, for recovery or for a retry, as one more attempt."""
    after, records = _released(row, EdgeKind.TURN_REQUEUED, why, at)
    return Change(after, [*records])


def suspend(row: TurnRow, wait: Suspended, at: float, stands: Sequence[OpenWait] = ()) -> Change:
    """Let a running turn stand on its waits; the lease is given back."""
    after, records = _released(row, EdgeKind.TURN_SUSPENDED, wait, at)
    stood = [WaitStood(one.issued, one.kind, one.due_at, one.child_id, row.turn_id, after.version) for one in stands]
    return Change(after, [*records, *stood])


def resume(row: TurnRow, lease: Lease, found: Resumed, at: float, told: Sequence[EdgeAppended] = ()) -> Change:
    """Let a suspended turn run again, with what its wait came to.

    `told` are the edges of what it was told, which lead to the row and are committed with it: behind the move, and so
    fenced by the epoch that the turn has then.
    """
    after, edge = _append(row, EdgeKind.TURN_RESUMED, found, at)
    fenced = [msgspec.structs.replace(one, fence=after.epoch) for one in told]
    return Change(after, [_acquired(row, after, lease), *fenced, edge])


def end(row: TurnRow, kind: EdgeKind, body: bytes, at: float) -> Change:
    """End a turn: its terminal state and its one deliverable, in one commit."""
    after, (moved, edge) = _released(row, kind, None, at)
    outcome = after.state._value_
    moved = msgspec.structs.replace(moved, digest=sealed(after.digest, outcome, body, at))
    return Change(after, [Deliverable(row.turn_id, outcome, body, at), moved, edge])


def failure_of(error: BaseException, traceback_digest: str = "", *, recoverable: bool = True) -> Failure:
    """Return what is recorded of an exception; always something that can be stored, whatever its author wrote."""
    try:
        message = str(error)
    except BaseException as broken:  # noqa: BLE001 - a user's __str__ may raise anything; the turn must end all the same
        message = f"(its message cannot be read: {type(broken).__name__})"
    storable = message[:_MESSAGE_LEN_MAX].encode(errors="replace").decode()
    recoverable = recoverable and getattr(error, "retryable", True) is not False
    return Failure(type(error).__name__, storable, traceback_digest, _code_of(error), recoverable)


def _code_of(error: BaseException) -> str:
    """Return the exception's own code as text, where it has one; an HTTP client's error has a status."""
    code: object = None
    for name in ("code", "status_code", "errno"):
        with suppress(Exception):  # a user's property may raise anything
            code = getattr(error, name, None)
        if isinstance(code, str | int) and not isinstance(code, bool):
            return str(code)[:_CODE_LEN_MAX].encode(errors="replace").decode()
    return ""


def _released(
    row: TurnRow, kind: EdgeKind, detail: Detail | None, at: float
) -> tuple[TurnRow, tuple[TurnReleased, EdgeAppended]]:
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
    return after, (moved, edge)


def _receipt(arrival: Arrival, turn_id: int) -> ReceiptAccepted:
    return ReceiptAccepted(
        arrival.turn_id,
        arrival.actor_id,
        arrival.key,
        turn_id,
        arrival.digest,
        arrival.at,
        arrival.at,
        arrival.expires_at,
        arrival.arrived,
    )


def _acquired(row: TurnRow, after: TurnRow, lease: Lease) -> TurnAcquired:
    return TurnAcquired(after.epoch, after.version, lease.boot_id, row.turn_id, row.epoch, row.version)
