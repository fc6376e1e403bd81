"""Failures: what is recorded of a call that failed, and the error that a record of it is raised as."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Final

import msgspec

from turnkeeper.actors.calls import Expired
from turnkeeper.actors.tool import Tool
from turnkeeper.kernel.edge import Failure
from turnkeeper.kernel.errors import (
    Deadlock,
    EffectInDoubt,
    FanOutExceeded,
    HandoffRefused,
    MailboxFull,
    PayloadTooLarge,
    RecursionDepthExceeded,
    StepError,
    StepFailed,
    ToolTimedOut,
    TurnkeeperError,
    UnknownAgent,
)
from turnkeeper.kernel.lifecycle import failure_of
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import Effect, StepRecord, StepStatus

__all__ = ["REFUSALS", "error_of", "failure_of_call", "failure_of_refusal", "recorded_error", "recorded_refusal"]

REFUSALS: Final = (
    Deadlock,
    FanOutExceeded,
    HandoffRefused,
    MailboxFull,
    PayloadTooLarge,
    RecursionDepthExceeded,
    UnknownAgent,
)
"""What a wait is refused with that asks others for something; recorded, for a later moment could say otherwise."""

_REFUSAL_OF: Final[Mapping[str, type[TurnkeeperError]]] = MappingProxyType({one.__name__: one for one in REFUSALS})


def failure_of_call(tool: Tool[..., Any], error: BaseException, *, returned: bool) -> Failure:
    """Return what is recorded of a failed call; whether it is worth another follows from the tool's own policy.

    An effectful one that returned has had its effect, whatever is wrong with its result. One that timed out and comes
    here may be called again: it did not happen, or its author takes the risk.
    """
    effectful, expired = tool.effect is Effect.EFFECTFUL, isinstance(error, Expired)
    worth = not effectful if tool.retry is None else tool.retry.worth(error)
    failure = failure_of(error, recoverable=(worth and not (returned and effectful)) or (expired and effectful))
    return msgspec.structs.replace(failure, type=ToolTimedOut.__name__) if expired else failure


def recorded_error(known: StepRecord) -> StepError:
    """Return a recorded failure as the error that it was."""
    failure = known.failure
    if failure is None or known.status is StepStatus.ABANDONED:
        return EffectInDoubt(known.name, known.idempotency_key)
    if known.effect == Effect.EFFECTFUL and not known.contract:  # a record from before it said so
        failure = msgspec.structs.replace(failure, recoverable=False)
    return error_of(known.name, known.effect, failure)


def error_of(name: StepName, effect: str, failure: Failure) -> StepFailed:
    """Return a step's failure as the error that its caller gets."""
    failed = ToolTimedOut if failure.type == ToolTimedOut.__name__ else StepFailed
    return failed(name, effect, failure.type, failure.message, failure.recoverable)


def failure_of_refusal(error: TurnkeeperError) -> Failure:
    """Return what is recorded of a refusal (`REFUSALS`): it can be raised again as it was."""
    facts = tuple(getattr(error, fact.name) for fact in fields(error))  # type: ignore[arg-type]
    return msgspec.structs.replace(failure_of(error), facts=facts)


def recorded_refusal(known: StepRecord, failure: Failure) -> TurnkeeperError:
    """Return a recorded refusal as the error that it was."""
    refusal = _REFUSAL_OF.get(failure.type)
    return recorded_error(known) if refusal is None else refusal(*failure.facts)
