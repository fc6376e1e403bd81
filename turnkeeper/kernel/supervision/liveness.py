"""Liveness: a beat says that something is alive, progress that it gets on; silence makes it suspect, then dead."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.kernel.errors import StaleIncarnation

__all__ = ["TRANSITIONS", "Health", "Limits", "Pulse", "Sign"]


class Health(StrEnum):
    """What is thought of an incarnation."""

    ALIVE = "alive"
    SUSPECT = "suspect"  # silent for longer than it may be; a beat brings it back
    DEAD = "dead"  # silent through the grace as well; nothing brings it back


class Sign(StrEnum):
    """What changes it."""

    BEAT = "beat"
    SILENCE = "silence"  # the time for a beat is over


TRANSITIONS: Final[Mapping[tuple[Health, Sign], Health]] = MappingProxyType(
    {
        (Health.ALIVE, Sign.BEAT): Health.ALIVE,
        (Health.ALIVE, Sign.SILENCE): Health.SUSPECT,
        (Health.SUSPECT, Sign.BEAT): Health.ALIVE,
        (Health.SUSPECT, Sign.SILENCE): Health.DEAD,
    }
)
"""Every pair that can be; the dead have none."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long silence is borne.

    Args:
        silent_s: since the last beat, until it is suspect.
        grace_s: from then, until it is dead.
    """

    silent_s: float
    grace_s: float


class Pulse(msgspec.Struct, frozen=True, gc=False):
    """What is known of one incarnation. Times are of a clock that is never put back, s.

    Args:
        incarnation: whose pulse it is.
        beat_at: its last beat.
        progress_at: when it last got on.
        health: what is thought of it.
        suspect_at: when its silence was found, where it is suspect.
    """

    incarnation: int
    beat_at: float
    progress_at: float
    health: Health = Health.ALIVE
    suspect_at: float = 0.0

    def beaten(self, incarnation: int, now: float, *, progress: bool = False) -> "Pulse":
        """Return the pulse after a beat.

        Raises:
            StaleIncarnation: another incarnation's beat, or one of a dead incarnation.
        """
        health = TRANSITIONS.get((self.health, Sign.BEAT))
        if incarnation != self.incarnation or health is None:
            raise StaleIncarnation(incarnation, self.incarnation)
        return Pulse(incarnation, now, now if progress else self.progress_at, health)

    def due_at(self, limits: Limits) -> float:
        """Return when to look at it next."""
        if self.health is Health.ALIVE:
            return self.beat_at + limits.silent_s
        return self.suspect_at + limits.grace_s

    def looked_at(self, limits: Limits, now: float) -> "Pulse":
        """Return what is thought of it now.

        Looking late finds it suspect first, and the grace begins with that: whoever stood still must give those whose
        beats may be waiting time to be heard.
        """
        if self.health is Health.ALIVE and now >= self.beat_at + limits.silent_s:
            return Pulse(self.incarnation, self.beat_at, self.progress_at, TRANSITIONS[self.health, Sign.SILENCE], now)
        if self.health is Health.SUSPECT and now >= self.suspect_at + limits.grace_s:
            return msgspec.structs.replace(self, health=TRANSITIONS[self.health, Sign.SILENCE])
        return self
