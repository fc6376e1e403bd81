"""Steps as the edges leave them: intents, outcomes, what a wait or a retry makes of them, and the order of issue."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import OTHER, WHO, edges_of, intent, packed, raw

from turnkeeper.kernel.edge import (
    Failure,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepResult,
)
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import Effect, StepDecision, StepRecord, StepStatus, check_same_call, decide, fold_steps

# ---------------------------------------------------------------- intents and outcomes


def test_a_turn_without_steps_has_none() -> None:
    """Transitions and inbounds are no steps."""

    assert fold_steps(edges_of()) == {}


def test_an_intent_alone_is_a_step_whose_outcome_nobody_recorded() -> None:
    """It keeps its effect class, its arguments and the key its tool was given."""
    steps = fold_steps(edges_of(intent(3)))

    assert steps == {
        WHO: StepRecord(
            issued=3,
            name=WHO,
            status=StepStatus.INTENDED,
            arguments=packed(5),
            effect="effectful",
            idempotency_key="s/7/refund[0]",
        )
    }


def test_a_result_completes_its_intent() -> None:
    """Arguments, effect and key stay those of the intent."""
    before = fold_steps(edges_of(intent(3)))[WHO]
    after = fold_steps(edges_of(intent(3), StepResult(3, *WHO, raw("ok"))))[WHO]

    assert after == msgspec.structs.replace(before, status=StepStatus.SUCCEEDED, result=packed("ok"))


def test_a_result_of_none_is_a_result() -> None:
    """A step that returned None answers None, and is not run again."""
    step = fold_steps(edges_of(intent(), StepResult(0, *WHO, raw(None))))[WHO]

    assert (step.status, step.result) == (StepStatus.SUCCEEDED, packed(None))
    assert decide(step, Effect.EFFECTFUL) is StepDecision.ANSWER


def test_a_pure_step_has_no_intent_and_its_result_carries_the_arguments() -> None:
    """Nothing need be durable before a pure call, and its replay is still checked."""
    arguments = {"order": "W42"}
    step = fold_steps(edges_of(StepResult(1, *WHO, raw("ok"), raw(arguments))))[WHO]

    assert step == StepRecord(
        issued=1, name=WHO, status=StepStatus.SUCCEEDED, arguments=packed(arguments), result=packed("ok")
    )
    check_same_call(step, packed(arguments))


def test_a_failure_is_recorded_with_its_step() -> None:
    """It is the answer of every rerun: type, message and digest."""
    failure = Failure("CardDeclined", "no funds", "ab12")
    intended = fold_steps(edges_of(intent(), StepFailure(0, *WHO, failure)))[WHO]
    pure = fold_steps(edges_of(StepFailure(0, *WHO, failure, raw({"n": 1}))))[WHO]

    assert (intended.status, intended.failure, intended.arguments) == (StepStatus.FAILED, failure, packed(5))
    assert (pure.status, pure.failure, pure.arguments) == (StepStatus.FAILED, failure, packed({"n": 1}))


def test_a_doubt_keeps_what_the_intent_said() -> None:
    """A step in doubt is still the same call, under the same key; why it is in doubt comes with it."""
    before = fold_steps(edges_of(intent(3)))[WHO]
    after = fold_steps(edges_of(intent(3), StepDoubt(3, *WHO, "cut off by a crash")))[WHO]

    assert after == msgspec.structs.replace(before, status=StepStatus.UNKNOWN, why="cut off by a crash")


def test_a_step_run_again_after_a_doubt_is_intended_anew() -> None:
    """on_doubt = retry: the new intent stands until the new outcome is recorded."""
    doubt = StepDoubt(0, *WHO, "cut off by a crash")

    assert fold_steps(edges_of(intent(), doubt, intent()))[WHO].status is StepStatus.INTENDED
    assert fold_steps(edges_of(intent(), doubt, intent(), StepResult(0, *WHO, raw(1))))[WHO].result == packed(1)


def test_a_probe_that_found_a_result_settles_the_doubt() -> None:
    """The result that was found out is the step's, as if it had been recorded at once."""
    step = fold_steps(edges_of(intent(), StepDoubt(0, *WHO, "cut off"), StepResult(0, *WHO, raw("found"))))[WHO]

    assert (step.status, step.result, step.effect) == (StepStatus.SUCCEEDED, packed("found"), "effectful")


# ---------------------------------------------------------------- what a wait or a retry does to a step


def test_a_step_that_a_person_says_happened_has_that_result() -> None:
    """The answer to the suspended turn becomes the step's result; its other facts stay."""
    doubted = fold_steps(edges_of(intent(3), StepDoubt(3, *WHO, "cut off")))[WHO]
    settled = fold_steps(
        edges_of(intent(3), StepDoubt(3, *WHO, "cut off"), Resumed(1, 145.0, WHO, True, raw({"id": 9})))
    )[WHO]

    assert settled == msgspec.structs.replace(doubted, status=StepStatus.SUCCEEDED, result=packed({"id": 9}), why="")


def test_a_step_that_a_person_says_happened_without_a_result_is_answered_with_none() -> None:
    """`Happened()` is not `DidNotHappen()`: the effect must not be repeated."""
    steps = fold_steps(edges_of(intent(), StepDoubt(0, *WHO, "cut off"), Resumed(1, 145.0, WHO, True, raw(None))))

    assert decide(steps[WHO], Effect.EFFECTFUL) is StepDecision.ANSWER
    assert steps[WHO].result == packed(None)


def test_a_step_that_a_person_says_did_not_happen_is_run() -> None:
    """Nothing of it is left in the record, so the rerun calls it."""
    steps = fold_steps(edges_of(intent(), StepDoubt(0, *WHO, "cut off"), Resumed(1, 145.0, WHO)))

    assert decide(steps.get(WHO), Effect.EFFECTFUL) is StepDecision.RUN


def test_settling_one_step_leaves_the_others_in_doubt() -> None:
    """An answer counts for the step it names."""
    details = [intent(0, OTHER), intent(1), StepDoubt(1, *WHO, "cut off"), Resumed(1, 145.0, WHO, True, raw(1))]
    steps = fold_steps(edges_of(*details))

    assert steps[OTHER].status is StepStatus.INTENDED
    assert steps[WHO].status is StepStatus.SUCCEEDED


def test_a_turn_resumed_from_a_wait_that_is_no_step_changes_no_step() -> None:
    """Timers and signals settle nothing."""
    step = fold_steps(edges_of(intent(), StepDoubt(0, *WHO, "cut off"), Resumed(1, 145.0)))[WHO]

    assert step.status is StepStatus.UNKNOWN


def test_an_answer_about_a_step_that_nobody_asked_for_invents_none() -> None:
    """A record is made by calls alone."""

    assert fold_steps(edges_of(Resumed(1, 145.0, WHO, True, raw(1)))) == {}


def test_the_step_that_a_retry_forgets_is_run_again_and_the_others_answer() -> None:
    """A turn retried because of a failed step runs that step anew, and only that one."""
    failed = StepFailure(1, *WHO, Failure("Flaky", "503"), raw(5))
    retried = Requeued("retry", 130.0, Failure("StepFailed", "503"), [WHO])
    steps = fold_steps(edges_of(StepResult(0, *OTHER, raw(1), raw({})), failed, retried))

    assert set(steps) == {OTHER}


def test_a_retry_that_forgets_nothing_keeps_every_step() -> None:
    """A turn requeued by recovery, or because its handler raised, is answered from the record throughout."""
    done = StepResult(0, *OTHER, raw(1), raw({}))

    assert fold_steps(edges_of(done, Requeued("recovery"))) == fold_steps(edges_of(done))


def test_a_forgotten_step_that_succeeds_later_has_that_later_result() -> None:
    """The second run of a forgotten step is a step like any other."""
    failed = StepFailure(0, *WHO, Failure("Flaky", "503"), raw(5))
    retried = Requeued("retry", 130.0, None, [WHO])
    step = fold_steps(edges_of(failed, retried, StepResult(0, *WHO, raw("ok"), raw(5))))[WHO]

    assert (step.status, step.result, step.failure) == (StepStatus.SUCCEEDED, packed("ok"), None)


# ---------------------------------------------------------------- issue order


def test_steps_are_in_issue_order_even_where_they_ended_in_another() -> None:
    """Three side by side, recorded as they ended: the checkpoint shows them as they were asked for."""
    first, second, third = (StepName("search", str(nth)) for nth in range(3))
    details = [
        intent(0, first),
        intent(2, third),
        intent(1, second),
        StepResult(2, *third, raw(3)),
        StepResult(1, *second, raw(2)),
        StepResult(0, *first, raw(1)),
    ]

    assert list(fold_steps(edges_of(*details))) == [first, second, third]
    assert [step.result for step in fold_steps(edges_of(*details)).values()] == [packed(1), packed(2), packed(3)]


@settings(deadline=None)
@given(st.permutations(range(8)))
def test_the_order_in_which_parallel_steps_end_does_not_change_the_checkpoint(order: list[int]) -> None:
    """The fold of every order of the same results is the same, in the same order."""
    results = [StepResult(nth, "search", str(nth), raw(nth), raw([nth])) for nth in range(8)]
    steps = fold_steps(edges_of(*(results[nth] for nth in order)))

    assert list(steps.items()) == list(fold_steps(edges_of(*results)).items())
    assert [step.issued for step in steps.values()] == list(range(8))
