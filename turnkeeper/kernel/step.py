"""Steps: their identity, their effect classes, and what a handler that reruns is answered."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.edge import (
    NOTHING,
    Edge,
    Failure,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    decode_detail,
)
from turnkeeper.kernel.errors import ReplayDivergence
from turnkeeper.kernel.names import StepName

__all__ = [
    "COUNTED",
    "DECISIONS",
    "Effect",
    "OnDoubt",
    "StepDecision",
    "StepRecord",
    "StepStatus",
    "check_same_call",
    "decide",
    "fold_steps",
    "idempotency_key",
]


COUNTED: Final = "#"
"""What the call key of the n-th call of a name begins with; no key of a caller's own may."""


class Effect(StrEnum):
    """What running a step twice would do; it decides what is durable before the call and what a crash leaves."""

    PURE = "pure"  # nothing: it reads or computes. Run again after a crash
    IDEMPOTENT = "idempotent"  # nothing more, given the same key. Intent first, run again with that key
    EFFECTFUL = "effectful"  # harm. Intent first, never repeated without knowing


class OnDoubt(StrEnum):
    """What to do about an effectful step that a crash or a timeout cut off."""

    ASK = "ask"  # suspend the turn until somebody says what happened
    FAIL = "fail"  # fail the turn with EffectInDoubt
    RETRY = "retry"  # run it again; the tool's author takes the risk


class StepStatus(StrEnum):
    """What the record knows of a step."""

    INTENDED = "intended"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class StepDecision(StrEnum):
    """What to do when the handler asks for a step."""

    RUN = "run"
    ANSWER = "answer"  # with the recorded result
    RAISE = "raise"  # the recorded failure
    DOUBT = "doubt"  # nobody recorded how it ended


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step as the edges leave it. `arguments` and `result` are msgpack; `issued` is its place in issue order."""

    issued: int
    name: StepName
    status: StepStatus
    arguments: bytes
    effect: str = Effect.PURE.value
    idempotency_key: str = ""
    result: bytes = b""
    failure: Failure | None = None


DECISIONS: Final[Mapping[tuple[StepStatus | None, Effect], StepDecision]] = MappingProxyType(
    {
        (None, Effect.PURE): StepDecision.RUN,
        (None, Effect.IDEMPOTENT): StepDecision.RUN,
        (None, Effect.EFFECTFUL): StepDecision.RUN,
        (StepStatus.INTENDED, Effect.PURE): StepDecision.RUN,
        (StepStatus.INTENDED, Effect.IDEMPOTENT): StepDecision.RUN,
        (StepStatus.INTENDED, Effect.EFFECTFUL): StepDecision.DOUBT,
        (StepStatus.UNKNOWN, Effect.PURE): StepDecision.RUN,
        (StepStatus.UNKNOWN, Effect.IDEMPOTENT): StepDecision.RUN,
        (StepStatus.UNKNOWN, Effect.EFFECTFUL): StepDecision.DOUBT,
        (StepStatus.SUCCEEDED, Effect.PURE): StepDecision.ANSWER,
        (StepStatus.SUCCEEDED, Effect.IDEMPOTENT): StepDecision.ANSWER,
        (StepStatus.SUCCEEDED, Effect.EFFECTFUL): StepDecision.ANSWER,
        (StepStatus.FAILED, Effect.PURE): StepDecision.RAISE,
        (StepStatus.FAILED, Effect.IDEMPOTENT): StepDecision.RAISE,
        (StepStatus.FAILED, Effect.EFFECTFUL): StepDecision.RAISE,
    }
)


def decide(known: StepRecord | None, effect: Effect) -> StepDecision:
    """Return what to do for a step the handler asks for, given what the record knows of it.

    A step recorded as effectful stays so: declaring its tool harmless later does not settle a doubt.
    """
    if known is None:
        return DECISIONS[None, effect]
    recorded = Effect(known.effect)
    return DECISIONS[known.status, Effect.EFFECTFUL if Effect.EFFECTFUL in {effect, recorded} else effect]


def check_same_call(known: StepRecord, arguments: bytes) -> None:
    """Refuse to answer a call from the record of another one.

    Raises:
        ReplayDivergence: the recorded arguments are not those asked with; names both.
    """
    if known.arguments != arguments:
        recorded, asked = (repr(msgspec.msgpack.decode(raw)) for raw in (known.arguments, arguments))
        raise ReplayDivergence(known.name, recorded[:500], asked[:500])


def idempotency_key(store_id: str, turn_id: int, name: StepName) -> str:
    """Return the key a tool is given: the same on every attempt, and different in every other step anywhere."""
    tool = name.name
    if "/" in tool or "%" in tool:  # or pay/visa[7] and pay[visa/7] would have one key
        tool = tool.replace("%", "%25").replace("/", "%2F")
    return f"{store_id}/{turn_id}/{tool}/{name.call_key}"


def fold_steps(edges: Iterable[Edge]) -> dict[StepName, StepRecord]:
    """Return the steps that a turn's edges amount to, in issue order even where they ran in parallel."""
    steps: dict[StepName, StepRecord] = {}
    for edge in edges:
        match decode_detail(edge):
            case StepIntent() as intent:
                name = StepName(intent.name, intent.call_key)
                steps[name] = StepRecord(
                    issued=intent.issued,
                    name=name,
                    status=StepStatus.INTENDED,
                    arguments=bytes(intent.arguments),
                    effect=intent.effect,
                    idempotency_key=intent.idempotency_key,
                )
            case StepResult() | StepFailure() | StepDoubt() as outcome:
                name = StepName(outcome.name, outcome.call_key)
                steps[name] = _with_outcome(steps.get(name), name, outcome)
            case Resumed(step=StepName() as name) as found:
                _settle(steps, name, found)
            case Requeued(forgotten=forgotten) | Suspended(forgotten=forgotten):
                for name in forgotten:
                    steps.pop(name, None)
            case _:
                pass
    return dict(sorted(steps.items(), key=lambda item: item[1].issued))


def _with_outcome(
    known: StepRecord | None, name: StepName, outcome: StepResult | StepFailure | StepDoubt
) -> StepRecord:
    """Return the step with its outcome; without an intent (a pure step) the outcome carries the arguments."""
    before = known or StepRecord(issued=outcome.issued, name=name, status=StepStatus.INTENDED, arguments=b"")
    arguments = before.arguments
    if not isinstance(outcome, StepDoubt) and bytes(outcome.arguments) != bytes(NOTHING):
        arguments = bytes(outcome.arguments)
    replace = msgspec.structs.replace
    match outcome:
        case StepResult(result=result):
            return replace(before, arguments=arguments, status=StepStatus.SUCCEEDED, result=bytes(result))
        case StepFailure(failure=failure):
            return replace(before, arguments=arguments, status=StepStatus.FAILED, failure=failure)
        case StepDoubt():
            return replace(before, status=StepStatus.UNKNOWN)


def _settle(steps: dict[StepName, StepRecord], name: StepName, found: Resumed) -> None:
    """Apply what was found out about a step in doubt: it has a result now, or it never happened."""
    known = steps.pop(name, None)
    if known is not None and found.happened:
        steps[name] = msgspec.structs.replace(known, status=StepStatus.SUCCEEDED, result=bytes(found.result))
