"""Steps: the decision table, replay under the same arguments and the same contract, idempotency keys."""

from itertools import product

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recording import WHO, packed

from turnkeeper.kernel.errors import ContractChanged, ReplayDivergence
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import (
    DECISIONS,
    Effect,
    StepDecision,
    StepRecord,
    StepStatus,
    check_same_call,
    check_same_contract,
    decide,
    idempotency_key,
)


def known(status: StepStatus, effect: Effect, arguments: object = None) -> StepRecord:
    """Return a step as the record knows it."""
    return StepRecord(issued=0, name=WHO, status=status, arguments=packed(arguments), effect=effect.value)


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
    (StepStatus.RETRYING, Effect.PURE): StepDecision.RUN,
    (StepStatus.RETRYING, Effect.IDEMPOTENT): StepDecision.RUN,
    (StepStatus.RETRYING, Effect.EFFECTFUL): StepDecision.RUN,
    (StepStatus.ABANDONED, Effect.PURE): StepDecision.RUN,
    (StepStatus.ABANDONED, Effect.IDEMPOTENT): StepDecision.RUN,
    (StepStatus.ABANDONED, Effect.EFFECTFUL): StepDecision.RAISE,
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
def test_a_doubt_that_was_given_up_stays_so_however_its_tool_is_declared_later(effect: Effect) -> None:
    """Nobody will find out, so the step raises on every rerun, and is never called again."""

    assert decide(known(StepStatus.ABANDONED, Effect.EFFECTFUL), effect) is StepDecision.RAISE


@pytest.mark.parametrize("effect", Effect)
def test_a_step_recorded_as_effectful_stays_in_doubt_however_its_tool_is_declared_later(effect: Effect) -> None:
    """Calling a tool harmless in a new version does not settle what an old version left open."""

    assert decide(known(StepStatus.INTENDED, Effect.EFFECTFUL), effect) is StepDecision.DOUBT
    assert decide(known(StepStatus.UNKNOWN, Effect.EFFECTFUL), effect) is StepDecision.DOUBT


@pytest.mark.parametrize("recorded", Effect)
def test_a_tool_declared_effectful_now_is_not_repeated_on_the_word_of_an_older_version(recorded: Effect) -> None:
    """The more careful of the two declarations counts."""

    assert decide(known(StepStatus.INTENDED, recorded), Effect.EFFECTFUL) is StepDecision.DOUBT


MAY_HAVE_HAPPENED = [status for status in StepStatus if status is not StepStatus.RETRYING]
"""A call that failed and is to be called again said, by raising, that nothing had happened."""


@pytest.mark.parametrize(("status", "recorded", "declared"), list(product(MAY_HAVE_HAPPENED, Effect, Effect)))
def test_no_effect_is_ever_repeated_by_decision(status: StepStatus, recorded: Effect, declared: Effect) -> None:
    """A step that either version calls effectful, and that may have happened, never simply runs."""
    decision = decide(known(status, recorded), declared)

    if Effect.EFFECTFUL in {recorded, declared}:
        assert decision is not StepDecision.RUN


def test_effects_and_statuses_have_the_values_that_databases_hold() -> None:
    """Effect classes are stored with every intent."""

    assert [effect.value for effect in Effect] == ["pure", "idempotent", "effectful"]
    assert [status.value for status in StepStatus] == [
        "intended",
        "succeeded",
        "failed",
        "retrying",
        "unknown",
        "abandoned",
    ]


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


# ---------------------------------------------------------------- the contract of a record


def under(contract: str) -> StepRecord:
    """Return a step that was recorded under a contract."""
    return msgspec.structs.replace(known(StepStatus.SUCCEEDED, Effect.PURE), contract=contract)


def test_a_record_under_the_same_contract_or_under_none_is_the_same() -> None:
    """What was recorded before there were contracts, or by a plain function, fits any."""

    assert check_same_contract(under("2:c0ffee"), "2:c0ffee", frozenset())
    assert check_same_contract(under(""), "2:c0ffee", frozenset())


def test_a_record_of_an_older_version_that_the_tool_accepts_is_understood_and_not_the_same() -> None:
    """Its arguments may have another form, so they are not compared."""

    assert not check_same_contract(under("1:beef"), "2:c0ffee", {"1"})
    assert not check_same_contract(under(":beef"), "2:c0ffee", {""})


@pytest.mark.parametrize("accepted", [(), ("0", "3"), ("1:beef",), ("",)])
def test_a_record_under_a_contract_that_nobody_accepts_is_refused_with_both_named(accepted: tuple[str, ...]) -> None:
    """Answering from it would hand the handler a value of another form."""

    with pytest.raises(ContractChanged) as changed:
        check_same_contract(under("1:beef"), "2:c0ffee", frozenset(accepted))
    assert (changed.value.step, changed.value.recorded, changed.value.declared) == (WHO, "1:beef", "2:c0ffee")


@pytest.mark.parametrize("declared", ["1:f00d", "2:beef", ":beef", "1:"])
def test_the_version_and_the_types_count_each(declared: str) -> None:
    """The same version with other types, and the same types under another version, are other contracts."""

    with pytest.raises(ContractChanged):
        check_same_contract(under("1:beef"), declared, frozenset())


# ---------------------------------------------------------------- idempotency keys


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
