"""Step errors: a step has no good result."""

from dataclasses import dataclass
from typing import ClassVar

from turnkeeper.kernel.errors.base import StepError
from turnkeeper.kernel.names import StepName

__all__ = [
    "ContractChanged",
    "EffectInDoubt",
    "ReplayDivergence",
    "StepFailed",
    "ToolTimedOut",
]


@dataclass(eq=False)
class StepFailed(StepError):
    """The tool raised, or returned what does not fit; recorded, and raised again on every rerun of the handler.

    Catch it in the handler to go on without the step. `type` and `message` are the tool's own exception's, which on
    the first run is also the `__cause__`; `recoverable` says whether calling it again could end otherwise.
    """

    retryable: ClassVar[bool] = True
    step: StepName
    effect: str
    type: str
    message: str
    recoverable: bool = True
    says = "step {step} failed: {type}: {message}"


@dataclass(eq=False)
class ToolTimedOut(StepFailed):
    """The tool took longer than its `timeout_s`. An effectful one is in doubt then, and never ends so by itself."""


@dataclass(eq=False)
class EffectInDoubt(StepError):
    """Nobody knows whether the effect happened, and nobody could find out. It was not repeated."""

    step: StepName
    idempotency_key: str
    says = "step {step} (key {idempotency_key}) may or may not have happened; it was not repeated"


@dataclass(eq=False)
class ReplayDivergence(StepError):
    """The handler asked a recorded step with other arguments: it is not deterministic, or its code changed.

    Run the code that the turn was started under, let calls whose order may change have keys of their own
    (`tool.keyed`), or `fork` the turn from before this step.
    """

    step: StepName
    recorded: str
    asked: str
    says = "step {step} is not the call that was recorded\n  recorded: {recorded}\n  asked:    {asked}"


@dataclass(eq=False)
class ContractChanged(StepError):
    """The step was recorded while its tool had another contract (`version:hash` of its types).

    Run the code of then until its turns have ended, say `@tool(..., accepts=["<version>"])` if the tool understands
    records of that version, or `fork` the turn from before this step.
    """

    step: StepName
    recorded: str
    declared: str
    says = (
        "step {step} was recorded under contract {recorded}, its tool now has {declared}; run the older code until its"
        " turns have ended, accept the older version in @tool(accepts=[...]), or fork the turn from before this step"
    )
