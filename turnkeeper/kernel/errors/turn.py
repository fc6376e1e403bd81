"""Turn errors: a turn cannot do what was asked of it."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import TurnError

__all__ = [
    "DeadlineExceeded",
    "DeliverableRecorded",
    "FanOutExceeded",
    "IllegalTransition",
    "LeaseExpired",
    "LeaseHeld",
    "Quarantined",
    "RecursionDepthExceeded",
    "StaleEpoch",
    "StepLimitExceeded",
    "TurnNotFound",
    "TurnTerminal",
    "TurnUnsuccessful",
    "VersionConflict",
    "VersionGone",
]


@dataclass(eq=False)
class TurnNotFound(TurnError):
    """The store holds no such turn."""

    turn_id: int
    says = "no turn {turn_id} in this store"


@dataclass(eq=False)
class IllegalTransition(TurnError):
    """The state table has no such row. Ours to mend, unless a store was changed by hand."""

    state: str | None
    event: str
    says = "{event} is not legal in state {state}"


@dataclass(eq=False)
class TurnTerminal(TurnError):
    """The turn has its deliverable; nothing more can happen to it."""

    turn_id: int
    state: str
    says = "turn {turn_id} is {state} and stays so"


@dataclass(eq=False)
class TurnUnsuccessful(TurnError):
    """The turn ended without a value: `outcome` says how, `reason` why."""

    turn_id: int
    outcome: str
    reason: str
    says = "turn {turn_id} {outcome}: {reason}"


@dataclass(eq=False)
class StaleEpoch(TurnError):
    """The right to run the turn has passed to another; this write changed nothing. Stop working on it."""

    turn_id: int
    epoch: int
    says = "turn {turn_id} has left epoch {epoch}; the write was refused"


@dataclass(eq=False)
class VersionConflict(TurnError):
    """The turn moved since it was read; nothing was written. Read it again."""

    turn_id: int
    version: int
    says = "turn {turn_id} is no longer at version {version}; nothing was written"


@dataclass(eq=False)
class LeaseExpired(TurnError):
    """The lease ran out before the work did; whatever is still written is refused."""

    turn_id: int
    expired_at: float
    says = "the lease of turn {turn_id} expired at {expired_at:.3f}"


@dataclass(eq=False)
class LeaseHeld(TurnError):
    """Another turn of the same actor is running; one runs at a time."""

    actor_id: int
    says = "actor {actor_id} already has a running turn"


@dataclass(eq=False)
class DeliverableRecorded(TurnError):
    """The turn already has its one deliverable; the second was refused."""

    turn_id: int
    says = "turn {turn_id} already has its deliverable"


@dataclass(eq=False)
class StepLimitExceeded(TurnError):
    """The handler asked for more steps than the setting `steps_max`: a loop, or a limit to raise."""

    turn_id: int
    steps_max: int
    says = "turn {turn_id} asked for more than {steps_max} steps; the setting is steps_max"


@dataclass(eq=False)
class DeadlineExceeded(TurnError):
    """The turn ran, or waited, longer than it may."""

    turn_id: int
    limit_s: float
    says = "turn {turn_id} went past its limit of {limit_s:g} s"


@dataclass(eq=False)
class RecursionDepthExceeded(TurnError):
    """Child turns are nested deeper than the setting `depth_max`."""

    turn_id: int
    depth_max: int
    says = "turn {turn_id} nests deeper than its limit of {depth_max}; the setting is depth_max"


@dataclass(eq=False)
class FanOutExceeded(TurnError):
    """The turn has as many open child turns as the setting `children_max` allows; nothing was sent."""

    turn_id: int
    children_max: int
    says = "turn {turn_id} waits for its limit of {children_max} child turns; the setting is children_max"


@dataclass(eq=False)
class Quarantined(TurnError):
    """The turn was cut off more often than `recoveries_max` allows: it takes its process down, or gets stuck."""

    turn_id: int
    recoveries: int
    says = "turn {turn_id} was taken back {recoveries} times: processes died under it, or its runs were stuck"


@dataclass(eq=False)
class VersionGone(TurnError):
    """The turn was started under a version of its handler that this runtime was not given, and nothing adopts it."""

    turn_id: int
    agent_id: str
    started: str
    given: str
    says = (
        "turn {turn_id} was started under version {started!r} of agent {agent_id}, this runtime has {given}; give it"
        " the older handler as well, adopt its turns with @agent(adopts=[{started!r}]), or fork the turn"
    )
