"""Durations as people write them on a command line (seconds, or 15m, 12h, 30d), and as they read them."""

import math
from typing import Final

import click

from turnkeeper.kernel.lookback.past import span

__all__ = ["ago", "duration_s"]

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration_s(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return an option's duration in seconds, zero or more and finite; None where it is not given. A click callback.

    Raises:
        click.BadParameter: it is no duration.
    """
    if text is None:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS_S else (text, "s")
    try:
        found_s = float(number) * _UNITS_S[unit]
    except ValueError:
        found_s = math.nan
    if not 0 <= found_s < math.inf:
        raise click.BadParameter(f"{text!r} is no duration; write seconds, or 15m, 12h, 30d")
    return found_s


def ago(at: float, now: float) -> str:
    """Return how long before a moment something was, or how long after it it will be. Times in s."""
    return f"{span(now - at)} ago" if at <= now else f"in {span(at - now)}"
