"""History: runs, overlaps and order from numbered edges, and the rules that one turn's rows must keep."""

from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given
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
    Suspended,
    decode_detail,
    encode_detail,
)
from turnkeeper.kernel.history import Interval, check_turn, out_of_order, overlaps, runs
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import ReceiptRow, ReceiptState, payload_digest
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState, fold

RAW = msgspec.Raw(b"\x80")
STEP = StepName("refund", "0")


def at_once(one: Interval, other: Interval) -> bool:
    """Say whether two runs overlap: each started before the other one's end."""
    one, other = sorted((one, other), key=lambda run: run.start)
    return one.end is None or other.start < one.end


# ---------------------------------------------------------------- runs


def test_a_run_is_from_its_lease_to_its_end() -> None:
    """Edges between do not matter, and their numbers are the store's, with other turns' between them."""
    kinds = [(3, "inbound_received"), (4, "lease_acquired"), (7, "step_succeeded"), (9, "turn_completed")]

    assert runs(5, kinds) == [Interval(5, 4, 9)]


def test_each_lease_begins_a_run_and_each_way_out_ends_it() -> None:
    """Requeued, suspended and resumed turns have several runs; only the last may be open."""
    kinds = [
        *((1, "inbound_received"), (2, "lease_acquired"), (4, "turn_requeued"), (6, "lease_acquired")),
        *((8, "turn_suspended"), (9, "duplicate_dropped"), (10, "turn_resumed")),
    ]

    assert runs(5, kinds) == [Interval(5, 2, 4), Interval(5, 6, 8), Interval(5, 10, None)]


def test_every_terminal_kind_ends_a_run() -> None:
    """Completed, failed, cancelled."""
    for kind in ("turn_completed", "turn_failed", "turn_cancelled"):
        assert runs(1, [(1, "lease_acquired"), (2, kind)]) == [Interval(1, 1, 2)]


def test_a_turn_that_never_ran_has_no_runs() -> None:
    """Waiting, or ended in its queue."""
    assert runs(5, []) == []
    assert runs(5, [(1, "inbound_received"), (2, "turn_cancelled")]) == []


def test_unknown_kinds_do_not_disturb_the_runs() -> None:
    """Kinds come as stored; one that nobody knows is a finding elsewhere."""
    assert runs(5, [(1, "lease_acquired"), (2, "teleported"), (3, "turn_failed")]) == [Interval(5, 1, 3)]


# ---------------------------------------------------------------- overlaps


def test_runs_one_after_another_do_not_overlap() -> None:
    """In whatever order they are given; one may begin with the very next edge."""
    assert overlaps([Interval(2, 6, 9), Interval(1, 2, 5), Interval(3, 10, None)]) == []


def test_a_run_within_another_overlaps() -> None:
    """The pair is named, the earlier one first."""
    outer, inner = Interval(1, 2, 20), Interval(2, 5, 6)

    assert overlaps([inner, outer]) == [(outer, inner)]


def test_a_run_that_never_ended_overlaps_whatever_came_after() -> None:
    """An open run is still running."""
    still, later, last = Interval(1, 2, None), Interval(2, 5, 6), Interval(3, 8, None)

    assert overlaps([still, later, last]) == [(still, later), (still, last)]


def test_a_long_run_overlaps_others_behind_a_short_one() -> None:
    """The run before is not the one to compare with: the one that reaches furthest is."""
    long, short, late = Interval(1, 1, 100), Interval(2, 2, 3), Interval(3, 50, 60)

    assert overlaps([long, short, late]) == [(long, short), (long, late)]


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    """Draw runs whose ends are numbers of different edges."""
    count = draw(st.integers(0, 6))
    numbers = draw(st.permutations(range(2 * count)))
    pairs = [sorted(numbers[2 * place : 2 * place + 2]) for place in range(count)]
    return [
        Interval(draw(st.integers(1, 4)), start, None if draw(st.booleans()) and draw(st.booleans()) else end)
        for start, end in pairs
    ]


@given(intervals())
def test_overlaps_are_found_if_and_only_if_there_are_any(drawn: list[Interval]) -> None:
    """Against every pair compared with every other."""
    found = overlaps(drawn)

    assert all(at_once(one, other) for one, other in found)
    assert bool(found) == any(at_once(one, other) for one, other in combinations(drawn, 2))


@given(intervals())
def test_overlaps_do_not_depend_on_the_order_given(drawn: list[Interval]) -> None:
    """The store's order is in the numbers."""
    assert overlaps(drawn) == overlaps(reversed(drawn))


# ---------------------------------------------------------------- order


def test_turns_that_start_in_the_order_of_acceptance_are_in_order() -> None:
    """By the first run of each: a retry may come after a later turn's start."""
    assert (
        out_of_order([1, 2, 3], [Interval(1, 1, 2), Interval(2, 5, 6), Interval(1, 7, 8), Interval(3, 9, None)]) == []
    )


def test_a_turn_that_started_before_an_earlier_one_is_named() -> None:
    """The later one first: it is the one that should have waited."""
    assert out_of_order([1, 2], [Interval(2, 1, 2), Interval(1, 5, 6)]) == [(2, 1)]


def test_a_turn_that_overtook_one_still_waiting_is_named() -> None:
    """The earlier one is live and has not run at all."""
    assert out_of_order([1, 2], [Interval(2, 1, 2)]) == [(2, 1)]


def test_turns_that_wait_behind_the_last_started_are_in_order() -> None:
    """Nobody has overtaken anybody."""
    assert out_of_order([1, 2, 3], [Interval(1, 1, 2)]) == []
    assert out_of_order([], []) == []


@given(st.lists(st.integers(0, 50), unique=True, max_size=7))
def test_turns_are_out_of_order_if_and_only_if_their_starts_are_not_sorted(starts: list[int]) -> None:
    """Whatever the starts are."""
    turns = list(range(len(starts)))
    found = out_of_order(turns, [Interval(turn, start, None) for turn, start in zip(turns, starts, strict=True)])

    assert bool(found) == (starts != sorted(starts))
    assert all(later > earlier and starts[later] < starts[earlier] for later, earlier in found)


# ---------------------------------------------------------------- one turn


def edges(*happened: tuple[EdgeKind, Detail | None]) -> list[Edge]:
    """Return a turn's edges after its inbound and its lease, each with the epoch it leads to."""
    begun: list[tuple[EdgeKind, Detail | None]] = [
        (EdgeKind.INBOUND_RECEIVED, Inbound("k", RAW)),
        (EdgeKind.LEASE_ACQUIRED, LeaseGranted(1, 9.0)),
    ]
    made: list[Edge] = []
    for ordinal, (kind, detail) in enumerate([*begun, *happened]):
        edge = Edge(1, ordinal, kind, 0, 1.0, encode_detail(detail))
        epoch = fold(1, [*made, edge]).epoch
        made.append(msgspec.structs.replace(edge, epoch=epoch))
    return made


def intent(effect: str = "effectful", step: StepName = STEP) -> tuple[EdgeKind, Detail]:
    return EdgeKind.STEP_INTENDED, StepIntent(0, *step, effect, RAW, "key")


def doubt(step: StepName = STEP) -> tuple[EdgeKind, Detail]:
    return EdgeKind.STEP_UNKNOWN, StepDoubt(0, *step, "cut off")


RECOVERED = (
    (EdgeKind.TURN_REQUEUED, Requeued("recovery")),
    (EdgeKind.LEASE_ACQUIRED, LeaseGranted(2, 9.0)),
)
RESULT = (EdgeKind.STEP_SUCCEEDED, StepResult(0, *STEP, RAW))
COMPLETED = (EdgeKind.TURN_COMPLETED, None)


def rules(
    made: list[Edge], row: TurnRow | None = None, deliverable: Deliverable | None = None, duplicates: int = 0
) -> list[str]:
    """Return the rules that a turn breaks; its row and deliverable are what its edges say, unless given."""
    row = row or fold(1, made)
    if deliverable is None and row.state in TERMINAL:
        failed = msgspec.msgpack.encode(Failure("E", "e"))
        deliverable = Deliverable(1, row.state, b"\xc0" if row.state is TurnState.COMPLETED else failed, 2.0)
    return [found.rule for found in check_turn(row, made, deliverable, receipt_of(made, duplicates))]


def receipt_of(made: list[Edge], duplicates: int = 0) -> ReceiptRow:
    inbound = decode_detail(made[0])
    assert isinstance(inbound, Inbound)
    seen = [edge.at for edge in made if edge.kind in {EdgeKind.INBOUND_RECEIVED, EdgeKind.DUPLICATE_DROPPED}]
    digest, state = payload_digest(bytes(inbound.payload)), ReceiptState.ACCEPTED
    return ReceiptRow(1, 1, inbound.key, 1, digest, state, duplicates, seen[0], seen[-1], 1e9)


def test_a_turn_whose_rows_agree_breaks_no_rule() -> None:
    """Live and ended, by every way out."""
    dropped = (EdgeKind.DUPLICATE_DROPPED, None)
    for last in (COMPLETED, (EdgeKind.TURN_FAILED, None), (EdgeKind.TURN_CANCELLED, None)):
        assert rules(edges(intent(), RESULT, last)) == []
        assert rules(edges(last, dropped, dropped), duplicates=2) == []
    assert rules(edges(intent())) == []
    assert rules(edges((EdgeKind.TURN_SUSPENDED, Suspended("approval", 9.0, STEP)))) == []


def test_an_effect_may_be_tried_again_once_somebody_has_looked() -> None:
    """After a doubt, an answer from outside, or a failure that is to be forgotten; never straight away."""
    answered = (EdgeKind.TURN_RESUMED, Resumed(1, 9.0, STEP, happened=False))
    suspended = (EdgeKind.TURN_SUSPENDED, Suspended("approval", 9.0, STEP))
    forgotten = (EdgeKind.TURN_REQUEUED, Requeued("retry", 2.0, Failure("E", "e"), [STEP]))
    leased = (EdgeKind.LEASE_ACQUIRED, LeaseGranted(1, 9.0))

    assert rules(edges(intent(), *RECOVERED, doubt(), intent())) == []
    assert rules(edges(intent(), suspended, answered, intent())) == []
    assert rules(edges(intent(), forgotten, leased, intent())) == []
    assert rules(edges(intent(), *RECOVERED, intent())) == ["effects at most once"]
    assert rules(edges(intent(), RESULT, intent())) == ["effects at most once"]
    assert rules(edges(intent(), doubt(), intent(), *RECOVERED, intent())) == ["effects at most once"]


def test_an_effect_whose_call_said_that_nothing_had_happened_may_be_called_again() -> None:
    """By raising, under a policy for retries; the last failure is the step's one outcome."""
    failed = StepFailure(0, *STEP, Failure("E", "e"))
    retried = (EdgeKind.STEP_FAILED, msgspec.structs.replace(failed, retry_at=9.0))

    assert rules(edges(intent(), retried, intent(), retried, intent(), RESULT)) == []
    assert rules(edges(intent(), retried, intent(), (EdgeKind.STEP_FAILED, failed))) == []
    assert rules(edges(intent(), retried, intent(), intent())) == ["effects at most once"]
    assert rules(edges(intent(), (EdgeKind.STEP_FAILED, failed), intent())) == ["effects at most once"]


def test_an_effect_that_was_given_up_is_never_called_again() -> None:
    """It may have happened, and nobody will find out."""
    suspended = (EdgeKind.TURN_SUSPENDED, Suspended("approval", 9.0, STEP))
    given_up = (EdgeKind.TURN_RESUMED, Resumed(1, 9.0, STEP, given_up=True))

    assert rules(edges(intent(), doubt(), suspended, given_up)) == []
    assert rules(edges(intent(), doubt(), suspended, given_up, intent())) == ["effects at most once"]


def test_looking_into_one_effect_settles_no_other() -> None:
    """A step is its name and its call key together."""
    other, elsewhere = StepName("refund", "1"), StepName("gift", "0")

    for looked in (other, elsewhere):
        assert rules(edges(intent(), *RECOVERED, doubt(looked), intent())) == ["effects at most once"]
        assert rules(edges(intent(), intent(step=looked))) == []


def test_idempotent_and_pure_steps_may_be_intended_again() -> None:
    """That is what the word means."""
    for effect in ("idempotent", "pure"):
        assert rules(edges(intent(effect), *RECOVERED, intent(effect))) == []


def test_each_field_of_the_row_is_compared() -> None:
    """Whatever is stored of a turn must follow from its edges."""
    made = edges((EdgeKind.TURN_SUSPENDED, Suspended("approval", 9.0, STEP)))
    row = fold(1, made)
    for name in ("epoch", "version", "attempt", "boot_id", "due_at"):
        changed = msgspec.structs.replace(row, **{name: 77})

        assert rules(made, row=changed) == ["fold of edges = row"], name


def test_a_violation_says_rule_place_and_both_values() -> None:
    """Somebody has to act on it."""
    made = edges()
    (found,) = check_turn(msgspec.structs.replace(fold(1, made), attempt=3), made, None, receipt_of(made))

    assert found.rule == "fold of edges = row"
    assert found.where == "turn 1"
    assert found.what == "attempt is 3, its edges say 1"


def test_several_faults_are_several_violations() -> None:
    """One does not hide another."""
    made = edges(intent(), *RECOVERED, intent(), COMPLETED)
    made[2] = msgspec.structs.replace(made[2], epoch=9)
    row = msgspec.structs.replace(fold(1, made), attempt=7)
    deliverable = Deliverable(1, "failed", b"\xc0", 1.0)

    assert rules(made, row, deliverable, duplicates=1) == [
        "epochs",
        "fold of edges = row",
        "effects at most once",
        "duplicates counted",
        "terminal = one deliverable",
        "readable deliverable",
    ]


@pytest.mark.parametrize(
    "changed", [{"key": "other"}, {"digest": b""}, {"first_seen": 77.0}, {"last_seen": 77.0}], ids=str
)
def test_a_receipt_must_be_of_its_inbound(changed: dict[str, Any]) -> None:
    """Its key, its digest and when it was seen are those of what came in, first and last."""
    made = edges((EdgeKind.DUPLICATE_DROPPED, None))
    told = msgspec.structs.replace(receipt_of(made, 1), **changed)

    assert [found.rule for found in check_turn(fold(1, made), made, None, told)] == ["receipt = inbound"]


@pytest.mark.parametrize(("recorded", "broken"), [(None, []), (1e9, []), (900.0, ["receipt = inbound"])])
def test_a_receipt_answers_as_long_as_its_inbound_says(recorded: float | None, broken: list[str]) -> None:
    """An inbound from before this was recorded says nothing, and is contradicted by nothing."""
    first, *rest = edges()
    inbound = decode_detail(first)
    assert isinstance(inbound, Inbound)
    said = encode_detail(msgspec.structs.replace(inbound, expires_at=recorded))
    made = [msgspec.structs.replace(first, detail=said), *rest]

    assert [found.rule for found in check_turn(fold(1, made), made, None, receipt_of(made))] == broken


def test_a_step_ends_once_unless_it_is_to_be_forgotten() -> None:
    """Two outcomes of one step are one too many."""
    forgotten = (EdgeKind.TURN_REQUEUED, Requeued("retry", 2.0, Failure("E", "e"), [STEP]))
    leased = (EdgeKind.LEASE_ACQUIRED, LeaseGranted(1, 9.0))

    assert rules(edges(intent(), RESULT, RESULT)) == ["one outcome a step"]
    assert rules(edges(intent(), RESULT, forgotten, leased, intent(), RESULT)) == []
