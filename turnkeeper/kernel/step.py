"""Steps: their identity, their effect classes, and what a handler that reruns is answered."""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.edge import (
    NOTHING,
    Detail,
    Edge,
    Failure,
    LeaseGranted,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    Wait,
    decode_detail,
)
from turnkeeper.kernel.errors import ContractChanged, ReplayDivergence
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
    "check_same_contract",
    "decide",
    "fold_steps",
    "idempotency_key",
    "version_of",
]


COUNTED: Final = "#"
"""What the call key of the n-th call of a name begins with; no key of a caller's own may."""
_SHOWN_LEN_MAX: Final = 500
"""Characters of an argument list that an error shows: both sides of a divergence fit a screen."""


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
    RETRYING = "retrying"  # to be called again: it failed, was never called, or is known not to have happened
    UNKNOWN = "unknown"  # in doubt
    ABANDONED = "abandoned"  # in doubt for ever: somebody gave up finding out


class StepDecision(StrEnum):
    """What to do when the handler asks for a step."""

    RUN = "run"
    ANSWER = "answer"  # with the recorded result
    RAISE = "raise"  # the recorded failure
    DOUBT = "doubt"  # nobody recorded how it ended


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step as the edges leave it. `arguments` and `result` are msgpack; `issued` is its place in issue order.

    `failures` counts the calls that failed, `retry_at` (wall time, s) is when the next one may be. `contract` is what
    its tool promised then, as `version:hash`. `why` says what cut a call off whose outcome nobody recorded; `returned`,
    that a failed one did what it does, and returned what does not fit. `wait` is what it waits for, where it is one
    that nothing calls; its result then is an `Answer`.
    """

    issued: int
    name: StepName
    status: StepStatus
    arguments: bytes
    effect: str = Effect.PURE.value
    idempotency_key: str = ""
    result: bytes = b""
    failure: Failure | None = None
    failures: int = 0
    retry_at: float | None = None
    contract: str = ""
    why: str = ""
    returned: bool = False
    wait: Wait | None = None

    @property
    def open(self) -> bool:
        """Say whether it is a wait that has no answer yet."""
        return self.wait is not None and self.status is StepStatus.INTENDED


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
        (StepStatus.RETRYING, Effect.PURE): StepDecision.RUN,
        (StepStatus.RETRYING, Effect.IDEMPOTENT): StepDecision.RUN,
        (StepStatus.RETRYING, Effect.EFFECTFUL): StepDecision.RUN,  # raising, it said that nothing had happened
        (StepStatus.ABANDONED, Effect.PURE): StepDecision.RUN,
        (StepStatus.ABANDONED, Effect.IDEMPOTENT): StepDecision.RUN,
        (StepStatus.ABANDONED, Effect.EFFECTFUL): StepDecision.RAISE,
    }
)


def decide(known: StepRecord | None, effect: Effect) -> StepDecision:
    """Return what to do for a step the handler asks for, given what the record knows of it.

    A step recorded as effectful stays so: declaring its tool harmless later does not settle a doubt.
    """
    if known is None:
        return DECISIONS[None, effect]
    recorded = Effect(known.effect)
    if known.status is StepStatus.RETRYING and effect is Effect.EFFECTFUL is not recorded:
        return StepDecision.DOUBT  # raising, it did not say that nothing had happened: it was harmless then
    return DECISIONS[known.status, Effect.EFFECTFUL if Effect.EFFECTFUL in {effect, recorded} else effect]


def check_same_call(known: StepRecord, arguments: bytes) -> None:
    """Refuse to answer a call from the record of another one.

    Raises:
        ReplayDivergence: the recorded arguments are not those asked with; names both.
    """
    if known.arguments != arguments:
        recorded, asked = (repr(msgspec.msgpack.decode(raw)) for raw in (known.arguments, arguments))
        raise ReplayDivergence(known.name, _cut(recorded), _cut(asked))


def check_same_contract(known: StepRecord, declared: str, accepted: Collection[str]) -> bool:
    """Refuse to answer a call from a record made under another contract; say whether it is the very same one.

    Args:
        known: the record. One without a contract (from before there were any, or of a plain function) fits any.
        declared: the tool's contract now, as `version:hash`.
        accepted: older versions whose records the tool says it understands.

    Raises:
        ContractChanged: the tool promised something else then, and does not say that it understands it.
    """
    if known.contract in {"", declared}:
        return True
    if known.contract.partition(":")[0] not in accepted:
        raise ContractChanged(known.name, known.contract, declared)
    return False


def _cut(said: str) -> str:
    return said if len(said) <= _SHOWN_LEN_MAX else f"{said[:_SHOWN_LEN_MAX]} ... ({len(said)} characters)"


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
                before = steps.get(name)
                steps[name] = StepRecord(
                    issued=intent.issued,
                    name=name,
                    status=StepStatus.INTENDED,
                    arguments=bytes(intent.arguments),
                    effect=intent.effect,
                    idempotency_key=intent.idempotency_key,
                    failures=before.failures if before is not None else 0,
                    contract=intent.contract,
                    wait=intent.wait,
                )
            case StepResult() | StepFailure() | StepDoubt() as outcome:
                name = StepName(outcome.name, outcome.call_key)
                steps[name] = _with_outcome(steps.get(name), name, outcome)
            case Resumed(step=StepName() as name) as found:
                _settle(steps, name, found)
            case Requeued(forgotten=forgotten) | Suspended(forgotten=forgotten):
                for name in forgotten:
                    _forget(steps, name)
            case _:
                pass
    return dict(sorted(steps.items(), key=lambda item: item[1].issued))


def version_of(details: Iterable[Detail | None]) -> str:
    """Return the version of the handler that a turn belongs to: of the run that recorded its first step.

    Before that any version may begin it. A fork has steps before its first run, and belongs to that.
    """
    version: str | None = None
    begun = False
    for detail in details:
        if isinstance(detail, LeaseGranted) and not (begun and version is not None):
            version = detail.version
        begun = begun or isinstance(detail, StepIntent | StepResult | StepFailure)
    return version or ""


def _with_outcome(
    known: StepRecord | None, name: StepName, outcome: StepResult | StepFailure | StepDoubt
) -> StepRecord:
    """Return the step with its outcome; without an intent (a pure step) the outcome carries the arguments."""
    before = known or StepRecord(issued=outcome.issued, name=name, status=StepStatus.INTENDED, arguments=b"")
    replace = msgspec.structs.replace
    if isinstance(outcome, StepDoubt):
        return replace(before, status=StepStatus.UNKNOWN, why=outcome.why)
    if bytes(outcome.arguments) != bytes(NOTHING):
        before = replace(before, arguments=bytes(outcome.arguments), contract=outcome.contract)
    if isinstance(outcome, StepResult):
        return replace(
            before, status=StepStatus.SUCCEEDED, result=bytes(outcome.result), failure=None, retry_at=None, why=""
        )
    return replace(
        before,
        status=StepStatus.FAILED if outcome.retry_at is None else StepStatus.RETRYING,
        failure=outcome.failure,
        failures=before.failures + 1,
        retry_at=outcome.retry_at,
        returned=outcome.returned,
    )


def _settle(steps: dict[StepName, StepRecord], name: StepName, found: Resumed) -> None:
    """Apply what was found out about a step in doubt: it has a result now, it never happened, or nobody will know."""
    known, replace = steps.get(name), msgspec.structs.replace
    if known is None:
        return
    if found.happened:
        steps[name] = replace(known, status=StepStatus.SUCCEEDED, result=bytes(found.result), why="")
    elif found.given_up:
        steps[name] = replace(known, status=StepStatus.ABANDONED)
    else:
        steps[name] = replace(known, status=StepStatus.RETRYING, retry_at=None, why="")


def _forget(steps: dict[StepName, StepRecord], name: StepName) -> None:
    """Let a step be run anew: under its key, which a fork's step has from its source, and with its failures counted."""
    known = steps.pop(name, None)
    if known is None or known.effect == Effect.PURE:
        return
    failures = 0 if known.status is StepStatus.FAILED else known.failures  # a turn's retry begins the step's anew
    steps[name] = msgspec.structs.replace(
        known, status=StepStatus.RETRYING, failures=failures, failure=None, retry_at=None
    )
