"""Turns that wait: what an answer is recorded as, what it is where nobody gives one, and how long a turn has run."""

import msgspec
import pytest

from turnkeeper.kernel.edge import (
    Answer,
    Edge,
    EdgeKind,
    LeaseGranted,
    PassedBack,
    Requeued,
    Resumed,
    StepResult,
    Suspended,
    Wait,
    encode_detail,
)
from turnkeeper.kernel.lifecycle import answered
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.records import EdgeAppended
from turnkeeper.kernel.step import StepRecord, StepStatus
from turnkeeper.kernel.turn import TurnRow, TurnState, ran_s
from turnkeeper.kernel.wait import EXPIRED, Outcome, WaitKind

SUSPENDED = TurnRow(7, 1, TurnState.SUSPENDED, 1, 3, 1, 4, due_at=900.0)


def step(wait: Wait) -> StepRecord:
    name = StepName("turn.wait", "#0")
    return StepRecord(issued=2, name=name, status=StepStatus.INTENDED, arguments=b"\x80", wait=wait)


def said(record: object, kind: type) -> object:
    assert isinstance(record, EdgeAppended)
    return msgspec.msgpack.decode(record.detail, type=kind)


def test_an_answer_is_the_result_of_its_step_and_leaves_the_turn_where_it_is() -> None:
    """So it can come whenever it comes: while the turn runs, stands or queues."""
    answer = Answer(Outcome.ELAPSED, 100.0)

    change = answered(SUSPENDED, step(Wait("timer", 100.0)), answer, 100.0)

    assert (change.row.state, change.row.version, change.row.edges) == (TurnState.SUSPENDED, 3, 5)
    (edge,) = change.records
    result = said(edge, StepResult)
    assert isinstance(result, StepResult)
    assert (result.issued, result.name, bytes(result.result)) == (2, "turn.wait", encode_detail(answer))


@pytest.mark.parametrize(
    ("wait", "kind", "by"),
    [
        (Wait("handoff", 9.0, child_id=8, to=["", "s", "billing"]), EdgeKind.HANDOFF_COMPLETED, "billing"),
        (Wait("escalation", 9.0, "7.2.x"), EdgeKind.ESCALATION_RESOLVED, "ada"),
    ],
)
def test_what_was_in_other_hands_is_said_to_be_back(wait: Wait, kind: EdgeKind, by: str) -> None:
    """By the agent that took it, or by the person who answered."""
    change = answered(SUSPENDED, step(wait), Answer("completed", 100.0, "ada"), 100.0)

    _, back = change.records
    assert isinstance(back, EdgeAppended)
    assert back.kind == kind
    assert said(back, PassedBack) == PassedBack(by, "completed")


def test_every_wait_but_a_doubt_comes_to_something_when_its_time_is_over() -> None:
    """A doubt's turn fails: there is no answer to go on with."""
    assert EXPIRED.keys() == set(WaitKind) - {WaitKind.DOUBT}
    assert {kind for kind, outcome in EXPIRED.items() if outcome is Outcome.ELAPSED} == {WaitKind.TIMER}


def edges(*happened: tuple[EdgeKind, float]) -> list[Edge]:
    details = {
        EdgeKind.LEASE_ACQUIRED: LeaseGranted(1, 9.0),
        EdgeKind.TURN_SUSPENDED: Suspended("timer", 9.0),
        EdgeKind.TURN_RESUMED: Resumed(1, 9.0),
        EdgeKind.TURN_REQUEUED: Requeued("retry"),
    }
    return [
        Edge(7, number, kind, 1, at, encode_detail(details.get(kind))) for number, (kind, at) in enumerate(happened)
    ]


GRANTED, SUSPENDED_AT, RESUMED, REQUEUED = (
    EdgeKind.LEASE_ACQUIRED,
    EdgeKind.TURN_SUSPENDED,
    EdgeKind.TURN_RESUMED,
    EdgeKind.TURN_REQUEUED,
)


@pytest.mark.parametrize(
    ("happened", "seconds"),
    [
        ([], 0.0),
        ([(GRANTED, 10.0)], 0.0),
        ([(GRANTED, 10.0), (SUSPENDED_AT, 13.0)], 3.0),
        ([(GRANTED, 10.0), (SUSPENDED_AT, 13.0), (RESUMED, 1_000.0), (SUSPENDED_AT, 1_004.0)], 7.0),
        ([(GRANTED, 10.0), (SUSPENDED_AT, 13.0), (RESUMED, 20.0), (REQUEUED, 25.0)], 0.0),
        ([(GRANTED, 10.0), (SUSPENDED_AT, 9.0)], 0.0),
    ],
)
def test_runs_count_and_waiting_does_not(happened: list[tuple[EdgeKind, float]], seconds: float) -> None:
    """Of the present attempt; a clock that was put back takes nothing away."""
    assert ran_s(edges(*happened)) == seconds


def test_once_somebody_has_settled_a_doubt_its_turn_has_its_time_anew() -> None:
    """The doubt may have been asked about because that time was over."""
    happened = edges((GRANTED, 10.0), (SUSPENDED_AT, 13.0), (RESUMED, 20.0), (SUSPENDED_AT, 21.0))
    settled = encode_detail(Resumed(1, 9.0, StepName("pay", "#0")))
    happened[2] = msgspec.structs.replace(happened[2], detail=settled)

    assert ran_s(happened) == 1.0
