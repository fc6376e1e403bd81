"""The verdict on a run: what becomes of a turn whose handler has ended, decided in one place."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from turnkeeper.kernel.errors import ProcessDied, StaleEpoch, StepFailed, StorageError, TurnkeeperError
from turnkeeper.kernel.retry import Retry

__all__ = ["STOPPED", "Stop", "Verdict", "causes", "judge", "worth"]


def causes(error: BaseException | None) -> list[BaseException]:
    """Return an error with what led to it: what a task group's tasks raised, what it was raised from.

    A step's failure is a cause by itself; what its tool raised has been recorded and is not looked at again.
    """
    found: list[BaseException] = []
    ahead = [error]
    seen: set[int] = set()  # what was raised from itself comes round again
    while ahead:
        one = ahead.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BaseExceptionGroup):
            ahead = [*one.exceptions, *ahead]
            continue
        found.append(one)
        if not isinstance(one, StepFailed):
            ahead.insert(0, one.__cause__ if one.__suppress_context__ else one.__cause__ or one.__context__)
    return found


def worth(retry: Retry, error: BaseException | None) -> bool:
    """Say whether a policy wants a turn run again after this error: after each, where several tasks raised.

    What a tool raised counts as well as the step's failure that it became. What is no Exception, such as a task's
    cancellation, no policy speaks of.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(worth(retry, one) for one in error.exceptions)
    if not isinstance(error, Exception):
        return True
    if not isinstance(error, StepFailed) or retry.worth(error):
        return retry.worth(error)
    return retry.names(error.type) if error.__cause__ is None else retry.worth(error.__cause__)


class Stop(StrEnum):
    """Why a running handler was told to stop; its own outcome no longer counts."""

    SUSPEND = "suspend"  # the turn stands on a wait from now on
    SHUTDOWN = "shutdown"  # the runtime is closing
    DEADLINE = "deadline"  # it ran longer than it may
    STUCK = "stuck"  # it was alive, and did not get on for longer than it may
    CANCEL = "cancel"  # somebody wants the turn to end
    HANDOFF = "handoff"  # another agent's turn has come to its end in the place of this one


class Verdict(StrEnum):
    """What becomes of the turn."""

    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"  # back to its queue, after a backoff
    RECOVER = "recover"  # back to its queue as after a crash: the run was cut off, the turn has not failed
    YIELD = "yield"  # back to its queue, for the next runtime
    SUSPEND = "suspend"
    CANCEL = "cancel"
    HAND_OVER = "hand_over"  # it ends as the turn that it was handed to
    RESYNC = "resync"  # what is stored is not known here: read it again, and go on from there


STOPPED: Final[Mapping[Stop, Verdict]] = MappingProxyType(
    {
        Stop.SUSPEND: Verdict.SUSPEND,
        Stop.SHUTDOWN: Verdict.YIELD,
        Stop.DEADLINE: Verdict.FAIL,
        Stop.STUCK: Verdict.RECOVER,
        Stop.CANCEL: Verdict.CANCEL,
        Stop.HANDOFF: Verdict.HAND_OVER,
    }
)
"""What becomes of a turn whose handler was told to stop."""


def judge(
    error: BaseException | None, stop: Stop | None, *, failures: int, retries_max: int, repeatable: bool
) -> Verdict:
    """Decide what becomes of a turn.

    Args:
        error: what its handler raised, or what its record ran into; None for a value.
        stop: why it was told to stop, if it was.
        failures: how many runs of it have failed before this one.
        retries_max: how many failed runs may be retried.
        repeatable: False where the failure is an effectful step's own: running that again could do harm.
    """
    raised = causes(error)
    if any(isinstance(one, StorageError | StaleEpoch) for one in raised):
        return Verdict.RESYNC
    if stop is not None:
        return STOPPED[stop]
    if error is None:
        return Verdict.COMPLETE
    if any(isinstance(one, ProcessDied) for one in raised):
        return Verdict.RECOVER
    retryable = all(one.retryable for one in raised if isinstance(one, TurnkeeperError))
    return Verdict.RETRY if retryable and repeatable and failures < retries_max else Verdict.FAIL
