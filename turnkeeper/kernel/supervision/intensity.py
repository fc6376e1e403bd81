"""Restart intensity: how often what crashes is started again, after which pauses, and when it is enough."""

import math
from collections import deque
from enum import StrEnum

import msgspec

__all__ = ["Exceeded", "Intensity", "Window"]


class Exceeded(StrEnum):
    """What becomes of a child that falls more often than is borne."""

    ESCALATE = "escalate"  # all children stop, and the parent decides about this supervisor, as about any child
    QUARANTINE = "quarantine"  # that child is put away until it is released; the others go on


class Intensity(msgspec.Struct, frozen=True, kw_only=True):
    """How many restarts within how long are borne, and how long to wait before each.

    Args:
        restarts_max: restarts within the window; one more is too many.
        within_s: the window's length.
        pauses_s: before the first, the second, ... restart of a window; the last holds for all that follow.
        jitter: the share by which a pause may be longer, so that what fell together does not rise together.
    """

    restarts_max: int = 10
    within_s: float = 600.0
    pauses_s: tuple[float, ...] = (0.0, 30.0, 60.0)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what no supervisor could keep.

        Raises:
            ValueError: a value is outside its range; the message names it.
        """
        if self.restarts_max < 0:
            msg = f"restarts_max must be zero or more, not {self.restarts_max}"
            raise ValueError(msg)
        if not 0 < self.within_s < math.inf:
            msg = f"within_s must be positive and finite, not {self.within_s:g}"
            raise ValueError(msg)
        if not self.pauses_s or not all(0 <= pause_s < math.inf for pause_s in self.pauses_s):
            msg = f"pauses_s must be one or more, each zero or more and finite, not {self.pauses_s}"
            raise ValueError(msg)
        if not 0 <= self.jitter <= 1:
            msg = f"jitter must be between 0 and 1, not {self.jitter:g}"
            raise ValueError(msg)

    def pause_s(self, restarts: int, chance: float) -> float:
        """Return the pause before restart number `restarts` of a window (from 1); `chance` is in [0, 1)."""
        pause_s = self.pauses_s[min(restarts, len(self.pauses_s)) - 1]
        return pause_s * (1 + self.jitter * chance)


class Window:
    """The latest restarts of one child, or of one supervisor's children; no longer than what may be in it."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        """Begin with none."""
        self._times: deque[float] = deque()

    def count(self, intensity: Intensity, now: float) -> int:
        """Return how many restarts are within the window now; `now` is a clock that is never put back."""
        while self._times and self._times[0] <= now - intensity.within_s:
            self._times.popleft()
        return len(self._times)

    def restart(self, intensity: Intensity, now: float) -> int | None:
        """Note a restart and return its number in the window, or None where it would be one too many."""
        if self.count(intensity, now) >= intensity.restarts_max:
            return None
        self._times.append(now)
        return len(self._times)

    def clear(self) -> None:
        """Forget them: somebody has released the child."""
        self._times.clear()
