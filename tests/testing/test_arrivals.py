"""Arrivals: a Poisson process of its rate, a trace as it was recorded, and any part of it."""

import time
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from turnkeeper.testing.arrivals import from_offset, poisson, recorded


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


# ---------------------------------------------------------------- Poisson


@pytest.mark.parametrize("per_s", [0.01, 1.0, 50.0])
def test_a_poisson_process_has_its_rate_and_stays_within_its_time(per_s: float) -> None:
    """In order, from 0 to the end, as many as the rate says."""
    seconds = 4_000 / per_s
    times = list(poisson(per_s, seconds, Random(1)))

    assert len(times) == pytest.approx(4_000, rel=0.06)
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < seconds


def test_the_gaps_of_a_poisson_process_vary_as_much_as_they_last() -> None:
    """The mark of exponential gaps: mean and deviation are equal."""
    times = list(poisson(1.0, 20_000, Random(2)))
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert deviation == pytest.approx(mean, rel=0.05)


def test_equal_chances_give_equal_arrivals() -> None:
    """And others give others; no time gives none."""

    assert list(poisson(2, 50, Random(3))) == list(poisson(2, 50, Random(3))) != list(poisson(2, 50, Random(4)))
    assert list(poisson(1e-9, 1, Random(3))) == list(poisson(5, 0, Random(3))) == []


# ---------------------------------------------------------------- traces


def test_a_trace_is_read_from_its_first_arrival_in_order(trace: Path) -> None:
    """Whatever else stands in its columns, and however its lines are sorted."""
    trace.write_text(
        "TIMESTAMP,ContextTokens\n"
        "2023-11-16 18:17:05.0000000,7\n"
        "2023-11-16 18:17:03.9799600,4808\n"
        "2023-11-16 18:17:04.0319600,3180\n"
    )

    assert recorded(trace) == pytest.approx([0, 0.052, 1.02004])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column TIMESTAMP"),
        ("time,n\n1,2\n", "no column TIMESTAMP"),
        ("TIMESTAMP\n", "no arrival"),
        ("TIMESTAMP\n2023-11-16 18:17:03\nyesterday\n", "line 3: "),
        ("n,TIMESTAMP\n1,2023-11-16 18:17:03\n2\n", "line 3: "),
        ("TIMESTAMP\n2023-13-16 18:17:03\n", "line 2: "),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(trace: Path, text: str, said: str) -> None:
    """An arrival that cannot be read is not left out."""
    trace.write_text(text)

    with pytest.raises(ValueError, match=said):
        recorded(trace)


def test_a_trace_that_is_not_there_is_an_os_error(trace: Path) -> None:
    """As with any file."""
    with pytest.raises(FileNotFoundError):
        recorded(trace)


def test_a_trace_is_read_alike_in_every_time_zone(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night in which the machine's clock is put back makes no hour of a second."""
    trace.write_text("TIMESTAMP\n2023-11-05 01:59:59\n2023-11-05 02:00:00\n")
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        times = recorded(trace)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert times == [0, 1]


def test_the_zone_of_a_time_counts(trace: Path) -> None:
    """Two ways of writing one second are one second apart from neither."""
    trace.write_text("TIMESTAMP\n2023-11-05 01:00:00.123456+00:00\n2023-11-05 02:00:01.123456+01:00\n")

    assert recorded(trace) == [0, 1]


# ---------------------------------------------------------------- a part of a trace


TIMES = [0.0, 1.0, 4.0, 9.0]  # ten seconds long, with the second after the last


@pytest.mark.parametrize(
    ("offset", "seconds", "found"),
    [
        (0.0, 10, [0, 1, 4, 9]),
        (0.0, 4, [0, 1]),
        (0.0, 0, []),
        (0.5, 5, [4]),
        (0.5, 10, [4, 5, 6, 9]),
        (0.1, 10, [0, 3, 8, 9]),
        (0.9, 12, [0, 1, 2, 5, 10, 11]),
        (0.0, 25, [0, 1, 4, 9, 10, 11, 14, 19, 20, 21, 24]),
    ],
)
def test_a_part_of_a_trace_begins_at_its_offset_and_goes_round(
    offset: float, seconds: float, found: list[float]
) -> None:
    """What arrives within the time, from 0, in order."""

    assert from_offset(TIMES, offset, seconds) == pytest.approx(found)


@pytest.mark.parametrize("seed", range(20))
def test_any_part_of_a_trace_holds_what_the_trace_holds_there(seed: int) -> None:
    """Against the plainest way of saying it."""
    draw = Random(seed)
    times = sorted(draw.random() * 100 for _ in range(draw.randrange(1, 30)))
    offset, seconds, length = draw.random(), draw.random() * 400, times[-1] + 1
    plain = [at for lap in range(600) for time in times if 0 <= (at := time + lap * length - offset * length) < seconds]

    assert from_offset(times, offset, seconds) == pytest.approx(plain)
