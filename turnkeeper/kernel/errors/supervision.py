"""Supervision errors: a child cannot be started, kept or told what it was told."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import SupervisionError

__all__ = [
    "ChildNotStarted",
    "ChildQuarantined",
    "ProcessDied",
    "StaleIncarnation",
    "TooManyRestarts",
    "UnknownChild",
    "VerbRefused",
]


@dataclass(eq=False)
class StaleIncarnation(SupervisionError):
    """The beat, or the word, of an incarnation that is gone. Whoever sent it must end."""

    incarnation: int
    current: int
    says = "incarnation {incarnation} is gone; {current} stands in its place"


@dataclass(eq=False)
class UnknownChild(SupervisionError):
    """No child of this name. `Runtime.tree` shows which there are."""

    path: str
    known: str
    says = "no child {path!r}; there are {known}"


@dataclass(eq=False)
class VerbRefused(SupervisionError):
    """The verb means nothing to what is wanted now: what is quarantined is released first."""

    verb: str
    desired: str
    says = "{verb} means nothing to what is {desired}"


@dataclass(eq=False)
class ChildNotStarted(SupervisionError):
    """A child could not be started, so its supervisor was not. `why` is the type of what it raised."""

    path: str
    why: str
    says = "{path} could not be started: {why}"


@dataclass(eq=False)
class ChildQuarantined(SupervisionError):
    """The child fell too often, or somebody has put it away. Mend it, then release it."""

    path: str
    reason: str
    says = "{path} is quarantined: {reason}; release it once it is mended"


@dataclass(eq=False)
class TooManyRestarts(SupervisionError):
    """Children of a supervisor fell more often than it bears; it gives up, and its parent decides."""

    supervisor: str
    child: str
    restarts_max: int
    within_s: float
    says = "{supervisor} gives up: more than {restarts_max} restarts within {within_s:g} s, the last of {child}"


@dataclass(eq=False)
class ProcessDied(SupervisionError):
    """The worker process ended in the middle of a turn; `said` is its exit code or signal. The turn is recovered."""

    agent_id: str
    pid: int
    said: str
    retryable = True
    says = "worker {pid} of {agent_id} died: {said}"
