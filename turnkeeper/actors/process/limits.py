"""Limits: what a worker process may take, and how its silence is borne."""

import math
from typing import Final

import msgspec

from turnkeeper.kernel.supervision.liveness import Limits

__all__ = ["ProcessLimits"]

_LINE_BYTES_MIN: Final = 4_096
"""Whatever the runtime says that holds no value of a user's fits into a line."""


class ProcessLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker may take. Seconds end in `_s`, sizes in `_bytes`, counts in `_max`.

    Args:
        line_bytes_max: one line, in either direction.
        unread_bytes_max: what may wait for a worker that does not read its stdin; past it, it is not read either.
        start_s: from its start to `ready`.
        silent_s: without a line from it, until it is suspect. It is asked three times within that. A worker that
            cannot answer while it works needs more than its longest work.
        grace_s: from then, until it is killed.
        cancel_s: from `cancel` to the turn's end; then it is killed.
        shutdown_s: from being stopped to its exit, the rest of its turn included; then it is killed.
        refusals_max: lines of one incarnation that were not understood; one more, and it is killed.
        calls_max: calls and steps that one turn may have open at once.
        lines_per_s_max: lines a second that are read, blank ones included; more wait.
        stderr_lines_per_s_max: lines a second of stderr that are logged; more wait.
        stderr_line_bytes_max: of a line of stderr; the rest is left out.
    """

    line_bytes_max: int = 1_048_576
    unread_bytes_max: int = 262_144
    start_s: float = 10.0
    silent_s: float = 30.0
    grace_s: float = 30.0
    cancel_s: float = 5.0
    shutdown_s: float = 5.0
    refusals_max: int = 1_000
    calls_max: int = 64
    lines_per_s_max: int = 10_000
    stderr_lines_per_s_max: int = 200
    stderr_line_bytes_max: int = 2_048

    def __post_init__(self) -> None:
        """Refuse what nothing could keep.

        Raises:
            ValueError: a value is not positive and finite; the message names it.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not (0 < value < math.inf or (value == 0 and name == "refusals_max")):
                msg = f"{name} must be positive and finite, not {value}"
                raise ValueError(msg)
        if self.line_bytes_max < _LINE_BYTES_MIN:
            msg = f"line_bytes_max must be {_LINE_BYTES_MIN} or more, not {self.line_bytes_max}"
            raise ValueError(msg)

    @property
    def silence(self) -> Limits:
        """Return how long silence is borne; being without progress is the turn's matter, not the process's."""
        return Limits(silent_s=self.silent_s, grace_s=self.grace_s)
