"""The turn machine: its table, its fold, and what the lifecycle's decisions write."""

import contextlib
import re
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import (
    TRANSITION_KINDS,
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    Requeued,
    Resumed,
    Suspended,
    chained,
    decode_detail,
    encode_detail,
    encode_failure,
    sealed,
)
from turnkeeper.kernel.errors import IllegalTransition
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Change
from turnkeeper.kernel.records import (
    Deliverable,
    EdgeAppended,
    EdgeAppendedLate,
    ReceiptAccepted,
    ReceiptRetired,
    Record,
    TurnAcquired,
    TurnInserted,
    TurnReleased,
)
from turnkeeper.kernel.turn import (
    EPOCH_RAISING,
    TERMINAL,
    TRANSITIONS,
    TurnRow,
    TurnState,
    advance,
    begin,
    diagram,
    evolve,
    fold,
)

LIVE = (TurnState.QUEUED, TurnState.RUNNING, TurnState.SUSPENDED)
ENDED = (TurnState.COMPLETED, TurnState.FAILED, TurnState.CANCELLED)

# The contract's table, written down a second time: kind, from, to, what it adds to the epoch.
CONTRACT: dict[str, tuple[tuple[TurnState | None, ...], TurnState, int]] = {
    "inbound_received": ((None,), TurnState.QUEUED, 0),
    "lease_acquired": ((TurnState.QUEUED,), TurnState.RUNNING, 1),
    "turn_suspended": ((TurnState.RUNNING,), TurnState.SUSPENDED, 0),
    "turn_resumed": ((TurnState.SUSPENDED,), TurnState.RUNNING, 1),
    "turn_requeued": ((TurnState.RUNNING,), TurnState.QUEUED, 1),
    "turn_completed": ((TurnState.RUNNING,), TurnState.COMPLETED, 0),
    "turn_failed": (LIVE, TurnState.FAILED, 0),
    "turn_cancelled": (LIVE, TurnState.CANCELLED, 1),
}
OBSERVED_LIVE = {
    "step_intended",
    "step_succeeded",
    "step_failed",
    "step_unknown",
    "handoff_initiated",
    "handoff_completed",
    "escalation_started",
    "escalation_resolved",
    "steered",
    "policy_resolved",
    "model_attempt",
}
PAIRS = list(product([None, *TurnState], EdgeKind))


def expected(state: TurnState | None, kind: EdgeKind) -> TurnState | None:
    """Return what the contract says about an edge in a state; None where it is illegal."""
    if kind.value in CONTRACT:
        before, after, _ = CONTRACT[kind.value]
        return after if state in before else None
    if kind.value in OBSERVED_LIVE:
        return state if state in LIVE else None
    return state  # duplicate_dropped: on any turn, but there must be one


def row_in(state: TurnState, **facts: Any) -> TurnRow:
    """Return a row that stands in a state, with nothing else remarkable about it."""
    boot_id = 3 if state is TurnState.RUNNING else None
    due_at = 90.0 if state is TurnState.SUSPENDED else None
    row = TurnRow(7, 2, state, epoch=4, version=5, attempt=2, edges=9, boot_id=boot_id, due_at=due_at)
    return msgspec.structs.replace(row, **facts)


def detail_of(kind: EdgeKind) -> Detail | None:
    details: dict[EdgeKind, Detail] = {
        EdgeKind.LEASE_ACQUIRED: LeaseGranted(8, 145.0),
        EdgeKind.TURN_RESUMED: Resumed(8, 145.0),
        EdgeKind.TURN_REQUEUED: Requeued("retry", 130.0),
        EdgeKind.TURN_SUSPENDED: Suspended("approval", 900.0),
    }
    return details.get(kind)


# ---------------------------------------------------------------- the table


def test_every_kind_of_edge_is_in_the_contract_and_no_other() -> None:
    """Eight transitions, eleven observations on live turns, one on any turn."""

    assert {kind.value for kind in EdgeKind} == CONTRACT.keys() | OBSERVED_LIVE | {"duplicate_dropped"}


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_every_pair_of_state_and_kind_does_what_the_contract_says(state: TurnState | None, kind: EdgeKind) -> None:
    """There is no wildcard: each pair leads where the contract says, or is refused with both named."""
    after = expected(state, kind)

    if after is not None:
        assert advance(state, kind) is after
        return
    with pytest.raises(IllegalTransition) as refused:
        advance(state, kind)
    assert (refused.value.state, refused.value.event) == (state, kind)


def test_the_table_has_the_rows_of_the_contract_and_no_other() -> None:
    """One row for each (from, transition) of the contract."""
    rows = {(state, kind): after for kind, (states, after, _) in CONTRACT.items() for state in states}

    assert dict(TRANSITIONS) == rows


def test_the_table_cannot_be_changed() -> None:
    """Nobody adds a row at run time."""

    with pytest.raises(TypeError):
        TRANSITIONS[None, EdgeKind.TURN_FAILED] = TurnState.FAILED  # type: ignore[index]


def test_terminal_states_are_those_that_nothing_leads_out_of() -> None:
    """Terminal is derived from the table: no row starts there."""

    assert set(ENDED) == TERMINAL
    assert set(LIVE).isdisjoint(TERMINAL)
    assert not [kind for (state, kind) in TRANSITIONS if state in TERMINAL]


def test_every_state_can_be_reached_and_every_live_one_can_end() -> None:
    """No state is dead code, and no live turn is a dead end."""
    reached = set(TRANSITIONS.values())
    ways_out = {state: {after for (before, _), after in TRANSITIONS.items() if before is state} for state in LIVE}

    assert reached == set(TurnState)
    assert all(ways & TERMINAL for ways in ways_out.values())


@pytest.mark.parametrize("state", [None, *TurnState])
def test_only_a_dropped_duplicate_can_happen_to_a_terminal_turn(state: TurnState | None) -> None:
    """A terminal turn takes one kind of edge, a turn that is not there one other, a live one all observations."""
    legal = set()
    for kind in EdgeKind:
        with contextlib.suppress(IllegalTransition):
            advance(state, kind)
            legal.add(kind)

    if state in ENDED:
        assert legal == {EdgeKind.DUPLICATE_DROPPED}
    elif state is None:
        assert legal == {EdgeKind.INBOUND_RECEIVED}
    else:
        assert {kind.value for kind in legal} > OBSERVED_LIVE


# ---------------------------------------------------------------- one edge more


@pytest.mark.parametrize("kind", EdgeKind)
def test_the_epoch_rises_with_every_grant_of_the_right_to_run_and_every_taking_away(kind: EdgeKind) -> None:
    """Lease, resume, requeue and cancel raise the epoch; nothing else does."""
    raised = CONTRACT[kind.value][2] if kind.value in CONTRACT else 0

    assert (kind in EPOCH_RAISING) == bool(raised)
    for state in TurnState:
        if expected(state, kind) is not None:
            row = row_in(state)
            assert evolve(row, kind, detail_of(kind)).epoch == row.epoch + raised


@pytest.mark.parametrize(("state", "kind"), [pair for pair in PAIRS if pair[0] is not None and expected(*pair)])
def test_an_edge_moves_version_attempt_and_ordinal_as_its_kind_says(state: TurnState, kind: EdgeKind) -> None:
    """Every edge takes an ordinal; only transitions make a version; only a requeue makes an attempt."""
    row = row_in(state)
    after = evolve(row, kind, detail_of(kind))

    assert after.edges == row.edges + 1
    assert after.version == row.version + (kind.value in CONTRACT)
    assert after.attempt == row.attempt + (kind is EdgeKind.TURN_REQUEUED)
    assert (after.turn_id, after.actor_id) == (row.turn_id, row.actor_id)


@pytest.mark.parametrize(("state", "kind"), [pair for pair in PAIRS if pair[0] is not None and expected(*pair)])
def test_a_row_has_an_owner_while_it_runs_and_at_no_other_time(state: TurnState, kind: EdgeKind) -> None:
    """The lease's owner stands in the row exactly while running; the new lease counts, not the old."""
    after = evolve(row_in(state), kind, detail_of(kind))

    assert (after.boot_id is not None) == (after.state is TurnState.RUNNING)
    if kind in {EdgeKind.LEASE_ACQUIRED, EdgeKind.TURN_RESUMED}:
        assert after.boot_id == 8


@pytest.mark.parametrize(
    ("state", "kind", "due_at"),
    [
        (TurnState.RUNNING, EdgeKind.TURN_REQUEUED, 130.0),
        (TurnState.RUNNING, EdgeKind.TURN_SUSPENDED, 900.0),
        (TurnState.SUSPENDED, EdgeKind.TURN_RESUMED, None),
        (TurnState.SUSPENDED, EdgeKind.TURN_FAILED, None),
        (TurnState.SUSPENDED, EdgeKind.DUPLICATE_DROPPED, 90.0),
        (TurnState.SUSPENDED, EdgeKind.STEERED, 90.0),
        (TurnState.QUEUED, EdgeKind.LEASE_ACQUIRED, None),
    ],
)
def test_a_deadline_moves_only_with_the_state_it_belongs_to(
    state: TurnState, kind: EdgeKind, due_at: float | None
) -> None:
    """A requeue and a suspension set it, leaving them clears it, and a nudge never moves it."""

    assert evolve(row_in(state), kind, detail_of(kind)).due_at == due_at


@pytest.mark.parametrize(("state", "kind"), [pair for pair in PAIRS if pair[0] is not None and not expected(*pair)])
def test_an_illegal_edge_makes_no_row(state: TurnState, kind: EdgeKind) -> None:
    """What the table refuses cannot be folded either."""

    with pytest.raises(IllegalTransition):
        evolve(row_in(state), kind, detail_of(kind))


@pytest.mark.parametrize("state", TurnState)
def test_a_row_points_to_its_deliverable_if_and_only_if_it_is_terminal(state: TurnState) -> None:
    """The deliverable's id is the turn's own."""

    assert row_in(state).deliverable_id == (7 if state in ENDED else None)


# ---------------------------------------------------------------- the fold


def edge(ordinal: int, kind: EdgeKind, detail: Detail | None = None) -> Edge:
    return Edge(7, ordinal, kind, 0, 100.0, encode_detail(detail))


FIRST = edge(0, EdgeKind.INBOUND_RECEIVED, Inbound("k", msgspec.Raw(b"\x01")))


def test_the_first_edge_alone_is_a_queued_turn() -> None:
    """A turn begins with its inbound, at epoch 0, version 1, attempt 1."""

    assert fold(2, [FIRST]) == begin(7, 2) == TurnRow(7, 2, TurnState.QUEUED, 0, 1, 1, 1)


def test_a_whole_life_folds_to_its_row() -> None:
    """Queued, running, requeued with a backoff, running, suspended, resumed, cancelled."""
    kinds = [
        EdgeKind.LEASE_ACQUIRED,
        EdgeKind.TURN_REQUEUED,
        EdgeKind.LEASE_ACQUIRED,
        EdgeKind.MODEL_ATTEMPT,
        EdgeKind.TURN_SUSPENDED,
        EdgeKind.TURN_RESUMED,
        EdgeKind.TURN_CANCELLED,
    ]
    edges = [FIRST, *(edge(ordinal, kind, detail_of(kind)) for ordinal, kind in enumerate(kinds, 1))]

    assert fold(2, edges) == TurnRow(7, 2, TurnState.CANCELLED, epoch=5, version=7, attempt=2, edges=8)


@pytest.mark.parametrize(
    "edges",
    [
        [],
        [edge(0, EdgeKind.LEASE_ACQUIRED, LeaseGranted(1, 2.0))],
        [edge(0, EdgeKind.DUPLICATE_DROPPED)],
        [FIRST, FIRST],
        [FIRST, edge(1, EdgeKind.TURN_COMPLETED)],
        [FIRST, edge(1, EdgeKind.TURN_FAILED), edge(2, EdgeKind.TURN_CANCELLED)],
    ],
    ids=["nothing", "no inbound", "a duplicate of nothing", "two inbounds", "completed unstarted", "two ends"],
)
def test_edges_that_are_no_life_of_a_turn_are_refused(edges: list[Edge]) -> None:
    """A damaged history is an error, never a guess."""

    with pytest.raises(IllegalTransition):
        fold(2, edges)


# ---------------------------------------------------------------- the diagram


def test_the_diagram_shows_every_row_of_the_table_and_every_end() -> None:
    """One arrow a row, and one to the end for each terminal state."""
    lines = diagram().splitlines()
    arrows = {
        f"    {before or '[*]'} --> {after}: {kind}{' (epoch + 1)' if raised else ''}"
        for kind, (states, after, raised) in CONTRACT.items()
        for before in states
    }

    assert lines[0] == "stateDiagram-v2"
    assert set(lines[1:]) == arrows | {f"    {state} --> [*]" for state in ENDED}
    assert len(lines) == 1 + len(TRANSITIONS) + len(ENDED)


def test_the_diagram_in_the_docs_is_the_one_printed_from_the_table() -> None:
    """docs/lifecycle.md holds the output of `diagram()`, so the page cannot fall behind the code."""
    page = Path(__file__).parents[2] / "docs" / "lifecycle.md"
    blocks = re.findall(r"^```mermaid\n(.*?)\n```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    assert diagram() in blocks


# ---------------------------------------------------------------- decisions, on random lives


LEASE = Lease(8, 145.0)
DECISIONS: dict[str, Any] = {
    "acquire": lambda row, at: lifecycle.acquire(row, LEASE, at),
    "retry": lambda row, at: lifecycle.requeue(row, Requeued("retry", at + 30.0), at),
    "take back": lambda row, at: lifecycle.requeue(row, Requeued("recovery"), at),
    "suspend": lambda row, at: lifecycle.suspend(row, Suspended("approval", at + 900.0), at),
    "resume": lambda row, at: lifecycle.resume(row, LEASE, Resumed(LEASE.boot_id, LEASE.until), at),
    "complete": lambda row, at: lifecycle.end(row, EdgeKind.TURN_COMPLETED, b"\xc0", at),
    "fail": lambda row, at: lifecycle.end(row, EdgeKind.TURN_FAILED, b"\xc0", at),
    "cancel": lambda row, at: lifecycle.end(row, EdgeKind.TURN_CANCELLED, b"\xc0", at),
    "observe": lambda row, at: lifecycle.observe(row, EdgeKind.MODEL_ATTEMPT, None, at),
    "drop": lambda row, at: Change(*lifecycle.drop_duplicate(row, row.turn_id, row.turn_id, at)),  # type: ignore[arg-type]
    "drop late": lambda row, at: Change(
        evolve(
            row,
            EdgeKind.DUPLICATE_DROPPED,
            None,
            chained(row.digest, row.turn_id, EdgeKind.DUPLICATE_DROPPED, at, b""),
        ),
        lifecycle.drop_duplicate(None, row.turn_id, row.turn_id, at)[1],
    ),
}
LEGAL: dict[TurnState, tuple[str, ...]] = {
    TurnState.QUEUED: ("acquire", "observe", "drop", "drop late", "fail", "cancel"),
    TurnState.RUNNING: ("observe", "retry", "suspend", "take back", "drop", "drop late", "complete", "fail", "cancel"),
    TurnState.SUSPENDED: ("resume", "observe", "drop", "drop late", "fail", "cancel"),
    TurnState.COMPLETED: ("drop", "drop late"),
    TurnState.FAILED: ("drop", "drop late"),
    TurnState.CANCELLED: ("drop", "drop late"),
}


ENDINGS = {"complete", "fail", "cancel"}
"""Drawn one time in ten, so that lives are long."""


class Table:
    """What a store does with the records: guarded rows, and edges that are only ever appended."""

    def __init__(self) -> None:
        self.row: TurnRow | None = None
        self.edges: list[Edge] = []
        self.deliverables: list[Deliverable] = []
        self.receipts: list[Record] = []
        self.sealed: bytes | None = None

    def write(self, records: list[Record]) -> None:
        """Apply one commit point: the moves first, the edges after them, as a batch does."""
        for record in sorted(records, key=lambda record: isinstance(record, EdgeAppended | EdgeAppendedLate)):
            self._write(record)

    def _write(self, record: Record) -> None:
        match record:
            case TurnInserted():
                self.row = TurnRow(*msgspec.structs.astuple(record)[:6], edges=0, boot_id=record.boot_id)
            case TurnReleased() | TurnAcquired():
                assert self.row is not None
                self.sealed = getattr(record, "digest", None)
                assert (record.epoch_before, record.version_before) == (self.row.epoch, self.row.version)
                names = {"state", "epoch", "version", "attempt", "boot_id", "due_at"} & set(record.__struct_fields__)
                moved = {name: getattr(record, name) for name in names}
                moved.setdefault("state", "running")
                moved.setdefault("boot_id", None)
                moved.setdefault("due_at", None)
                self.row = msgspec.structs.replace(self.row, **moved)
            case EdgeAppended():
                assert self.row is not None
                assert record.fence == self.row.epoch, "fenced by another epoch than its own commit point leads to"
                self._append(record, record.ordinal, record.epoch, record.digest)
            case EdgeAppendedLate():
                assert self.row is not None
                digest = chained(self.row.digest, self.row.turn_id, record.kind, record.at, record.detail)
                self._append(record, len(self.edges), self.row.epoch, digest)
            case Deliverable():
                self.deliverables.append(record)
            case _:
                self.receipts.append(record)

    def _append(self, record: EdgeAppended | EdgeAppendedLate, ordinal: int, epoch: int, digest: bytes) -> None:
        assert self.row is not None
        kind = EdgeKind(record.kind)
        self.edges.append(Edge(self.row.turn_id, ordinal, kind, epoch, record.at, record.detail, digest))
        self.row = msgspec.structs.replace(self.row, edges=self.row.edges + 1, digest=digest)


def live(accepted_running: bool, choices: list[int]) -> tuple[Table, TurnRow]:
    """Lead a turn through a life of legal decisions; return what is stored, and the row they produced."""
    table = Table()
    arrival = Arrival(7, 2, "k", b"\x01", b"digest", 100.0, 200.0)
    change = lifecycle.accept(arrival, LEASE if accepted_running else None)
    table.write(change.records)
    for number, choice in enumerate(choices):
        legal = [name for name in LEGAL[change.row.state] if choice > 900 or name not in ENDINGS]
        change = DECISIONS[legal[choice % len(legal)]](change.row, 101.0 + number)
        table.write(change.records)
    return table, change.row


def lives(test: Callable[..., None]) -> Callable[..., None]:
    """Give a test random lives; no deadline, because a busy machine is no bug."""
    drawn = given(accepted_running=st.booleans(), choices=st.lists(st.integers(0, 1_000), max_size=40))
    return settings(deadline=None)(drawn(test))


@lives
def test_every_life_folds_to_the_row_its_decisions_produced(accepted_running: bool, choices: list[int]) -> None:
    """fold(edges of a turn) = its row, and so says the row that the guarded statements leave."""
    table, row = live(accepted_running, choices)

    assert fold(2, table.edges) == row
    assert table.row == row


@lives
def test_the_ordinals_of_every_life_have_no_gap(accepted_running: bool, choices: list[int]) -> None:
    """Edges count from 0, and the row knows the next."""
    table, row = live(accepted_running, choices)

    assert [edge.ordinal for edge in table.edges] == list(range(row.edges))


@lives
def test_epochs_never_fall(accepted_running: bool, choices: list[int]) -> None:
    """The fencing number of a turn only rises, by at most one an edge, and the last edge carries the row's."""
    table, row = live(accepted_running, choices)
    epochs = [edge.epoch for edge in table.edges]

    assert all(0 <= after - before <= 1 for before, after in pairwise(epochs))
    assert epochs[-1] == row.epoch


@lives
def test_every_life_has_one_receipt_and_a_deliverable_if_and_only_if_it_is_over(
    accepted_running: bool, choices: list[int]
) -> None:
    """A turn is terminal exactly when it has its one deliverable, and the two say the same."""
    table, row = live(accepted_running, choices)

    assert [record for record in table.receipts if isinstance(record, ReceiptAccepted)] == [
        ReceiptAccepted(7, 2, "k", 7, b"digest", 100.0, 100.0, 200.0)
    ]
    assert [(7, row.state.value)] * (row.state in TERMINAL) == [(d.turn_id, d.outcome) for d in table.deliverables]


@lives
def test_every_edge_of_every_life_is_chained_to_the_one_before_it(accepted_running: bool, choices: list[int]) -> None:
    """From the first: a digest is over its edge and over everything before it."""
    table, row = live(accepted_running, choices)
    digest = b""
    for edge in table.edges:
        digest = chained(digest, edge.turn_id, edge.kind, edge.at, edge.detail)

        assert edge.digest == digest
    assert row.digest == digest


@lives
def test_a_life_is_sealed_if_and_only_if_it_is_over(accepted_running: bool, choices: list[int]) -> None:
    """Over its history up to its end, and over its deliverable; duplicates that come later break no seal."""
    table, row = live(accepted_running, choices)
    if row.state not in TERMINAL:
        assert table.sealed is None
        return
    (delivered,) = table.deliverables
    (last,) = (
        edge for edge in table.edges if EdgeKind(edge.kind) in TRANSITION_KINDS and edge.kind.endswith(row.state)
    )

    assert table.sealed == sealed(last.digest, delivered.outcome, delivered.body, delivered.at)


@pytest.mark.parametrize(("state", "name"), list(product(TurnState, DECISIONS)))
def test_a_decision_that_the_table_refuses_writes_nothing(state: TurnState, name: str) -> None:
    """Every decision in every state: its legal ones give records, the others raise."""

    if name in LEGAL[state]:
        assert DECISIONS[name](row_in(state), 100.0).records
        return
    with pytest.raises(IllegalTransition):
        DECISIONS[name](row_in(state), 100.0)


# ---------------------------------------------------------------- decisions, one by one


def test_an_inbound_for_an_idle_actor_is_accepted_and_leased_in_one_commit() -> None:
    """Receipt, turn and both edges are one commit point, so a crash leaves all of them or none."""
    arrival = Arrival(7, 2, "k", b"\x01", b"digest", 100.0, 200.0)
    change = lifecycle.accept(arrival, LEASE)

    last = change.records[-1]
    assert isinstance(last, EdgeAppended)
    assert change.row == TurnRow(7, 2, TurnState.RUNNING, 1, 2, 1, edges=2, boot_id=8, digest=last.digest)
    assert [type(record) for record in change.records] == [TurnInserted, ReceiptAccepted, EdgeAppended, EdgeAppended]


def test_an_accepted_payload_stands_in_the_first_edge_as_it_came() -> None:
    """The inbound's bytes are stored, not read and written again."""
    payload = msgspec.msgpack.encode({"b": 1, "a": [None, b"\x00"]})
    change = lifecycle.accept(Arrival(7, 2, "k", payload, b"digest", 100.0, 200.0), None)
    table = Table()
    table.write(change.records)
    inbound = decode_detail(table.edges[0])

    assert isinstance(inbound, Inbound)
    assert (inbound.key, bytes(inbound.payload)) == ("k", payload)


def test_accepting_in_place_of_an_expired_receipt_retires_that_one_in_the_same_commit() -> None:
    """The key is never without a receipt, and never has two."""
    change = lifecycle.accept(Arrival(7, 2, "k", b"\x01", b"digest", 100.0, 200.0), None, retired=3)

    assert change.records[0] == ReceiptRetired(3)
    assert sum(isinstance(record, ReceiptAccepted) for record in change.records) == 1


def test_an_end_writes_its_deliverable_with_the_state_in_one_commit() -> None:
    """No crash leaves an ended turn without a deliverable, or a deliverable without an end."""
    change = lifecycle.end(row_in(TurnState.RUNNING), EdgeKind.TURN_COMPLETED, b"\x2a", 100.0)

    assert [type(record) for record in change.records] == [Deliverable, TurnReleased, EdgeAppended]
    assert change.records[0] == Deliverable(7, "completed", b"\x2a", 100.0)


def test_a_move_is_guarded_by_the_epoch_and_version_it_was_read_at() -> None:
    """A write of an older epoch finds no row to change."""
    row = row_in(TurnState.RUNNING)
    moved = lifecycle.requeue(row, Requeued("recovery"), 100.0).records[0]

    assert isinstance(moved, TurnReleased)
    assert (moved.epoch_before, moved.version_before) == (row.epoch, row.version)
    assert moved.epoch > moved.epoch_before


# ---------------------------------------------------------------- what is recorded of an exception


class Mute(Exception):
    """An exception whose author made a mistake."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_a_failure_is_the_type_and_the_message_of_its_exception() -> None:
    """With the digest by which equal failures are grouped."""

    assert lifecycle.failure_of(ValueError("no funds"), "ab12") == Failure("ValueError", "no funds", "ab12")


def test_an_exception_that_cannot_say_what_it_is_has_a_failure_all_the_same() -> None:
    """Its turn must end: nothing that a user's class does may stop that."""
    failure = lifecycle.failure_of(Mute())

    assert failure.type == "Mute"
    assert "ZeroDivisionError" in failure.message


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=50), st.integers(1, 1_000))
def test_whatever_an_exception_says_can_be_stored(message: str, times: int) -> None:
    """Lone surrogates are replaced and novels are cut, so a deliverable never fails for its size or its letters."""
    failure = lifecycle.failure_of(ValueError(message * times))
    stored = encode_detail(failure)

    assert msgspec.msgpack.decode(stored, type=Failure) == failure
    assert encode_failure(failure) == stored
    assert len(stored) <= 50_000
    if message.isascii() and len(message) * times <= 10_000:
        assert failure.message == message * times
