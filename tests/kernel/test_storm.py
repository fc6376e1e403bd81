"""The storm guard: which ends of runs count, once for each turn, within a window that progress empties."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from turnkeeper.kernel.errors import (
    ChildNotWanted,
    ChildQuarantined,
    ProcessDied,
    Quarantined,
    ShuttingDown,
    VersionGone,
)
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.storm import Storm, is_fruitless
from turnkeeper.kernel.verdict import Stop, Verdict

FIVE = Settings()
COUNTED = {Verdict.FAIL, Verdict.RETRY, Verdict.RECOVER}


class Ended(BaseException):
    """Stands for a task's cancellation: no Exception, as `asyncio.CancelledError` is none."""


def ends(storm: Storm, turns: list[int], at: float = 0.0, settings: Settings = FIVE) -> list[bool]:
    return [storm.end(settings, turn, at) for turn in turns]


# ---------------------------------------------------------------- what counts


@pytest.mark.parametrize(("verdict", "stop"), list(product(Verdict, [None, *Stop])))
def test_every_verdict_on_what_a_handler_raised_counts_or_does_not(verdict: Verdict, stop: Stop | None) -> None:
    """Failed, retried and taken back do; completed, suspended, yielded and read again do not."""

    assert is_fruitless(verdict, ValueError(), stop) == (verdict in COUNTED)


@pytest.mark.parametrize("error", [ProcessDied("a", 1, "signal 9"), VersionGone(1, "a", "1", "2"), RuntimeError()])
def test_what_a_broken_release_raises_counts(error: Exception) -> None:
    """A worker that dies, a version that is gone, and whatever else the handler raises."""

    assert is_fruitless(Verdict.FAIL, error, None)


def test_a_turn_that_was_quarantined_before_it_ran_does_not_count() -> None:
    """It did its harm in earlier runs, and those have counted."""

    assert not is_fruitless(Verdict.FAIL, Quarantined(1, 101), None)


@pytest.mark.parametrize("error", [ChildQuarantined("p", "w"), ChildNotWanted("p", "paused"), ShuttingDown()])
def test_a_turn_that_found_no_worker_does_not_count(error: Exception) -> None:
    """They are put away or told to rest: nothing of the agent has run."""

    assert not is_fruitless(Verdict.FAIL, error, None)


@pytest.mark.parametrize("stop", [None, *Stop])
def test_a_cancellation_counts_only_where_a_limit_has_sent_it(stop: Stop | None) -> None:
    """One from outside ends the program, not the agent: its next start must not find it paused."""

    assert is_fruitless(Verdict.FAIL, Ended(), stop) == (stop is not None)


# ---------------------------------------------------------------- the window


def test_the_fifth_turn_within_thirty_seconds_is_a_storm() -> None:
    """By the contract's defaults; then the count begins anew."""
    storm = Storm()

    assert ends(storm, [1, 2, 3, 4, 5]) == [False] * 4 + [True]
    assert ends(storm, [6, 7, 8, 9, 10]) == [False] * 4 + [True]


def test_a_turn_counts_once_however_often_its_runs_end() -> None:
    """One bad inbound with its retries is no storm."""
    storm = Storm()

    assert not any(ends(storm, [1, 2, 3, 4] * 100))
    assert ends(storm, [5]) == [True]


def test_progress_forgets_every_end() -> None:
    """One bad client cannot pause an agent that gets on with the turns of others."""
    storm = Storm()

    assert not any(ends(storm, [1, 2, 3, 4]))
    storm.get_on()
    assert not any(ends(storm, [5, 6, 7, 8]))


def test_an_end_is_forgotten_when_its_time_is_over() -> None:
    """Exactly `storm_s` after it, the window is over; a turn that ends again counts from then on."""
    storm = Storm()

    assert not any(ends(storm, [1, 2, 3, 4]))
    assert ends(storm, [5], FIVE.storm_s) == [False]
    assert not any(ends(storm, [6, 7, 8], FIVE.storm_s + 1))
    assert ends(storm, [5], 2 * FIVE.storm_s - 1) == [False]
    assert ends(storm, [9], 2 * FIVE.storm_s - 0.5) == [True]


def test_with_zero_ends_nothing_is_ever_a_storm() -> None:
    """And with one, the first is."""

    assert not any(ends(Storm(), list(range(1_000)), settings=Settings(storm_ends_max=0)))
    assert ends(Storm(), [1, 2], settings=Settings(storm_ends_max=1)) == [True, True]


@hypothesis_settings(deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from("eeeep"), st.integers(1, 8), st.integers(0, 12)), max_size=60),
)
def test_whatever_happens_a_storm_is_so_many_turns_within_the_window_since_progress(
    ends_max: int, happened: list[tuple[str, int, int]]
) -> None:
    """Compared with the whole history, counted anew at each end."""
    limits, storm, now = Settings(storm_ends_max=ends_max), Storm(), 0
    since: list[tuple[int, int]] = []
    for what, turn, passed_s in happened:
        now += passed_s
        if what == "p":
            storm.get_on()
            since = []
            continue
        since.append((turn, now))
        expected = len({one for one, at in since if at > now - limits.storm_s}) >= ends_max

        assert storm.end(limits, turn, now) == expected
        since = [] if expected else since
