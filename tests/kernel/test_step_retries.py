"""Steps that were called more than once, doubts that nobody settles, and the steps that a fork begins with."""

import msgspec
import pytest
from recording import OTHER, WHO, done, edges_of, failed, intent, packed, raw

from turnkeeper.kernel.edge import (
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    PolicyResolved,
    Requeued,
    Resumed,
    StepDoubt,
    StepResult,
    Suspended,
    decode_detail,
)
from turnkeeper.kernel.history import check_turn
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Fork, accept
from turnkeeper.kernel.records import EdgeAppended
from turnkeeper.kernel.step import Effect, StepDecision, StepStatus, check_same_call, decide, fold_steps
from turnkeeper.kernel.turn import fold as fold_turn

# ---------------------------------------------------------------- calls that failed and are called again


@pytest.mark.parametrize("calls", range(1, 5))
def test_the_calls_that_failed_are_counted_in_every_attempt(calls: int) -> None:
    """So a restart goes on counting, and does not begin anew."""
    details = [detail for nth in range(calls) for detail in (intent(), failed(110.0 + nth))]
    step = fold_steps(edges_of(*details))[WHO]

    assert (step.status, step.failures, step.retry_at) == (StepStatus.RETRYING, calls, 109.0 + calls)
    assert step.failure == Failure("Flaky", "503")


def test_an_intent_after_a_retry_keeps_the_count_and_stands_for_no_time() -> None:
    """The next call is under way: when it may be is over, how many failed before it is not."""
    step = fold_steps(edges_of(intent(), failed(110.0), intent(), failed(112.0), intent()))[WHO]

    assert (step.status, step.failures, step.retry_at) == (StepStatus.INTENDED, 2, None)
    assert decide(step, Effect.EFFECTFUL) is StepDecision.DOUBT


def test_a_pure_step_is_counted_without_an_intent() -> None:
    """Its failures carry its arguments, and its replay is still checked."""
    step = fold_steps(edges_of(failed(110.0, {"n": 1}), failed(112.0, {"n": 1})))[WHO]

    assert (step.status, step.failures, step.retry_at) == (StepStatus.RETRYING, 2, 112.0)
    check_same_call(step, packed({"n": 1}))


def test_a_failure_without_another_time_is_the_end_of_its_step() -> None:
    """The last failure is the one that reruns raise; it is counted as well."""
    step = fold_steps(edges_of(intent(), failed(110.0), intent(), failed(None)))[WHO]

    assert (step.status, step.failures, step.retry_at) == (StepStatus.FAILED, 2, None)
    assert decide(step, Effect.PURE) is StepDecision.RAISE


def test_a_call_that_succeeds_at_last_leaves_no_failure_and_keeps_the_count() -> None:
    """A rerun is answered, and people see that it took three calls."""
    step = fold_steps(edges_of(intent(), failed(110.0), intent(), failed(112.0), intent(), done("ok")))[WHO]

    assert (step.status, step.result, step.failure, step.retry_at) == (StepStatus.SUCCEEDED, packed("ok"), None, None)
    assert step.failures == 2


def test_a_retry_that_a_crash_cut_off_is_a_doubt_that_keeps_the_count() -> None:
    """Raising said that the first call had not happened; of the second nobody knows."""
    step = fold_steps(edges_of(intent(), failed(110.0), intent(), StepDoubt(0, *WHO, "cut off by a crash")))[WHO]

    assert (step.status, step.failures) == (StepStatus.UNKNOWN, 1)


def test_a_step_that_failed_for_good_and_is_forgotten_begins_to_count_anew() -> None:
    """A retry of its turn runs it as if it had never been called, under the key that it was called under."""
    ended = (intent(), failed(110.0), intent(), failed(None), Requeued("retry", 130.0, forgotten=[WHO]))

    step = fold_steps(edges_of(*ended))[WHO]
    assert (step.status, step.failures, step.retry_at) == (StepStatus.RETRYING, 0, None)
    assert step.idempotency_key == intent().idempotency_key
    assert fold_steps(edges_of(*ended, intent()))[WHO].failures == 0


@pytest.mark.parametrize("stop", [Requeued("shutdown", forgotten=[WHO]), Suspended("approval", 900.0, forgotten=[WHO])])
def test_a_call_that_was_intended_and_never_made_takes_no_failure_back(stop: Requeued | Suspended) -> None:
    """Only that intent is forgotten: a restart or a wait lets no step be called more often than its policy says."""
    step = fold_steps(edges_of(intent(), failed(110.0), intent(), stop)).get(WHO)

    assert step is not None
    assert (step.status, step.failures) == (StepStatus.RETRYING, 1)
    assert decide(step, Effect.EFFECTFUL) is StepDecision.RUN


@pytest.mark.parametrize("detail", [intent(), done("ok", {"n": 1}), failed(None, {"n": 1})])
def test_a_step_keeps_the_contract_it_was_recorded_under(detail: Detail) -> None:
    """Of its intent or, without one, of its outcome."""
    recorded = msgspec.structs.replace(detail, contract="2:c0ffee")

    assert fold_steps(edges_of(recorded))[WHO].contract == "2:c0ffee"


def test_an_outcome_without_arguments_leaves_the_contract_of_its_intent() -> None:
    """The result of an intended call says nothing of what its intent has said."""
    step = fold_steps(edges_of(msgspec.structs.replace(intent(), contract="2:c0ffee"), done("ok")))[WHO]

    assert (step.contract, step.status) == ("2:c0ffee", StepStatus.SUCCEEDED)


# ---------------------------------------------------------------- doubts that nobody will settle


CUT_OFF = (intent(), StepDoubt(0, *WHO, "cut off by a crash"))


def test_a_doubt_that_was_given_up_stays_a_step_that_may_have_happened() -> None:
    """Everything about it stays for people to see; a rerun raises, and nothing calls it."""
    doubted = fold_steps(edges_of(*CUT_OFF))[WHO]
    given_up = fold_steps(edges_of(*CUT_OFF, Resumed(1, 145.0, WHO, given_up=True)))[WHO]

    assert given_up == msgspec.structs.replace(doubted, status=StepStatus.ABANDONED)
    assert decide(given_up, Effect.EFFECTFUL) is StepDecision.RAISE


def test_a_doubt_about_a_step_that_nobody_asked_for_cannot_be_given_up() -> None:
    """A record is made by calls alone."""

    assert fold_steps(edges_of(Resumed(1, 145.0, WHO, given_up=True))) == {}


@pytest.mark.parametrize("policy", ["ask", "fail", "retry", "probe"])
def test_what_a_policy_made_of_a_doubt_changes_no_step(policy: str) -> None:
    """It says why something follows; what follows says what became of the step."""
    told = PolicyResolved(*WHO, policy, "happened" if policy == "probe" else "")

    assert fold_steps(edges_of(*CUT_OFF, told)) == fold_steps(edges_of(*CUT_OFF))


# ---------------------------------------------------------------- forks


def forked(*details: Detail) -> list[Edge]:
    """Return the edges of a turn that was forked with a record of these steps, and may run at once."""
    steps = edges_of(*details)[2:]
    arrival = Arrival(9, 2, "k", packed(1), b"digest", 500.0, 600.0, Fork(7, len(steps), steps, []))
    change = accept(arrival, Lease(1, 545.0))
    return [
        Edge(one.turn_id, one.ordinal, EdgeKind(one.kind), one.epoch, one.at, one.detail, one.digest)
        for one in change.records
        if isinstance(one, EdgeAppended)
    ]


def test_a_fork_begins_with_the_steps_of_its_source_and_with_no_other() -> None:
    """The same calls, keys and results; a rerun is answered from them."""
    taken = (intent(), done("ok"), StepResult(1, *OTHER, raw(3), raw({"n": 1})))

    assert fold_steps(forked(*taken)) == fold_steps(edges_of(*taken))


def test_a_fork_says_whose_record_it_began_with_and_how_much_of_it() -> None:
    """In its first edge, which nothing changes any more."""
    inbound = decode_detail(forked(intent(), done("ok"))[0])

    assert isinstance(inbound, Inbound)
    assert (inbound.forked_from, inbound.steps_taken) == (7, 2)


def test_the_edges_of_a_fork_are_its_own() -> None:
    """Numbered without a gap, of the time of the fork, chained anew: its history proves itself."""
    edges = forked(intent(), done("ok"))

    assert [(edge.turn_id, edge.ordinal, edge.at) for edge in edges] == [(9, nth, 500.0) for nth in range(4)]
    assert list(check_turn(fold_turn(2, edges), edges, None, None)) == []
