"""The turn machine: one table of states and transitions, and the fold of a turn's edges into its row."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.edge import (
    ANYTIME,
    TRANSITION_KINDS,
    Detail,
    Edge,
    EdgeKind,
    LeaseGranted,
    Requeued,
    Resumed,
    Suspended,
    decode_detail,
)
from turnkeeper.kernel.errors import IllegalTransition

__all__ = [
    "EPOCH_RAISING",
    "TERMINAL",
    "TERMINAL_KINDS",
    "TRANSITIONS",
    "TurnRow",
    "TurnState",
    "advance",
    "begin",
    "diagram",
    "evolve",
    "fold",
    "ran_s",
]


class TurnState(StrEnum):
    """Where a turn stands; the value is what the store holds."""

    QUEUED = "queued"  # accepted, waits for its actor
    RUNNING = "running"  # its handler runs, under a lease
    SUSPENDED = "suspended"  # stands on a wait, holds no task
    COMPLETED = "completed"  # terminal, with a result
    FAILED = "failed"  # terminal, with an error
    CANCELLED = "cancelled"  # terminal, on request


TRANSITIONS: Final[Mapping[tuple[TurnState | None, EdgeKind], TurnState]] = MappingProxyType(
    {
        (None, EdgeKind.INBOUND_RECEIVED): TurnState.QUEUED,
        (TurnState.QUEUED, EdgeKind.LEASE_ACQUIRED): TurnState.RUNNING,
        (TurnState.QUEUED, EdgeKind.TURN_FAILED): TurnState.FAILED,
        (TurnState.QUEUED, EdgeKind.TURN_CANCELLED): TurnState.CANCELLED,
        (TurnState.RUNNING, EdgeKind.TURN_SUSPENDED): TurnState.SUSPENDED,
        (TurnState.RUNNING, EdgeKind.TURN_REQUEUED): TurnState.QUEUED,
        (TurnState.RUNNING, EdgeKind.TURN_COMPLETED): TurnState.COMPLETED,
        (TurnState.RUNNING, EdgeKind.TURN_FAILED): TurnState.FAILED,
        (TurnState.RUNNING, EdgeKind.TURN_CANCELLED): TurnState.CANCELLED,
        (TurnState.SUSPENDED, EdgeKind.TURN_RESUMED): TurnState.RUNNING,
        (TurnState.SUSPENDED, EdgeKind.TURN_FAILED): TurnState.FAILED,
        (TurnState.SUSPENDED, EdgeKind.TURN_CANCELLED): TurnState.CANCELLED,
    }
)
TERMINAL: Final = frozenset(TurnState) - {state for state, _ in TRANSITIONS}
TERMINAL_KINDS: Final = frozenset(kind for (_, kind), state in TRANSITIONS.items() if state in TERMINAL)
"""Edges that end a turn."""
EPOCH_RAISING: Final = frozenset(
    {EdgeKind.LEASE_ACQUIRED, EdgeKind.TURN_RESUMED, EdgeKind.TURN_REQUEUED, EdgeKind.TURN_CANCELLED}
)
"""Edges that grant or take away the right to run; every write of an older epoch is refused."""


class TurnRow(msgspec.Struct, frozen=True, gc=False):
    """A turn as its edges leave it.

    `version` counts transitions, `edges` counts all edges and is the next ordinal. `boot_id` is the lease's owner
    while running. `due_at` (wall time, s) is when a requeued turn may start, or when a suspended one stops waiting.
    `digest` is its last edge's, over its whole history.
    """

    turn_id: int
    actor_id: int
    state: TurnState
    epoch: int
    version: int
    attempt: int
    edges: int
    boot_id: int | None = None
    due_at: float | None = None
    digest: bytes = b""

    @property
    def deliverable_id(self) -> int | None:
        """Return the id of the one deliverable, which is the turn's own, once the turn is terminal."""
        return self.turn_id if self.state in TERMINAL else None


def advance(state: TurnState | None, kind: EdgeKind) -> TurnState:
    """Return the state after an edge.

    Raises:
        IllegalTransition: the table has no such row; terminal states have none but a dropped duplicate.
    """
    if kind in TRANSITION_KINDS:
        after = TRANSITIONS.get((state, kind))
        if after is not None:
            return after
    elif state is not None and (state not in TERMINAL or kind in ANYTIME):
        return state
    raise IllegalTransition(state, kind)


def begin(turn_id: int, actor_id: int, digest: bytes = b"") -> TurnRow:
    """Return the row of a turn whose only edge is its inbound_received, with this digest."""
    return TurnRow(turn_id, actor_id, advance(None, EdgeKind.INBOUND_RECEIVED), 0, 1, 1, 1, digest=digest)


def evolve(row: TurnRow, kind: EdgeKind, detail: Detail | None, digest: bytes = b"") -> TurnRow:
    """Return the row after one more edge, with this digest.

    Raises:
        IllegalTransition: the edge is not legal in the row's state.
    """
    state = advance(row.state, kind)
    epoch, version, attempt, boot_id, due_at = row.epoch, row.version, row.attempt, row.boot_id, row.due_at
    if kind in TRANSITION_KINDS:
        epoch += kind in EPOCH_RAISING
        version += 1
        attempt += kind is EdgeKind.TURN_REQUEUED
        boot_id = detail.boot_id if isinstance(detail, LeaseGranted | Resumed) else None
        due_at = detail.due_at if isinstance(detail, Requeued | Suspended) else None
    return TurnRow(row.turn_id, row.actor_id, state, epoch, version, attempt, row.edges + 1, boot_id, due_at, digest)


def fold(actor_id: int, edges: Iterable[Edge]) -> TurnRow:
    """Return the row that a turn's edges, in order, amount to: `fold(edges of a turn) = its row`.

    Raises:
        IllegalTransition: the edges do not start with inbound_received, or one is not legal where it stands.
    """
    row: TurnRow | None = None
    for edge in edges:
        if row is None:
            advance(None, edge.kind)
            row = begin(edge.turn_id, actor_id, edge.digest)
        else:
            row = evolve(row, edge.kind, decode_detail(edge), edge.digest)
    if row is None:
        raise IllegalTransition(None, "nothing")
    return row


_BEGINS: Final = frozenset({EdgeKind.LEASE_ACQUIRED, EdgeKind.TURN_RESUMED})


def ran_s(edges: Sequence[Edge]) -> float:
    """Return how long the present attempt of a turn has run before, in s: what it spent suspended does not count.

    Once somebody has settled a doubt it has its time anew: that may have been asked about because the time was over.
    """
    total, began = 0.0, 0.0
    for edge in edges:
        if edge.kind is EdgeKind.TURN_RESUMED:
            resumed = decode_detail(edge)
            total = 0.0 if isinstance(resumed, Resumed) and resumed.step is not None else total
        if edge.kind in _BEGINS:
            began = edge.at
        elif edge.kind is EdgeKind.TURN_SUSPENDED:
            total += max(0.0, edge.at - began)
        elif edge.kind is EdgeKind.TURN_REQUEUED:
            total = 0.0
    return total


def diagram() -> str:
    """Return the table as a Mermaid state diagram; docs/lifecycle.md holds it and a test compares them."""
    lines = ["stateDiagram-v2"]
    for (before, kind), after in TRANSITIONS.items():
        raised = " (epoch + 1)" if kind in EPOCH_RAISING else ""
        lines.append(f"    {before or '[*]'} --> {after}: {kind}{raised}")
    lines.extend(f"    {state} --> [*]" for state in TurnState if state in TERMINAL)
    return "\n".join(lines)
