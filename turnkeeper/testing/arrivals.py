"""Arrivals: when work comes in, from a recorded trace or by a Poisson process."""

import csv
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

__all__ = ["from_offset", "poisson", "recorded"]


def poisson(per_s: float, seconds: float, chance: Random) -> Iterator[float]:
    """Yield arrival times, s from 0, with exponential gaps."""
    now_s = chance.expovariate(per_s)
    while now_s < seconds:
        yield now_s
        now_s += chance.expovariate(per_s)


def recorded(file: Path) -> list[float]:
    """Return the arrival times of a trace, s from its first.

    It is a CSV file with a column TIMESTAMP, in UTC where it names no zone.

    Raises:
        OSError: it cannot be read.
        ValueError: it has no such column, or a line's time cannot be read; names the line.
    """
    times: list[float] = []
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if "TIMESTAMP" not in (reader.fieldnames or ()):
            msg = "its first line has no column TIMESTAMP"
            raise ValueError(msg)
        for row in reader:
            try:
                at = datetime.fromisoformat(row["TIMESTAMP"])
                times.append((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
            except (TypeError, ValueError) as error:
                msg = f"line {reader.line_num}: {error}"
                raise ValueError(msg) from error
    if not times:
        msg = "it holds no arrival"
        raise ValueError(msg)
    first = min(times)
    return sorted(time - first for time in times)


def from_offset(times: Sequence[float], offset: float, seconds: float) -> list[float]:
    """Return what arrives within `seconds` of a point of a trace, which goes round at its end.

    Args:
        times: the trace, s from 0, in order.
        offset: the point, as a part of the trace: in [0, 1).
        seconds: how long to take from there.
    """
    length = times[-1] + 1.0
    begin_s, found, lap_s = offset * length, list[float](), 0.0
    while lap_s < begin_s + seconds:
        first, last = bisect_left(times, begin_s - lap_s), bisect_left(times, begin_s + seconds - lap_s)
        found += [time + lap_s - begin_s for time in times[first:last]]
        lap_s += length
    return found
