"""Compare: two turns side by side: what is the same, what only one has, and what differed first."""

import pytest
from telling import Told

from turnkeeper.kernel.errors import StorageFailed, TurnNotFound
from turnkeeper.kernel.lookback.compare import Difference, diff


@pytest.fixture
def told() -> Told:
    return Told()


def compared(told: Told, a: int, b: int) -> Difference:
    """Compare two turns; the other way round it must say the same with the sides changed."""
    before = told.disk.digest()
    found, mirrored = diff(told.rows, a, b), diff(told.rows, b, a)

    assert told.disk.digest() == before
    assert [(one.where, one.what, repr(one.a), repr(one.b)) for one in found.different] == [
        (one.where, one.what, repr(one.b), repr(one.a)) for one in mirrored.different
    ]
    assert (found.only_a, found.only_b, found.same) == (mirrored.only_b, mirrored.only_a, mirrored.same)
    return found


def where(found: Difference) -> list[tuple[str, str]]:
    return [(one.where, one.what) for one in found.different]


def test_a_turn_does_not_differ_from_itself(told: Told) -> None:
    """Nor from one with the same input that did the same, whatever their keys, times and idempotency keys."""
    turns = [told.accept("a", "x"), told.accept("b", "y")]
    for turn in turns:
        told.intend(turn, 0, "refund", cents=5)
        told.answer(turn, 0, "refund")
        told.complete(turn)

    for one, other in ((turns[0], turns[0]), turns):
        found = compared(told, one, other)
        assert (found.different, found.first, found.same) == ([], None, ["refund[#0]"])


def test_the_first_difference_stands_first(told: Told) -> None:
    """In the order in which it came about: the input before a step's arguments, those before the result and the end."""
    turns = [told.accept("a", payload={"order": 1}, version="1"), told.accept("b", payload={"order": 2}, version="2")]
    for turn, cents in zip(turns, (5, 6), strict=True):
        told.intend(turn, 0, "refund", cents=cents)
        told.answer(turn, 0, "refund", f"refunded {cents}")
    told.complete(turns[0])
    told.fail(turns[1])
    found = compared(told, *turns)

    assert where(found) == [
        ("input", "payload"),
        ("version", "of the handler"),
        ("refund[#0]", "arguments"),
        ("refund[#0]", "result"),
        ("outcome", "state"),
        ("deliverable", "value"),
    ]
    assert found.first is not None
    assert (found.first.a, found.first.b) == ({"order": 1}, {"order": 2})
    assert (found.different[2].a, found.different[2].b) == ({"cents": 5}, {"cents": 6})
    assert found.different[-1].a == "done"
    assert found.different[-1].b.message == "no such order"


def test_a_step_that_only_one_has_is_named(told: Told) -> None:
    """On its side, and where it came about among the others."""
    one, other = told.accept("a"), told.accept("b")
    for turn, names in ((one, ("find", "refund")), (other, ("find", "mail", "refund"))):
        for issued, name in enumerate(names):
            told.answer(turn, issued, name, pure=True)
    found = compared(told, one, other)

    assert (found.same, found.only_a, found.only_b) == (["find[#0]", "refund[#0]"], [], ["mail[#0]"])
    assert where(found) == [("mail[#0]", "only in one")]
    assert (found.different[0].a, found.different[0].b) == (None, "succeeded")


def test_steps_stand_where_they_first_came_about(told: Told) -> None:
    """Asked for earlier in one turn than in the other, a step stands at the earlier place."""
    one, other = told.accept("a"), told.accept("b")
    for turn, names in ((one, ("find", "mail", "refund")), (other, ("refund",))):
        for issued, name in enumerate(names):
            told.answer(turn, issued, name, turn, pure=True)

    assert [where for where, _ in where(compared(told, one, other))] == ["find[#0]", "refund[#0]", "mail[#0]"]


def test_effect_status_and_failure_are_compared(told: Told) -> None:
    """Each in a line of its own."""
    one, other = told.accept("a"), told.accept("b")
    told.intend(one, 0, "refund", "effectful")
    told.intend(other, 0, "refund", "idempotent")
    told.answer(one, 0, "refund")
    told.fail_step(other, 0, "refund")
    found = compared(told, one, other)

    assert where(found) == [("refund[#0]", what) for what in ("effect", "status", "result", "failure")]
    assert found.different[-1].b.message == "the provider said no"


def test_values_are_compared_as_the_runtime_compares_them(told: Told) -> None:
    """By what is stored: 1 and True are not one payload, and a payload that is no number is itself."""
    one, other, third = (
        told.accept("a", payload=[1, float("nan")]),
        told.accept("b", payload=[True, float("nan")]),
        told.accept("c", payload=[1, float("nan")]),
    )

    assert where(compared(told, one, other)) == [("input", "payload")]
    assert compared(told, one, third).different == []


def test_a_fork_is_known_as_one(told: Told) -> None:
    """From either side; the steps that it took over are the same."""
    source = told.accept()
    for issued, name in enumerate(("reserve", "refund")):
        told.intend(source, issued, name)
        told.answer(source, issued, name)
    told.fail(source)
    fork = told.accept(key="again", fork=(source, 1))
    told.intend(fork, 1, "refund", cents=3)
    told.answer(fork, 1, "refund")
    told.complete(fork)

    for found in (compared(told, source, fork), compared(told, fork, source)):
        assert (found.forked_from, found.steps_taken) == (source, 1)
        assert found.same == ["reserve[#0]"]
        assert where(found)[0] == ("refund[#0]", "arguments")


def test_a_fork_of_a_step_that_failed_often_does_not_differ_from_its_source(told: Told) -> None:
    """A fork holds a step's last failure and not each: how often it was called is no difference."""
    source = told.accept()
    told.intend(source, 0, "refund")
    told.fail_step(source, 0, "refund", retry_at=told.now)
    told.intend(source, 0, "refund")
    told.fail_step(source, 0, "refund")
    fork = told.accept(key="again", start=False, fork=(source, 1))

    assert compared(told, source, fork).same == ["refund[#0]"]


def test_live_turns_can_be_compared(told: Told) -> None:
    """With what they have done so far."""
    one, other = told.accept("a"), told.accept("b", start=False)

    assert where(compared(told, one, other)) == [("outcome", "state")]


def test_what_is_not_there_and_what_is_damaged_is_said(told: Told) -> None:
    """On either side."""
    one, other = told.accept("a"), told.accept("b")
    told.complete(other)
    with pytest.raises(TurnNotFound):
        diff(told.rows, one, 99)
    with pytest.raises(TurnNotFound):
        diff(told.rows, 99, one)
    found = told.disk.deliverables[other]
    told.disk.deliverables[other] = type(found)(found.turn_id, found.outcome, b"\xc1", found.at)
    for pair in ((one, other), (other, one)):
        with pytest.raises(StorageFailed, match="cannot be read"):
            diff(told.rows, *pair)
