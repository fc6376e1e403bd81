"""Shared by tests of steps: the edges that calls of a tool leave."""

import msgspec

from turnkeeper.kernel.edge import (
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    PolicyResolved,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    encode_detail,
)
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import Effect

WHO = StepName("refund", "0")
OTHER = StepName("find_order", "0")


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(packed(value))


def edges_of(*details: Detail) -> list[Edge]:
    """Return a turn's edges as the store would: its inbound, its lease, then these."""
    kinds = {
        StepIntent: EdgeKind.STEP_INTENDED,
        StepResult: EdgeKind.STEP_SUCCEEDED,
        StepFailure: EdgeKind.STEP_FAILED,
        StepDoubt: EdgeKind.STEP_UNKNOWN,
        PolicyResolved: EdgeKind.POLICY_RESOLVED,
        Requeued: EdgeKind.TURN_REQUEUED,
        Suspended: EdgeKind.TURN_SUSPENDED,
        Resumed: EdgeKind.TURN_RESUMED,
        Inbound: EdgeKind.INBOUND_RECEIVED,
        LeaseGranted: EdgeKind.LEASE_ACQUIRED,
    }
    return [
        Edge(7, ordinal, kinds[type(detail)], 1, 100.0 + ordinal, encode_detail(detail))
        for ordinal, detail in enumerate((Inbound("k", raw(1)), LeaseGranted(1, 145.0), *details))
    ]


def intent(
    issued: int = 0, name: StepName = WHO, effect: Effect = Effect.EFFECTFUL, arguments: object = 5
) -> StepIntent:
    return StepIntent(issued, *name, effect.value, raw(arguments), f"s/7/{name}")


def done(result: object, arguments: object | None = None) -> StepResult:
    """Return a call that succeeded; a pure one brings its arguments."""
    return StepResult(0, *WHO, raw(result), *(() if arguments is None else (raw(arguments),)))


def failed(retry_at: float | None, arguments: object | None = None) -> StepFailure:
    """Return a call that failed; with `retry_at` it is called again."""
    given = {} if arguments is None else {"arguments": raw(arguments)}
    return StepFailure(0, *WHO, Failure("Flaky", "503"), retry_at=retry_at, **given)
