"""Desired state: what an operator, or the quarantine, wants of an agent or a child, apart from what it does now."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from turnkeeper.kernel.errors import VerbRefused

__all__ = ["TRANSITIONS", "Desired", "Verb", "desired_after", "diagram"]


class Desired(StrEnum):
    """What is wanted; the value is what the store holds."""

    RUNNING = "running"
    PAUSED = "paused"  # what runs goes on, nothing new starts
    STOPPED = "stopped"  # nothing runs
    QUARANTINED = "quarantined"  # it did harm, or fell too often: nothing runs until somebody releases it


class Verb(StrEnum):
    """What an operator, or a supervisor, says."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    QUARANTINE = "quarantine"
    RELEASE = "release"


TRANSITIONS: Final[Mapping[tuple[Desired, Verb], Desired]] = MappingProxyType(
    {
        (Desired.RUNNING, Verb.PAUSE): Desired.PAUSED,
        (Desired.RUNNING, Verb.RESUME): Desired.RUNNING,
        (Desired.RUNNING, Verb.STOP): Desired.STOPPED,
        (Desired.RUNNING, Verb.QUARANTINE): Desired.QUARANTINED,
        (Desired.PAUSED, Verb.PAUSE): Desired.PAUSED,
        (Desired.PAUSED, Verb.RESUME): Desired.RUNNING,
        (Desired.PAUSED, Verb.STOP): Desired.STOPPED,
        (Desired.PAUSED, Verb.QUARANTINE): Desired.QUARANTINED,
        (Desired.STOPPED, Verb.RESUME): Desired.RUNNING,
        (Desired.STOPPED, Verb.STOP): Desired.STOPPED,
        (Desired.STOPPED, Verb.QUARANTINE): Desired.QUARANTINED,
        (Desired.QUARANTINED, Verb.QUARANTINE): Desired.QUARANTINED,
        (Desired.QUARANTINED, Verb.RELEASE): Desired.RUNNING,
    }
)
"""Every verb that means something; saying again what is wanted already changes nothing. Others are refused: a
quarantine ends by its release alone, so that no script that resumes everything ends it by the way."""


def desired_after(desired: Desired, verb: Verb) -> Desired:
    """Return what is wanted after a verb.

    Raises:
        VerbRefused: the verb means nothing there.
    """
    after = TRANSITIONS.get((desired, verb))
    if after is None:
        raise VerbRefused(verb, desired)
    return after


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> running"]
    lines += [f"    {before} --> {after}: {verb}" for (before, verb), after in TRANSITIONS.items() if before != after]
    return "\n".join(lines)
