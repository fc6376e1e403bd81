"""Forks: what a new turn takes over from the record of another one, so that it need not be done again."""

from collections.abc import Iterator, Sequence

import msgspec

from turnkeeper.kernel.edge import (
    NOTHING,
    Detail,
    Edge,
    EdgeKind,
    Inbound,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    decode_detail,
    encode_detail,
)
from turnkeeper.kernel.errors import ContractViolation, TurnNotFound
from turnkeeper.kernel.joining import coalesced_of
from turnkeeper.kernel.lifecycle import Fork
from turnkeeper.kernel.step import Effect, StepRecord, StepStatus, fold_steps
from turnkeeper.kernel.turn import TERMINAL_KINDS

__all__ = ["fork_of", "is_fork", "same_fork"]

_PENDING = frozenset({StepStatus.INTENDED, StepStatus.RETRYING, StepStatus.UNKNOWN})


def fork_of(turn_id: int, edges: Sequence[Edge], from_step: int) -> tuple[bytes, Fork]:
    """Return the payload of a turn, and what a fork from its step number `from_step` (from 0) begins with.

    Steps issued before it keep their results, failures and idempotency keys, so no effect among them is repeated; one
    whose outcome nobody recorded is in doubt in the fork, too.

    Raises:
        ContractViolation: the turn has no such step, or is live and about to have an effect among those taken.
        TurnNotFound: there are no edges.
    """
    inbound = decode_detail(edges[0]) if edges else None
    if not isinstance(inbound, Inbound):
        raise TurnNotFound(turn_id)
    steps = list(fold_steps(edges).values())
    end = steps[-1].issued + 1 if steps else 0
    if not 0 <= from_step <= end:
        raise ContractViolation(
            "from_step", f"must be between 0 and {end}, the steps of turn {turn_id}; got {from_step}"
        )
    taken = [step for step in steps if step.issued < from_step and not step.open]  # a wait is its own turn's
    pending = [step.name for step in taken if _is_pending(step)]
    if pending and not any(edge.kind in TERMINAL_KINDS for edge in edges):
        said = f"step {pending[0]} of turn {turn_id} has no outcome yet; fork from before it, or let it have one first"
        raise ContractViolation("from_step", said)
    recorded = [
        Edge(turn_id, 0, kind, 0, 0.0, encode_detail(detail)) for step in taken for kind, detail in _said_of(step)
    ]
    again = [
        step.name
        for step in steps
        if step.issued >= from_step and step.effect != Effect.PURE and not _did_not_happen(step)
    ]
    return bytes(inbound.payload), Fork(turn_id, from_step, recorded, again, coalesced_of(edges))


def _is_pending(step: StepRecord) -> bool:
    """Say whether its own turn may still call a step that has an effect: the fork would have it as well."""
    return step.effect == Effect.EFFECTFUL and step.status in _PENDING


def _did_not_happen(step: StepRecord) -> bool:
    """Say whether an effect is known not to have happened: raising, an effectful tool says so."""
    return step.effect == Effect.EFFECTFUL and step.status is StepStatus.FAILED and not step.returned


def is_fork(edges: Sequence[Edge]) -> bool:
    """Say whether a turn is a fork, by its own edges."""
    inbound = decode_detail(edges[0]) if edges else None
    return isinstance(inbound, Inbound) and inbound.forked_from is not None


def same_fork(edges: Sequence[Edge], turn_id: int, from_step: int) -> bool:
    """Say whether a turn is a fork of this one from this step, asked for before under the same key."""
    inbound = decode_detail(edges[0]) if edges else None
    return isinstance(inbound, Inbound) and (inbound.forked_from, inbound.steps_taken) == (turn_id, from_step)


def _said_of(step: StepRecord) -> Iterator[tuple[EdgeKind, Detail]]:
    """Yield the edges that a step's record amounts to."""
    pure = step.effect == Effect.PURE
    arguments = msgspec.Raw(step.arguments)
    if not pure:
        yield (
            EdgeKind.STEP_INTENDED,
            StepIntent(step.issued, *step.name, step.effect, arguments, step.idempotency_key, step.contract),
        )
    at_outcome = (arguments, step.contract) if pure else (NOTHING, "")
    match step:
        case StepRecord(status=StepStatus.SUCCEEDED):
            result = StepResult(step.issued, *step.name, msgspec.Raw(step.result), *at_outcome)
            yield EdgeKind.STEP_SUCCEEDED, result
        case StepRecord(status=StepStatus.FAILED, failure=failure) if failure is not None:
            yield (
                EdgeKind.STEP_FAILED,
                StepFailure(step.issued, *step.name, failure, *at_outcome, returned=step.returned),
            )
        case StepRecord(effect=Effect.EFFECTFUL.value):
            why = step.why or "was under way when its turn was forked"
            yield EdgeKind.STEP_UNKNOWN, StepDoubt(step.issued, *step.name, why)
        case _:  # intended or to be retried, and harmless: it is run again, under its key
            pass
