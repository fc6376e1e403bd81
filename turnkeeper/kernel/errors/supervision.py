"""Supervision errors: a child cannot be started, kept or told what it was told."""

from dataclasses import dataclass

from turnkeeper.kernel.errors.base import SupervisionError

__all__ = [
    "ChildNotStarted",
    "ChildNotWanted",
    "ChildQuarantined",
    "LetterDead",
    "NotJoined",
    "ProcessDied",
    "StaleConnection",
    "StaleIncarnation",
    "TooManyParticipants",
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
    says = "{verb} means nothing to what is {desired}; only a release ends a quarantine, and nothing else is released"


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
class ChildNotWanted(SupervisionError):
    """Somebody has paused or stopped the child. Resume it."""

    path: str
    desired: str
    says = "{path} is {desired}; resume it first"


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


@dataclass(eq=False)
class NotJoined(SupervisionError):
    """No participant of this name is here: it never joined, it left, or it was silent for too long. Join, again."""

    name: str
    says = "participant {name!r} is not here: it never joined, has left, or was silent for too long; join again"


@dataclass(eq=False)
class StaleConnection(SupervisionError):
    """Another connection speaks for the participant now. Whoever said this must end, or join under a new id."""

    name: str
    connection_id: str
    says = "connection {connection_id!r} does not speak for {name!r}: another one does; end, or join under a new id"


@dataclass(eq=False)
class TooManyParticipants(SupervisionError):
    """As many participants are here as may be. Join again once some have gone."""

    participants_max: int
    says = "{participants_max} participants are here, which is the limit; join again later"


@dataclass(eq=False)
class LetterDead(SupervisionError):
    """The actor's handler did not survive the letter. Mend what it died of, then `replay`; sent again it dies again."""

    actor: str
    crash: str
    says = "the letter to {actor} is dead: its handler ended with {crash}; mend that, then replay it"
