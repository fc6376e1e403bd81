"""The verdict: what becomes of a turn whose handler has ended, for every way in which it can end."""

import asyncio
from itertools import product

import pytest

from turnkeeper.kernel.errors import (
    ContractViolation,
    DeadlineExceeded,
    EffectInDoubt,
    KeyTaken,
    PayloadTooLarge,
    ProcessDied,
    ReplayDivergence,
    StaleEpoch,
    StepFailed,
    StepLimitExceeded,
    StorageFailed,
    ToolTimedOut,
)
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.verdict import Stop, Verdict, judge, worth

WHO = StepName("refund", "0")
PASSING: list[BaseException] = [
    ValueError("no"),
    asyncio.CancelledError(),
    TimeoutError(),
    StepFailed(WHO, "pure", "Flaky", "503"),
    ToolTimedOut(WHO, "pure", "ToolTimedOut", "took longer than 10 s"),
]
"""What another run could end otherwise."""
LASTING: list[BaseException] = [
    ContractViolation("x", "y"),
    PayloadTooLarge("x", 2, 1),
    EffectInDoubt(WHO, "key"),
    ReplayDivergence(WHO, "1", "2"),
    StepLimitExceeded(7, 64),
    DeadlineExceeded(7, 900.0),
]
"""What every run would end in."""
UNSTORED: list[BaseException] = [StorageFailed("x.db", "full"), StaleEpoch(7, 1), KeyTaken("k")]
"""What says that memory and store have parted."""
DIED: list[BaseException] = [
    ProcessDied("billing", 41, "signal 9"),
    ExceptionGroup("tasks", [ValueError("no"), ProcessDied("billing", 41, "exit code 1")]),
]
"""What says that the run was cut off, as a crash cuts it off."""
BUDGETS = list(product((0, 1, 3), (0, 1, 3), (True, False)))


def name(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, BaseException) else None


def verdicts(error: BaseException | None, stop: Stop | None) -> dict[tuple[int, int, bool], Verdict]:
    """Return the verdict for every (failures, retries_max, repeatable)."""
    return {
        (failures, retries_max, repeatable): judge(
            error, stop, failures=failures, retries_max=retries_max, repeatable=repeatable
        )
        for failures, retries_max, repeatable in BUDGETS
    }


def test_a_handler_that_returned_completes_its_turn() -> None:
    """However often it failed before."""

    assert verdicts(None, None) == dict.fromkeys(BUDGETS, Verdict.COMPLETE)


@pytest.mark.parametrize("error", PASSING, ids=name)
def test_a_handler_that_raised_is_retried_while_it_may_be(error: BaseException) -> None:
    """While retries are left, and never where the failure is an effect's own; then it fails."""

    assert verdicts(error, None) == {
        (failures, retries_max, repeatable): Verdict.RETRY if repeatable and failures < retries_max else Verdict.FAIL
        for failures, retries_max, repeatable in BUDGETS
    }


@pytest.mark.parametrize("error", LASTING, ids=name)
def test_an_error_that_every_run_would_end_in_is_not_retried(error: BaseException) -> None:
    """Limits, contracts, divergence and doubt fail at once: no retry could change them."""

    assert verdicts(error, None) == dict.fromkeys(BUDGETS, Verdict.FAIL)


@pytest.mark.parametrize("error", UNSTORED, ids=name)
@pytest.mark.parametrize("stop", [None, *Stop])
def test_a_run_that_could_not_be_recorded_is_read_again_whatever_else_is_true(
    error: BaseException, stop: Stop | None
) -> None:
    """The store is right: no decision is taken on a row that memory only believes in."""

    assert verdicts(error, stop) == dict.fromkeys(BUDGETS, Verdict.RESYNC)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop.SUSPEND, Verdict.SUSPEND),
        (Stop.SHUTDOWN, Verdict.YIELD),
        (Stop.DEADLINE, Verdict.FAIL),
        (Stop.STUCK, Verdict.RECOVER),
    ],
)
@pytest.mark.parametrize("error", [None, *PASSING, *LASTING, *DIED], ids=name)
def test_the_outcome_of_a_run_that_was_told_to_stop_does_not_count(
    stop: Stop, expected: Verdict, error: BaseException | None
) -> None:
    """Suspended, closing, overdue and stuck runs end as they were told to, whatever their handlers made of it."""

    assert verdicts(error, stop) == dict.fromkeys(BUDGETS, expected)


@pytest.mark.parametrize("error", DIED, ids=name)
def test_a_run_whose_process_died_is_taken_back_and_is_no_failure_of_its_turn(error: BaseException) -> None:
    """However many retries are used up: a crash uses none."""

    assert verdicts(error, None) == dict.fromkeys(BUDGETS, Verdict.RECOVER)


def test_every_verdict_can_be_reached() -> None:
    """No verdict is dead code, and no run ends without one."""
    errors = [None, *PASSING, *LASTING, *UNSTORED, *DIED]
    reached = {verdict for error, stop in product(errors, [None, *Stop]) for verdict in verdicts(error, stop).values()}

    assert reached == set(Verdict)


def test_a_turn_is_retried_as_often_as_its_setting_says_and_no_more() -> None:
    """Three retries are four runs."""
    verdicts = [judge(ValueError(), None, failures=n, retries_max=3, repeatable=True) for n in range(4)]

    assert verdicts == [Verdict.RETRY] * 3 + [Verdict.FAIL]


# ---------------------------------------------------------------- what a policy says of it


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """Return an error as `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


PICKY = Retry(on=(TimeoutError, StepFailed))
NARROW = Retry(on=(TimeoutError,))


@pytest.mark.parametrize(
    ("retry", "error", "wanted"),
    [
        (PICKY, TimeoutError(), True),
        (PICKY, ValueError(), False),
        (PICKY, StepFailed(WHO, "pure", "Flaky", "503"), True),
        (NARROW, StepFailed(WHO, "pure", "Flaky", "503"), False),
        (NARROW, caused(StepFailed(WHO, "pure", "TimeoutError", ""), TimeoutError()), True),
        (NARROW, caused(StepFailed(WHO, "pure", "ValueError", ""), ValueError()), False),
        (NARROW, caused(ValueError(), TimeoutError()), False),
        (NARROW, asyncio.CancelledError(), True),
        (NARROW, None, True),
        (NARROW, ExceptionGroup("two", [TimeoutError(), TimeoutError()]), True),
        (NARROW, ExceptionGroup("two", [TimeoutError(), ValueError()]), False),
        (NARROW, ExceptionGroup("two", [TimeoutError(), ExceptionGroup("one", [ValueError()])]), False),
        (Retry(on=()), TimeoutError(), False),
    ],
    ids=repr,
)
def test_a_policy_wants_what_it_names_and_what_a_step_made_of_it(
    retry: Retry, error: BaseException | None, wanted: bool
) -> None:
    """A tool's own exception counts as its step's failure does; of several that raised each must be wanted."""

    assert worth(retry, error) is wanted
