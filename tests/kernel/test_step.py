"""Steps: the decision table, the fold of a turn's edges into its steps, replay under the same arguments."""

from itertools import product

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from turnkeeper.kernel.edge import (
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    encode_detail,
)
from turnkeeper.kernel.errors import ReplayDivergence
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import (
    DECISIONS,
    Effect,
    StepDecision,
    StepRecord,
    StepStatus,
    check_same_call,
    decide,
    fold_steps,
    idempotency_key,
)

WHO = StepName("refund", "0")
OTHER = StepName("find_order", "0")


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(packed(value))


def known(status: StepStatus, effect: Effect, arguments: object = None) -> StepRecord:
    """Return a step as the record knows it."""
    return StepRecord(issued=0, name=WHO, status=status, arguments=packed(arguments), effect=effect.value)


def edges_of(*details: Detail) -> list[Edge]:
    """Return a turn's edges as the store would: its inbound, its lease, then these."""
    kinds = {
        StepIntent: EdgeKind.STEP_INTENDED,
        StepResult: EdgeKind.STEP_SUCCEEDED,
        StepFailure: EdgeKind.STEP_FAILED,
        StepDoubt: EdgeKind.STEP_UNKNOWN,
        Requeued: EdgeKind.TURN_REQUEUED,
        Resumed: EdgeKind.TURN_RESUMED,
        Inbound: EdgeKind.INBOUND_RECEIVED,
        LeaseGranted: EdgeKind.LEASE_ACQUIRED,
    }
    return [
        Edge(7, ordinal, kinds[type(detail)], 1, 100.0 + ordinal, encode_detail(detail))
        for ordinal, detail in enumerate((Inbound("k", raw(1)), LeaseGranted(1, 145.0), *details))
    ]


def intent(
    issued: int = 0, name: StepName = WHO, effect: Effect = Effect.EFFECTFUL, arguments: object = 5
) -> StepIntent:
    return StepIntent(issued, *name, effect.value, raw(arguments), f"s/7/{name}")


# ---------------------------------------------------------------- the table of decisions

# The contract, written down a second time: what to do, by what the record knows and what a second run would do.
CONTRACT = {
    (None, Effect.PURE): StepDecision.RUN,
    (None, Effect.IDEMPOTENT): StepDecision.RUN,
    (None, Effect.EFFECTFUL): StepDecision.RUN,
    (StepStatus.INTENDED, Effect.PURE): StepDecision.RUN,
    (StepStatus.INTENDED, Effect.IDEMPOTENT): StepDecision.RUN,
    (StepStatus.INTENDED, Effect.EFFECTFUL): StepDecision.DOUBT,
    (StepStatus.SUCCEEDED, Effect.PURE): StepDecision.ANSWER,
    (StepStatus.SUCCEEDED, Effect.IDEMPOTENT): StepDecision.ANSWER,
    (StepStatus.SUCCEEDED, Effect.EFFECTFUL): StepDecision.ANSWER,
    (StepStatus.FAILED, Effect.PURE): StepDecision.RAISE,
    (StepStatus.FAILED, Effect.IDEMPOTENT): StepDecision.RAISE,
    (StepStatus.FAILED, Effect.EFFECTFUL): StepDecision.RAISE,
    (StepStatus.UNKNOWN, Effect.PURE): StepDecision.RUN,
    (StepStatus.UNKNOWN, Effect.IDEMPOTENT): StepDecision.RUN,
    (StepStatus.UNKNOWN, Effect.EFFECTFUL): StepDecision.DOUBT,
}


@pytest.mark.parametrize(("status", "effect"), list(product([None, *StepStatus], Effect)))
def test_every_pair_of_status_and_effect_is_decided_as_the_contract_says(
    status: StepStatus | None, effect: Effect
) -> None:
    """Run what is not recorded, answer what is, and doubt only what a crash cut off and a second run would harm."""
    record = None if status is None else known(status, effect)

    assert decide(record, effect) is CONTRACT[status, effect]
    assert DECISIONS[status, effect] is CONTRACT[status, effect]


def test_the_table_covers_every_pair_and_nothing_else() -> None:
    """There is no default that a new status could fall into."""

    assert set(DECISIONS) == set(product([None, *StepStatus], Effect))


@pytest.mark.parametrize("effect", Effect)
def test_a_step_recorded_as_effectful_stays_in_doubt_however_its_tool_is_declared_later(effect: Effect) -> None:
    """Calling a tool harmless in a new version does not settle what an old version left open."""

    assert decide(known(StepStatus.INTENDED, Effect.EFFECTFUL), effect) is StepDecision.DOUBT
    assert decide(known(StepStatus.UNKNOWN, Effect.EFFECTFUL), effect) is StepDecision.DOUBT


@pytest.mark.parametrize("recorded", Effect)
def test_a_tool_declared_effectful_now_is_not_repeated_on_the_word_of_an_older_version(recorded: Effect) -> None:
    """The more careful of the two declarations counts."""

    assert decide(known(StepStatus.INTENDED, recorded), Effect.EFFECTFUL) is StepDecision.DOUBT


@pytest.mark.parametrize(("status", "recorded", "declared"), list(product(StepStatus, Effect, Effect)))
def test_no_effect_is_ever_repeated_by_decision(status: StepStatus, recorded: Effect, declared: Effect) -> None:
    """A step that either version calls effectful, and that was intended once, never simply runs."""
    decision = decide(known(status, recorded), declared)

    if Effect.EFFECTFUL in {recorded, declared}:
        assert decision is not StepDecision.RUN


def test_effects_and_statuses_have_the_values_that_databases_hold() -> None:
    """Effect classes are stored with every intent."""

    assert [effect.value for effect in Effect] == ["pure", "idempotent", "effectful"]
    assert [status.value for status in StepStatus] == ["intended", "succeeded", "failed", "unknown"]


# ---------------------------------------------------------------- the fold


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
    """A step in doubt is still the same call, under the same key."""
    before = fold_steps(edges_of(intent(3)))[WHO]
    after = fold_steps(edges_of(intent(3), StepDoubt(3, *WHO, "cut off by a crash")))[WHO]

    assert after == msgspec.structs.replace(before, status=StepStatus.UNKNOWN)


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

    assert settled == msgspec.structs.replace(doubted, status=StepStatus.SUCCEEDED, result=packed({"id": 9}))


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


# ---------------------------------------------------------------- identity


def test_a_recorded_step_asked_with_the_same_arguments_is_the_same_call() -> None:
    """Equal bytes are an equal call."""

    check_same_call(known(StepStatus.SUCCEEDED, Effect.PURE, {"cents": 1}), packed({"cents": 1}))


def test_a_recorded_step_asked_with_other_arguments_is_a_divergence_that_names_both() -> None:
    """The message says which step, what is recorded and what is asked now."""

    with pytest.raises(ReplayDivergence) as diverged:
        check_same_call(known(StepStatus.SUCCEEDED, Effect.PURE, {"cents": 100}), packed({"cents": 999}))
    error = diverged.value
    assert (error.step, error.recorded, error.asked) == (WHO, "{'cents': 100}", "{'cents': 999}")
    for named in ("refund[0]", "{'cents': 100}", "{'cents': 999}"):
        assert named in str(error)


@settings(deadline=None)
@given(size=st.integers(0, 5_000))
def test_a_divergence_of_large_arguments_has_a_message_of_bounded_length(size: int) -> None:
    """A megabyte of arguments makes no megabyte of log."""

    with pytest.raises(ReplayDivergence) as diverged:
        check_same_call(known(StepStatus.SUCCEEDED, Effect.PURE, "x" * size), packed("y" * size + "y"))
    assert len(str(diverged.value)) < 1_200


names = st.builds(StepName, st.text(min_size=1, max_size=6), st.text(max_size=6)) | st.builds(
    StepName, st.text("a/0", min_size=1, max_size=4), st.text("a/0", max_size=4)
)


@settings(deadline=None)
@given(one=names, other=names, turns=st.tuples(st.integers(1, 3), st.integers(1, 3)))
@example(one=StepName("pay/visa", "7"), other=StepName("pay", "visa/7"), turns=(1, 1))
def test_two_steps_never_share_an_idempotency_key(one: StepName, other: StepName, turns: tuple[int, int]) -> None:
    """The key is the same on every attempt, and another in every other step: of this turn, or of any other."""
    keys = idempotency_key("store", turns[0], one), idempotency_key("store", turns[1], other)

    assert (keys[0] == keys[1]) == ((turns[0], one) == (turns[1], other))


def test_equal_steps_of_two_stores_have_two_keys() -> None:
    """Two deployments may talk to one payment provider."""

    assert idempotency_key("a1b2", 7, WHO) != idempotency_key("c3d4", 7, WHO)
