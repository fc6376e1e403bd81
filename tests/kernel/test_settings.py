"""Settings: the contract's defaults, refusals of what no runtime could keep, and the backoff."""

import math
from typing import get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.settings import Settings

COUNTS = [name for name, hint in get_type_hints(Settings).items() if hint is int]
DURATIONS = [name for name, hint in get_type_hints(Settings).items() if hint is float]
MAY_BE_ZERO = ("handoff_cooldown_s", "retries_max", "idle_s", "retention_s", "lag_s", "storm_ends_max", "sweep_s")


def test_the_defaults_are_those_of_the_contract() -> None:
    """Lease 45 s, 64 steps, 15 min a turn, 3 retries, a day for keys and approvals, 5 s to close; durable first."""
    defaults = Settings()

    assert defaults.lease_s == 45
    assert defaults.beat_s == 15
    assert defaults.steps_max == 64
    assert defaults.turn_s == 15 * 60
    assert defaults.retries_max == 3
    assert defaults.idempotency_s == 24 * 3600
    assert defaults.approval_s == 24 * 3600
    assert defaults.shutdown_s == 5
    assert defaults.synchronous == "FULL"


def test_every_setting_has_a_default_and_a_word_about_it() -> None:
    """`Settings()` runs, and every field stands in the docstring."""
    documented = {line.split(":")[0].strip() for line in (Settings.__doc__ or "").splitlines() if ":" in line}

    assert set(Settings.__struct_fields__) <= documented
    assert not [field for field in msgspec.structs.fields(Settings) if field.required]


def test_settings_cannot_be_changed_under_a_running_runtime() -> None:
    """The record is frozen."""

    with pytest.raises(AttributeError):
        Settings().lease_s = 60.0  # type: ignore[misc]


@pytest.mark.parametrize("lease_s", [5, 45.0, 300])
def test_a_lease_within_the_contract_is_taken(lease_s: float) -> None:
    """5 to 300 s, both ends included; a beat is always a third."""

    assert Settings(lease_s=lease_s).beat_s == pytest.approx(lease_s / 3)


@pytest.mark.parametrize("lease_s", [4.999, 300.001, 0, -45, math.nan, math.inf])
def test_a_lease_outside_the_contract_is_refused(lease_s: float) -> None:
    """The message names the setting, the range and the value."""

    with pytest.raises(ValueError, match=r"lease_s must be between 5 and 300, not"):
        Settings(lease_s=lease_s)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL", "EXTRA"])
def test_every_synchronous_mode_of_the_database_is_taken(synchronous: str) -> None:
    """The four that SQLite knows."""

    assert Settings(synchronous=synchronous).synchronous == synchronous


@pytest.mark.parametrize("synchronous", ["", "full", "2", "FULL; DROP TABLE turns"])
def test_any_other_synchronous_mode_is_refused(synchronous: str) -> None:
    """A mode that SQLite would silently ignore is no durability."""

    with pytest.raises(ValueError, match="synchronous must be"):
        Settings(synchronous=synchronous)


@pytest.mark.parametrize("name", [*COUNTS, *DURATIONS])
def test_a_negative_limit_is_refused_by_name(name: str) -> None:
    """Nothing could be kept under it."""

    with pytest.raises(ValueError, match=name):
        Settings(**{name: -1})


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_duration_that_ends_never_is_refused_by_name(name: str, value: float) -> None:
    """A timer armed for NaN disorders the others, and what may wait for ever does."""

    with pytest.raises(ValueError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("name", [name for name in (*COUNTS, *DURATIONS) if name not in MAY_BE_ZERO])
def test_a_limit_of_zero_is_refused_by_name(name: str) -> None:
    """A mailbox of none or a turn of no time is a mistake, not a setting."""

    with pytest.raises(ValueError, match=name):
        Settings(**{name: 0})


@pytest.mark.parametrize("name", MAY_BE_ZERO)
def test_no_retries_and_no_pruning_are_settings(name: str) -> None:
    """The two that zero turns off."""

    assert getattr(Settings(**{name: 0}), name) == 0


# ---------------------------------------------------------------- retries


@settings(deadline=None)
@given(failures=st.integers(1, 60), jitter=st.floats(0, 1, exclude_max=True))
def test_the_settings_are_the_policy_of_agents_that_declare_none(failures: int, jitter: float) -> None:
    """As often, and after the same pauses."""
    limits = Settings(retries_max=5, retry_base_s=0.5, retry_cap_s=7.0)

    assert limits.retry == Retry(retries_max=5, base_s=0.5, cap_s=7.0)
    assert limits.retry.pause_s(failures, jitter) == limits.backoff_s(failures, jitter)


def test_the_backoff_doubles_up_to_its_cap() -> None:
    """0.1, 0.2, 0.4 s and so on, and never more than 30."""
    limits = Settings(retry_base_s=0.1, retry_cap_s=30.0)
    pauses = [limits.backoff_s(failures, 0.0) for failures in range(1, 12)]

    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def test_jitter_takes_away_up_to_half() -> None:
    """So that a thousand turns that failed together do not come back together, or at once."""
    limits = Settings(retry_base_s=8.0)

    assert limits.backoff_s(1, 0.0) == 8.0
    assert limits.backoff_s(1, 0.5) == 6.0
    assert limits.backoff_s(1, 0.999) == pytest.approx(4.0, abs=0.01)


@settings(deadline=None)
@given(
    failures=st.integers(1, 100_000),
    jitter=st.floats(0, 1, exclude_max=True),
    base_s=st.floats(0.001, 60),
    cap_s=st.floats(0.001, 600),
)
def test_every_pause_is_finite_and_within_its_bounds(failures: int, jitter: float, base_s: float, cap_s: float) -> None:
    """For the hundred-thousandth failure too: never longer than the cap, never less than half of what is due."""
    limits = Settings(retry_base_s=base_s, retry_cap_s=cap_s)
    pause_s = limits.backoff_s(failures, jitter)

    assert min(base_s, cap_s) / 2 <= pause_s <= cap_s


@settings(deadline=None)
@given(failures=st.integers(1, 60), jitter=st.floats(0, 1, exclude_max=True))
def test_one_more_failure_never_shortens_the_pause(failures: int, jitter: float) -> None:
    """With equal jitter."""
    limits = Settings()

    assert limits.backoff_s(failures + 1, jitter) >= limits.backoff_s(failures, jitter)
