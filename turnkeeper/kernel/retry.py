"""Retry: how often something that failed is run again, after which pause, and what is worth it."""

import math

import msgspec

__all__ = ["Retry"]

_DOUBLINGS_MAX = 64
"""Beyond it every backoff is at its cap, and a power of two would overflow in the end."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """A policy for what failed: of a tool's calls, or of an agent's turns.

    The pause before retry n is `base_s` doubled n - 1 times, at most `cap_s`, less up to half of it by jitter. When the
    next one may be is recorded with the failure, so a restart neither forgets it nor begins to count anew.

    Args:
        retries_max: how often it is run again.
        base_s: pause before the first retry, s.
        cap_s: the longest pause, s.
        on: the exceptions worth it. A contract violation never is.
    """

    retries_max: int = 3
    base_s: float = 0.1
    cap_s: float = 30.0
    on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        """Refuse a policy that nothing could keep.

        Raises:
            ValueError: a value is outside its range; the message names it.
        """
        if self.retries_max < 0:
            msg = f"retries_max must be zero or more, not {self.retries_max}"
            raise ValueError(msg)
        for name in ("base_s", "cap_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                msg = f"{name} must be positive and finite, not {value:g}"
                raise ValueError(msg)
        if not isinstance(self.on, tuple) or not all(
            isinstance(one, type) and issubclass(one, BaseException) for one in self.on
        ):
            msg = f"on must be a tuple of exception types, not {self.on!r}"
            raise ValueError(msg)

    def pause_s(self, failures: int, jitter: float) -> float:
        """Return the pause before retry number `failures` (from 1); `jitter` in [0, 1) takes away up to half."""
        doublings = min(failures - 1, _DOUBLINGS_MAX)
        longest_s: float = min(self.cap_s, self.base_s * 2.0**doublings)
        return longest_s * (1 - jitter / 2)

    def names(self, type_: str) -> bool:
        """Say whether an error that only its record knows is one of those to be run again, by the name of its type."""
        known = list(self.on)
        while known:
            one = known.pop()
            if one.__name__ == type_ or one is Exception:
                return True
            known += one.__subclasses__()
        return False

    def worth(self, error: BaseException) -> bool:
        """Say whether an error is one of those to be run again."""
        return isinstance(error, self.on)
