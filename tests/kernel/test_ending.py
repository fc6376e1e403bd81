"""Ending: what a wish that a turn end, and a handoff, are recorded as."""

import msgspec
import pytest

from turnkeeper.kernel.edge import Failure, PolicyResolved
from turnkeeper.kernel.ending import HANDED_OVER, REQUESTS, cancelled, is_request
from turnkeeper.kernel.errors import IllegalTransition
from turnkeeper.kernel.records import Deliverable, TurnReleased
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState

SUSPENDED = TurnRow(7, 1, TurnState.SUSPENDED, 1, 3, 1, 4, due_at=900.0)


def test_a_cancelled_turn_says_who_why_and_what_was_dropped() -> None:
    """Its deliverable is all that a client sees of it."""
    request = PolicyResolved("turn", "", "cancel", by="ada", reason="not needed")

    change = cancelled(SUSPENDED, request, ["model[#3]"], 100.0)

    deliverable, moved, _ = change.records
    assert isinstance(deliverable, Deliverable)
    assert isinstance(moved, TurnReleased)
    assert (change.row.state, change.row.epoch) == (TurnState.CANCELLED, 2)
    failure = msgspec.msgpack.decode(deliverable.body, type=Failure)
    assert (failure.type, failure.recoverable) == ("Cancelled", False)
    assert failure.message == "by ada; not needed; dropped model[#3]"


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_what_has_ended_is_not_cancelled(state: TurnState) -> None:
    """Terminal is final."""
    with pytest.raises(IllegalTransition):
        cancelled(TurnRow(7, 1, state, 1, 3, 1, 4), PolicyResolved("turn", "", "cancel"), (), 100.0)


@pytest.mark.parametrize("policy", ["ask", "fail", "retry", "probe", *REQUESTS])
def test_only_a_wish_that_a_turn_end_is_one(policy: str) -> None:
    """The same kind of edge says what became of a doubt."""
    assert is_request(PolicyResolved("turn", "", policy)) == (policy in REQUESTS)


def test_a_turn_that_was_handed_on_can_end_as_every_child_turn_can() -> None:
    """One way for each end."""
    assert {outcome.value for outcome in HANDED_OVER} == {state.value for state in TERMINAL}  # type: ignore[attr-defined]
