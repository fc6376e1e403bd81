"""Retry: refusals of what nothing could keep, the pauses, and what is worth another run."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.kernel.retry import Retry

jitters = st.floats(0, 1, exclude_max=True)


class Flaky(Exception):
    """What another run could mend."""


class Worse(Flaky):
    """A kind of it."""


# ---------------------------------------------------------------- ranges


def test_the_policy_of_nobody_is_three_runs_more_after_growing_pauses() -> None:
    """The defaults of the contract."""
    retry = Retry()

    assert (retry.retries_max, retry.base_s, retry.cap_s, retry.on) == (3, 0.1, 30.0, (Exception,))


@pytest.mark.parametrize("retries_max", [0, 1, 1_000_000])
def test_any_number_of_retries_is_a_policy(retries_max: int) -> None:
    """None at all too: then a failure is the end."""

    assert Retry(retries_max=retries_max).retries_max == retries_max


def test_fewer_than_no_retries_are_refused() -> None:
    """The message names the field and the value."""

    with pytest.raises(ValueError, match="retries_max must be zero or more, not -1"):
        Retry(retries_max=-1)


@pytest.mark.parametrize("name", ["base_s", "cap_s"])
@pytest.mark.parametrize("value", [0, -0.1, math.inf, -math.inf, math.nan])
def test_a_pause_that_is_no_time_is_refused_by_name(name: str, value: float) -> None:
    """None would spin, an infinite one would never end, and NaN disorders every timer."""

    with pytest.raises(ValueError, match=f"{name} must be positive and finite, not"):
        Retry(**{name: value})


@pytest.mark.parametrize("name", ["base_s", "cap_s"])
@pytest.mark.parametrize("value", [5e-324, 1, 1e308])
def test_every_positive_finite_pause_is_taken(name: str, value: float) -> None:
    """Both ends included."""

    assert getattr(Retry(**{name: value}), name) == value


@pytest.mark.parametrize("on", [Flaky, [Flaky], (Flaky("an instance"),), ("Flaky",), None])
def test_what_is_no_tuple_of_types_is_refused(on: object) -> None:
    """Where it is declared, not at the first failure."""

    with pytest.raises(ValueError, match="on must be a tuple of exception types, not"):
        Retry(on=on)  # type: ignore[arg-type]


def test_a_type_that_is_no_exception_is_refused() -> None:
    """`on=(int,)` would never retry anything, in silence."""

    with pytest.raises(ValueError, match="on must be a tuple of exception types, not"):
        Retry(on=(int,))  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    """Tools and agents share it."""

    with pytest.raises(AttributeError):
        Retry().retries_max = 5  # type: ignore[misc]


# ---------------------------------------------------------------- pauses


def test_the_pause_doubles_up_to_its_cap() -> None:
    """1, 2, 4, 8 s and then 10."""
    retry = Retry(base_s=1.0, cap_s=10.0)

    assert [retry.pause_s(failures, 0.0) for failures in range(1, 8)] == [1, 2, 4, 8, 10, 10, 10]


def test_a_cap_below_the_base_is_the_pause() -> None:
    """The cap wins."""

    assert Retry(base_s=8.0, cap_s=2.0).pause_s(1, 0.0) == 2.0


@settings(deadline=None)
@given(
    failures=st.integers(1, 10**9),
    jitter=jitters,
    base_s=st.floats(5e-324, 1e308),
    cap_s=st.floats(5e-324, 1e308),
)
def test_no_pause_is_ever_longer_than_the_cap(failures: int, jitter: float, base_s: float, cap_s: float) -> None:
    """For the billionth failure too, and without an overflow."""
    pause_s = Retry(base_s=base_s, cap_s=cap_s).pause_s(failures, jitter)

    assert 0 <= pause_s <= cap_s


@settings(deadline=None)
@given(failures=st.integers(1, 100), jitter=jitters, base_s=st.floats(0.001, 60), cap_s=st.floats(0.001, 600))
def test_jitter_takes_away_up_to_half_and_adds_nothing(
    failures: int, jitter: float, base_s: float, cap_s: float
) -> None:
    """So that what failed together does not come back together, or at once."""
    retry = Retry(base_s=base_s, cap_s=cap_s)
    due_s = retry.pause_s(failures, 0.0)

    assert due_s / 2 <= retry.pause_s(failures, jitter) <= due_s


@settings(deadline=None)
@given(failures=st.integers(1, 200), jitter=jitters, base_s=st.floats(0.001, 60), cap_s=st.floats(0.001, 600))
def test_one_more_failure_never_shortens_the_pause(failures: int, jitter: float, base_s: float, cap_s: float) -> None:
    """With equal jitter."""
    retry = Retry(base_s=base_s, cap_s=cap_s)

    assert retry.pause_s(failures + 1, jitter) >= retry.pause_s(failures, jitter)


# ---------------------------------------------------------------- what is worth it


def test_every_exception_is_worth_a_retry_by_default() -> None:
    """A cancellation and an exit are none: nobody may swallow them."""
    retry = Retry()

    assert retry.worth(Flaky())
    assert retry.worth(OSError())
    assert not retry.worth(asyncio.CancelledError())
    assert not retry.worth(KeyboardInterrupt())


def test_only_what_the_policy_names_and_its_kinds_are_worth_it() -> None:
    """A subclass counts; anything else does not."""
    retry = Retry(on=(Flaky, TimeoutError))

    assert [retry.worth(error) for error in (Flaky(), Worse(), TimeoutError(), ValueError())] == [
        True,
        True,
        True,
        False,
    ]


def test_a_policy_that_names_nothing_retries_nothing() -> None:
    """Whatever its number says."""

    assert not Retry(retries_max=5, on=()).worth(Flaky())
