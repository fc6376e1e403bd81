"""Edges: the append-only record of what happened to a turn, one kind and one detail type each.

An edge is the only place where a fact about a turn is written; rows and steps are folds of edges.
Details are msgpack arrays: append fields at the end, with a default, and never reorder them.
"""

import struct
from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.names import StepName

__all__ = [
    "ANYTIME",
    "DETAILS",
    "NOTHING",
    "TRANSITION_KINDS",
    "Answer",
    "Detail",
    "Edge",
    "EdgeKind",
    "Failure",
    "Inbound",
    "LeaseGranted",
    "Packet",
    "PassedBack",
    "PolicyResolved",
    "Requeued",
    "Resumed",
    "Steered",
    "StepDoubt",
    "StepFailure",
    "StepIntent",
    "StepResult",
    "Suspended",
    "Wait",
    "chained",
    "decode_detail",
    "encode_detail",
    "encode_failure",
    "sealed",
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
    """One row of a turn's history. `ordinal` counts from 0 without a gap; `at` is wall time in seconds.

    `digest` is over the edge and, through the one before it, over the whole history up to here; see `chained`. It is
    empty in what was written before there were digests.
    """

    turn_id: int
    ordinal: int
    kind: EdgeKind
    epoch: int
    at: float
    detail: bytes
    digest: bytes = b""


class Detail(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of the details: positional on disk, so that nine edges a turn stay small."""


class Failure(Detail, frozen=True):
    """Why something failed. `traceback_digest` groups equal failures without storing the traceback.

    `code` is the exception's own (`code` or `status_code`), as text. `recoverable` says whether running the same again
    could end otherwise. `facts` are those of an error of this library that is raised again from its record.
    """

    type: str
    message: str
    traceback_digest: str = ""
    code: str = ""
    recoverable: bool = True
    facts: tuple[str | int, ...] = ()


NOTHING: Final = msgspec.Raw(b"\xc0")
"""msgpack's nil: a raw field that holds no value. Arguments are always a map, so nil is never theirs."""


class Inbound(Detail, frozen=True):
    """Detail of inbound_received: the key, the payload exactly as accepted (msgpack), how long the key answers.

    A fork says whose record it began with, and how many steps of it. A child turn names those that it descends from,
    its parent last. `coalesced` are the payloads that had joined a fork's source before that began.
    """

    key: str
    payload: msgspec.Raw
    expires_at: float | None = None
    forked_from: int | None = None
    steps_taken: int = 0
    chain: list[int] = []
    coalesced: list[msgspec.Raw] = []


class LeaseGranted(Detail, frozen=True):
    """Detail of lease_acquired: who may run the turn, until when unless the node renews it.

    The first one says under which version of its handler the turn was started; it finishes under that one.
    """

    boot_id: int
    lease_until: float
    version: str = ""


class Requeued(Detail, frozen=True):
    """Detail of turn_requeued. `forgotten` are steps to run anew: failed, or intended and never called."""

    reason: str
    due_at: float | None = None
    failure: Failure | None = None
    forgotten: list[StepName] = []


class Suspended(Detail, frozen=True):
    """Detail of turn_suspended: what the turn stands on, and the wall time at which it stops standing.

    `forgotten` are steps that were intended and never called: nobody need be asked about them. An answer must bring
    the `token`, so an answer that is sent again cannot settle a later doubt.
    """

    reason: str
    due_at: float
    step: StepName | None = None
    forgotten: list[StepName] = []
    token: str = ""


class Resumed(Detail, frozen=True):
    """Detail of turn_resumed: the new lease and, for a step in doubt, what was found out about it.

    `given_up`: nobody will find out; the step raises EffectInDoubt from now on.
    """

    boot_id: int
    lease_until: float
    step: StepName | None = None
    happened: bool = False
    result: msgspec.Raw = NOTHING
    given_up: bool = False


class Wait(Detail, frozen=True):
    """What a step waits for that nothing calls: somebody or something else brings its answer (`kernel.wait`).

    Args:
        kind: a `WaitKind`.
        due_at: wall time (s) at which it is over without an answer.
        token: what an answer must bring; empty where none may come from outside.
        child_id: the turn whose deliverable is the answer.
        to: where that turn is, as tenant, session and agent.
        who: may answer; empty for everybody.
        digest: of exactly what is to be approved.
        name: of the signal.
    """

    kind: str
    due_at: float
    token: str = ""
    child_id: int | None = None
    to: list[str] = []
    who: list[str] = []
    digest: bytes = b""
    name: str = ""


class Answer(Detail, frozen=True):
    """What a wait came to, as the result of its step. `outcome` is a `kernel.wait.Outcome`; `at` is wall time, s.

    `body` is the value that somebody brought, or a child's deliverable as stored.
    """

    outcome: str
    at: float
    by: str = ""
    reason: str = ""
    body: msgspec.Raw = NOTHING


class StepIntent(Detail, frozen=True):
    """Detail of step_intended: what is about to be called. `issued` is the step's place in issue order.

    `contract` is the tool's version and the hash of its types, as `version:hash`. With `wait` nothing is called: the
    step's result is an `Answer`.
    """

    issued: int
    name: str
    call_key: str
    effect: str
    arguments: msgspec.Raw
    idempotency_key: str
    contract: str = ""
    wait: Wait | None = None


class StepResult(Detail, frozen=True):
    """Detail of step_succeeded. A pure step has no intent, so its arguments stand here."""

    issued: int
    name: str
    call_key: str
    result: msgspec.Raw
    arguments: msgspec.Raw = NOTHING
    contract: str = ""


class StepFailure(Detail, frozen=True):
    """Detail of step_failed: the recorded error, raised again whenever the handler reruns.

    With `retry_at` (wall time, s) it is not the end: the step is called again then, in whatever process. `returned`
    says that the tool did what it does, and returned what does not fit.
    """

    issued: int
    name: str
    call_key: str
    failure: Failure
    arguments: msgspec.Raw = NOTHING
    contract: str = ""
    retry_at: float | None = None
    returned: bool = False


class StepDoubt(Detail, frozen=True):
    """Detail of step_unknown: an effectful call was cut off before its outcome was recorded."""

    issued: int
    name: str
    call_key: str
    why: str


class PolicyResolved(Detail, frozen=True):
    """Detail of policy_resolved: what its tool's `on_doubt` made of a step in doubt; or that the turn is to end.

    `policy` is ask, fail, retry or probe; `found` what a probe said: happened, did_not_happen, or nothing. It is cancel
    or interrupt where somebody wants the turn to end: then there is no step, and `by` and `reason` say who, and why.
    """

    name: str
    call_key: str
    policy: str
    found: str = ""
    by: str = ""
    reason: str = ""


class Steered(Detail, frozen=True):
    """Detail of steered: a message that joined a live turn, with all that it takes to make it a turn of its own.

    `policy` is steer, for the turn that runs, or coalesce, for one that has not begun.
    """

    receipt_id: int
    key: str
    payload: msgspec.Raw
    expires_at: float
    policy: str


class Packet(Detail, frozen=True):
    """Detail of handoff_initiated and escalation_started: to whom, and what they are told.

    A handoff's `to` is an agent and `child_id` its turn; an escalation's `to` are people.
    """

    to: str
    reason: str
    summary: str
    goal: str
    child_id: int | None = None


class PassedBack(Detail, frozen=True):
    """Detail of handoff_completed and escalation_resolved: by whom, and to what it came."""

    by: str
    outcome: str


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
        EdgeKind.POLICY_RESOLVED: PolicyResolved,
        EdgeKind.STEERED: Steered,
        EdgeKind.HANDOFF_INITIATED: Packet,
        EdgeKind.HANDOFF_COMPLETED: PassedBack,
        EdgeKind.ESCALATION_STARTED: Packet,
        EdgeKind.ESCALATION_RESOLVED: PassedBack,
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


_numbers = struct.Struct(">qd")


def chained(before: bytes, turn_id: int, kind: str, at: float, detail: bytes) -> bytes:
    """Return an edge's digest: 8 bytes over what it says and over the digest of the edge before it.

    SQLite notices no damage inside a value (of 40 payloads with 16 bytes overwritten, its own check saw 1).
    """
    content = b"".join((before, _numbers.pack(turn_id, at), kind.encode(), b"\0", detail))
    return blake2b(content, digest_size=8).digest()


def sealed(last: bytes, outcome: str, body: bytes, at: float) -> bytes:
    """Return the digest of a turn's terminal row: 16 bytes over its whole history and its deliverable."""
    content = b"".join((last, _numbers.pack(0, at), outcome.encode(), b"\0", body))
    return blake2b(content, digest_size=16).digest()
