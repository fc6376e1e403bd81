"""Edges: the append-only record of what happened to a turn, one kind and one detail type each.

An edge is the only place where a fact about a turn is written; rows and steps are folds of edges.
Details are msgpack arrays: append fields at the end, with a default, and never reorder them.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.names import StepName

__all__ = [
    "ANYTIME",
    "DETAILS",
    "NOTHING",
    "TRANSITION_KINDS",
    "Detail",
    "Edge",
    "EdgeKind",
    "Failure",
    "Inbound",
    "LeaseGranted",
    "Requeued",
    "Resumed",
    "StepDoubt",
    "StepFailure",
    "StepIntent",
    "StepResult",
    "Suspended",
    "decode_detail",
    "encode_detail",
    "encode_failure",
]


class EdgeKind(StrEnum):
    """What can happen to a turn. The first eight move it; the others leave its state as it is."""

    INBOUND_RECEIVED = "inbound_received"
    LEASE_ACQUIRED = "lease_acquired"
    TURN_SUSPENDED = "turn_suspended"
    TURN_RESUMED = "turn_resumed"
    TURN_REQUEUED = "turn_requeued"
    TURN_COMPLETED = "turn_completed"
    TURN_FAILED = "turn_failed"
    TURN_CANCELLED = "turn_cancelled"

    STEP_INTENDED = "step_intended"
    STEP_SUCCEEDED = "step_succeeded"
    STEP_FAILED = "step_failed"
    STEP_UNKNOWN = "step_unknown"
    HANDOFF_INITIATED = "handoff_initiated"
    HANDOFF_COMPLETED = "handoff_completed"
    ESCALATION_STARTED = "escalation_started"
    ESCALATION_RESOLVED = "escalation_resolved"
    STEERED = "steered"
    POLICY_RESOLVED = "policy_resolved"
    MODEL_ATTEMPT = "model_attempt"
    DUPLICATE_DROPPED = "duplicate_dropped"


TRANSITION_KINDS: Final = frozenset(
    {
        EdgeKind.INBOUND_RECEIVED,
        EdgeKind.LEASE_ACQUIRED,
        EdgeKind.TURN_SUSPENDED,
        EdgeKind.TURN_RESUMED,
        EdgeKind.TURN_REQUEUED,
        EdgeKind.TURN_COMPLETED,
        EdgeKind.TURN_FAILED,
        EdgeKind.TURN_CANCELLED,
    }
)
ANYTIME: Final = frozenset({EdgeKind.DUPLICATE_DROPPED})
"""Kinds that are legal on a terminal turn too; every other non-transition needs a live one."""


class Edge(msgspec.Struct, frozen=True, gc=False):
    """One row of a turn's history. `ordinal` counts from 0 without a gap; `at` is wall time in seconds."""

    turn_id: int
    ordinal: int
    kind: EdgeKind
    epoch: int
    at: float
    detail: bytes


class Detail(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of the details: positional on disk, so that nine edges a turn stay small."""


class Failure(Detail, frozen=True):
    """Why something failed. `traceback_digest` groups equal failures without storing the traceback."""

    type: str
    message: str
    traceback_digest: str = ""


NOTHING: Final = msgspec.Raw(b"\xc0")
"""msgpack's nil: a raw field that holds no value. Arguments are always a map, so nil is never theirs."""


class Inbound(Detail, frozen=True):
    """Detail of inbound_received: the key, and the payload exactly as accepted (msgpack)."""

    key: str
    payload: msgspec.Raw


class LeaseGranted(Detail, frozen=True):
    """Detail of lease_acquired: who may run the turn, until when unless the node renews it."""

    boot_id: int
    lease_until: float


class Requeued(Detail, frozen=True):
    """Detail of turn_requeued. `forgotten` are steps to run anew: failed, or intended and never called."""

    reason: str
    due_at: float | None = None
    failure: Failure | None = None
    forgotten: list[StepName] = []


class Suspended(Detail, frozen=True):
    """Detail of turn_suspended: what the turn stands on, and the wall time at which it stops standing.

    `forgotten` are steps that were intended and never called: nobody need be asked about them.
    """

    reason: str
    due_at: float
    step: StepName | None = None
    forgotten: list[StepName] = []


class Resumed(Detail, frozen=True):
    """Detail of turn_resumed: the new lease and, for a step in doubt, what was found out about it."""

    boot_id: int
    lease_until: float
    step: StepName | None = None
    happened: bool = False
    result: msgspec.Raw = NOTHING


class StepIntent(Detail, frozen=True):
    """Detail of step_intended: what is about to be called. `issued` is the step's place in issue order."""

    issued: int
    name: str
    call_key: str
    effect: str
    arguments: msgspec.Raw
    idempotency_key: str


class StepResult(Detail, frozen=True):
    """Detail of step_succeeded. A pure step has no intent, so its arguments stand here."""

    issued: int
    name: str
    call_key: str
    result: msgspec.Raw
    arguments: msgspec.Raw = NOTHING


class StepFailure(Detail, frozen=True):
    """Detail of step_failed: the recorded error, raised again whenever the handler reruns."""

    issued: int
    name: str
    call_key: str
    failure: Failure
    arguments: msgspec.Raw = NOTHING


class StepDoubt(Detail, frozen=True):
    """Detail of step_unknown: an effectful call was cut off before its outcome was recorded."""

    issued: int
    name: str
    call_key: str
    why: str


DETAILS: Final[Mapping[EdgeKind, type[Detail]]] = MappingProxyType(
    {
        EdgeKind.INBOUND_RECEIVED: Inbound,
        EdgeKind.LEASE_ACQUIRED: LeaseGranted,
        EdgeKind.TURN_SUSPENDED: Suspended,
        EdgeKind.TURN_RESUMED: Resumed,
        EdgeKind.TURN_REQUEUED: Requeued,
        EdgeKind.STEP_INTENDED: StepIntent,
        EdgeKind.STEP_SUCCEEDED: StepResult,
        EdgeKind.STEP_FAILED: StepFailure,
        EdgeKind.STEP_UNKNOWN: StepDoubt,
    }
)
"""Kinds with a detail. The others carry none: what they say is in their kind."""

_encoder = msgspec.msgpack.Encoder()
_decoders = {kind: msgspec.msgpack.Decoder(type_) for kind, type_ in DETAILS.items()}


def encode_detail(detail: Detail | None) -> bytes:
    """Return the detail as stored; no detail is the empty string."""
    return b"" if detail is None else _encoder.encode(detail)


def encode_failure(failure: Failure) -> bytes:
    """Return a failure as the deliverable of a turn that did not complete."""
    return _encoder.encode(failure)


def decode_detail(edge: Edge) -> Detail | None:
    """Return the typed detail of an edge.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError: the stored bytes are damaged.
    """
    decoder = _decoders.get(edge.kind)
    return None if decoder is None else decoder.decode(edge.detail)
