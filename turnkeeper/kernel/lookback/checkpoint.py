"""Checkpoints: a turn as its edges leave it, for people and programs that look at it; and the stream of its changes."""

from enum import StrEnum
from typing import Any, Final

import msgspec

from turnkeeper.kernel.edge import ANYTIME, EdgeKind, Failure
from turnkeeper.kernel.joining import coalesced_of
from turnkeeper.kernel.lookback.past import Past, past_of, readable
from turnkeeper.kernel.lookback.waits import WAIT, WAITING, answer_of
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.step import StepRecord, StepStatus
from turnkeeper.kernel.turn import TERMINAL_KINDS, TurnState
from turnkeeper.kernel.wait import WaitKind

__all__ = [
    "DOUBTS_MAX",
    "Checkpoint",
    "CheckpointStep",
    "Doubt",
    "Event",
    "EventKind",
    "Message",
    "checkpoint",
    "doubts",
    "event_kind",
]


class CheckpointStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step as recorded. Values are decoded; times are wall time, s; `failures` counts the calls that failed.

    Of a wait, which nothing calls, the effect is `wait`, the status `waiting` until it has its answer, and the result
    that answer: its outcome, when it came, by whom and why, and its value.
    """

    issued: int
    step: str
    tool: str
    call_key: str
    effect: str
    status: str
    arguments: Any = None
    result: Any = None
    error: Failure | None = None
    idempotency_key: str = ""
    failures: int = 0
    retry_at: float | None = None
    contract: str = ""
    why: str = ""


class Message(msgspec.Struct, frozen=True):
    """What was said in a turn. `role` is user (the inbound), call and tool (a step's two halves), or assistant."""

    role: str
    content: Any
    step: str = ""


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that may have happened, on which its turn stands until somebody says.

    `Runtime.resolve(turn_id, finding, token=token)` answers it, until `due_at` (wall time, s).
    """

    turn_id: int
    tenant: str
    session_id: str
    agent_id: str
    token: str
    step: str
    tool: str
    arguments: Any
    idempotency_key: str
    why: str
    due_at: float


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A turn as committed: `ordinal` is its last edge's. Steps and messages stand in the order of issue.

    `value` is what a completed turn delivered, `error` why another one ended. Times are wall time, s.
    """

    turn_id: int
    tenant: str
    session_id: str
    agent_id: str
    key: str
    status: str
    attempt: int
    version: str
    ordinal: int
    created_at: float
    updated_at: float
    steps: list[CheckpointStep]
    messages: list[Message]
    doubt: Doubt | None = None
    due_at: float | None = None
    forked_from: int | None = None
    value: Any = None
    error: Failure | None = None


class EventKind(StrEnum):
    """What happened to a checkpoint."""

    CREATED = "created"
    UPDATED = "updated"
    FINALIZED = "finalized"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a turn's checkpoint, as committed.

    `offset` is the store's own order, over all turns: hand in the last one you have seen to go on behind it. It rises
    and has gaps. `ordinal` is the turn's own edge, `edge` its kind. `at` is wall time, s.
    """

    offset: int
    kind: str
    turn_id: int
    ordinal: int
    edge: str
    at: float
    tenant: str
    session_id: str
    agent_id: str


DOUBTS_MAX: Final = 500
"""Doubts in one answer: more than anybody settles by hand."""


def event_kind(edge: str) -> EventKind | None:
    """Return what an edge means to its turn's checkpoint; None for a duplicate, which changes none."""
    if edge in ANYTIME:
        return None
    if edge == EdgeKind.INBOUND_RECEIVED:
        return EventKind.CREATED
    return EventKind.FINALIZED if edge in TERMINAL_KINDS else EventKind.UPDATED


def checkpoint(rows: Rows, turn_id: int) -> Checkpoint:
    """Return a turn's checkpoint.

    Raises:
        TurnNotFound: there is no such turn.
        StorageFailed: what is stored of it cannot be read.
    """
    past = past_of(rows, turn_id)
    with readable(f"turn {turn_id}"):
        return _checkpoint(past)


def _checkpoint(past: Past) -> Checkpoint:
    row, address, end = past.row, past.address, past.end()
    completed = row.state == TurnState.COMPLETED
    steps = [_step(step) for step in past.steps.values()]
    return Checkpoint(
        turn_id=row.turn_id,
        tenant=address.tenant,
        session_id=address.session_id,
        agent_id=address.agent_id,
        key=past.inbound.key,
        status=str(row.state),
        attempt=row.attempt,
        version=past.version,
        ordinal=row.edges - 1,
        created_at=past.edges[0].at,
        updated_at=next(edge.at for edge in reversed(past.edges) if edge.kind not in ANYTIME),
        steps=steps,
        messages=_messages(past, steps, end),
        doubt=_doubt(past),
        due_at=row.due_at,
        forked_from=past.inbound.forked_from,
        value=end if completed else None,
        error=None if completed else end,
    )


def doubts(rows: Rows, limit: int = DOUBTS_MAX) -> list[Doubt]:
    """Return the effects in doubt on which turns stand, in the order in which the turns were accepted.

    Raises:
        StorageFailed: what is stored of a turn cannot be read.
    """
    found: list[Doubt] = []
    for turn_id, _ in rows.waits(WaitKind.DOUBT._value_, (-1, -1), limit):
        past = past_of(rows, turn_id)
        with readable(f"turn {turn_id}"):
            doubt = _doubt(past)
        if doubt is not None:
            found.append(doubt)
    return found


def _doubt(past: Past) -> Doubt | None:
    """Return the doubt that a turn stands on now."""
    wait, address = past.in_doubt, past.address
    step = past.steps.get(wait.step) if wait is not None and wait.step is not None else None
    if wait is None or step is None:
        return None
    return Doubt(
        turn_id=past.row.turn_id,
        tenant=address.tenant,
        session_id=address.session_id,
        agent_id=address.agent_id,
        token=wait.token,
        step=str(step.name),
        tool=step.name.name,
        arguments=_value(step.arguments),
        idempotency_key=step.idempotency_key,
        why=step.why,
        due_at=wait.due_at,
    )


def _step(step: StepRecord) -> CheckpointStep:
    answered = step.wait is not None and step.result
    return CheckpointStep(
        issued=step.issued,
        step=str(step.name),
        tool=step.name.name,
        call_key=step.name.call_key,
        effect=WAIT if step.wait is not None else step.effect,
        status=WAITING if step.open else str(step.status),
        arguments=_value(step.arguments),
        result=answer_of(step) if answered else _value(step.result),
        error=step.failure,
        idempotency_key=step.idempotency_key,
        failures=step.failures,
        retry_at=step.retry_at,
        contract=step.contract,
        why=step.why,
    )


def _messages(past: Past, steps: list[CheckpointStep], end: Any) -> list[Message]:
    payloads = [bytes(past.inbound.payload), *coalesced_of(past.edges)]
    said = [Message("user", msgspec.msgpack.decode(payload)) for payload in payloads]
    for step in steps:
        said.append(Message("call", step.arguments, step.step))
        if step.status == StepStatus.SUCCEEDED:
            said.append(Message("tool", step.result, step.step))
        elif step.error is not None:
            said.append(Message("tool", step.error, step.step))
    return [*said, Message("assistant", end)] if past.ended else said


def _value(encoded: bytes) -> Any:
    return msgspec.msgpack.decode(encoded) if encoded else None
