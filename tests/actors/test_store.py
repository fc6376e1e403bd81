"""SQLite's store: its statements, what the database guards by itself, and how a batch is written."""

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.actors.store.batch import ORDER, BatchConnection, statement_name
from turnkeeper.actors.store.file import migrate
from turnkeeper.actors.store.sql import queries
from turnkeeper.kernel import lifecycle, records
from turnkeeper.kernel.arrival import Arrived
from turnkeeper.kernel.edge import EdgeKind, Requeued, Resumed, Suspended
from turnkeeper.kernel.errors import StaleEpoch, VersionConflict
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.receipt import STATE_OF
from turnkeeper.kernel.records import ActorOpened, NodeStarted, Record
from turnkeeper.kernel.state import state_set
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import verb_noted
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState
from turnkeeper.kernel.wait import OpenWait

LEASE = Lease(1, 145.0)
KINDS: tuple[type[Record], ...] = get_args(Record)
ACTOR, OTHER_ACTOR, NEIGHBOUR = 10, 20, 30


def arrival(turn_id: int, actor_id: int = ACTOR, key: str | None = None) -> Arrival:
    return Arrival(turn_id, actor_id, key or f"key-{turn_id}", b"\x01", b"digest", 100.0, 200.0)


RUNNING = lifecycle.accept(arrival(1), LEASE)
QUEUED = lifecycle.accept(arrival(2), None)
STARTED = lifecycle.accept(arrival(3, OTHER_ACTOR), LEASE)
ENDED = lifecycle.end(STARTED.row, EdgeKind.TURN_COMPLETED, b"\x2a", 101.0)
WORLD: list[list[Record]] = [
    [NodeStarted(1, 4242, 100.0, 145.0)],
    *([ActorOpened(actor_id, "", f"session-{actor_id}", "billing")] for actor_id in (ACTOR, OTHER_ACTOR, NEIGHBOUR)),
    RUNNING.records,
    QUEUED.records,
    STARTED.records,
    ENDED.records,
]
"""One node, three actors; turn 1 runs, turn 2 waits behind it, turn 3 has ended."""


def writing(path: Path) -> BatchConnection:
    """Return a connection such as the writer's."""
    connection = sqlite3.connect(path, isolation_level=None, factory=BatchConnection)
    connection.prepare()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def commit(connection: BatchConnection, batch: Sequence[Sequence[Record]]) -> None:
    """Write a batch as the writer does: staged, in one call without arguments."""
    connection.staged.append(lambda raw: raw.write(batch))
    connection.commit()


def contents(path: Path) -> dict[str, list[Any]]:
    """Return every row of every table."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for (name,) in tables}


# ---------------------------------------------------------------- statements


def test_every_record_has_its_place_in_a_batch() -> None:
    """Each type once: a record without a place could not be written."""

    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == set(KINDS)
    assert {kind.__name__ for kind in KINDS} == set(records.__all__) - {"Record"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_of_a_record_are_the_parameters_of_its_statement(kind: type[Record], tmp_path: Path) -> None:
    """As many as there are, by SQLite's own count."""
    migrate(tmp_path / "x.db", "a1b2", 100.0)
    statement = f"EXPLAIN {queries()[statement_name(kind)]}"
    count = len(kind.__struct_fields__)
    with closing(writing(tmp_path / "x.db")) as connection:
        connection.execute(statement, [None] * count)
        for wrong in (count - 1, count + 1):
            with pytest.raises(sqlite3.ProgrammingError, match=rf"current statement uses {count}"):
                connection.execute(statement, [None] * wrong)


ANOTHER_NAME = {"epoch_before": "epoch", "version_before": "version", "fence": "epoch"}
"""Fields that are compared with a column, and not written to it."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_of_a_record_are_named_as_the_columns_they_go_to(kind: type[Record]) -> None:
    """A field goes to the column of its name, so no value lands in its neighbour's."""
    numbers = count(1)
    sql = re.sub(r"\?(?!\d)", lambda _: f"?{next(numbers)}", queries()[statement_name(kind)])
    sql = re.sub(r"chained\(.*?\)", "computed", sql)
    insert = re.search(r"INSERT INTO \w+ \((.+)\)\s(?:VALUES \((.+)\)|SELECT (.+)\sFROM turns)", sql)
    columns, values = (insert[1], insert[2] or insert[3]) if insert else ("", "")
    pairs = zip(columns.split(", "), values.split(", "), strict=True)
    written = {value: column for column, value in pairs if re.fullmatch(r"\?\d+", value)}
    named = written | {value: column for column, value in re.findall(r"(\w+) = (\?\d+)", sql)}
    fields = [ANOTHER_NAME.get(name, name) for name in kind.__struct_fields__]

    assert named == {f"?{number}": name for number, name in enumerate(fields, 1)}


@pytest.mark.parametrize("name", queries())
def test_every_statement_fits_the_schema(name: str, tmp_path: Path) -> None:
    """Each compiles against a store, the reading ones too."""
    migrate(tmp_path / "x.db", "a1b2", 100.0)
    sql = queries()[name]
    numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    with closing(writing(tmp_path / "x.db")) as connection:
        connection.execute(f"EXPLAIN {sql}", [None] * (max(numbered) if numbered else sql.count("?")))


# ---------------------------------------------------------------- the database guards the contract by itself

BY_HAND = f"""
INSERT INTO nodes VALUES (1, 4242, 0.0, 45.0, NULL);
INSERT INTO actors VALUES ({ACTOR}, '', 's', 'a'), (11, '', 's', 'b');
INSERT INTO turns VALUES (1, {ACTOR}, 'running', 1, 2, 1, 1, NULL, NULL, NULL, NULL);
INSERT INTO turns VALUES (2, {ACTOR}, 'queued', 0, 1, 1, NULL, NULL, NULL, NULL, NULL);
INSERT INTO turns VALUES (3, {ACTOR}, 'queued', 0, 1, 1, NULL, NULL, NULL, NULL, NULL);
INSERT INTO deliverables VALUES (3, 'failed', x'C0', 1.0);
UPDATE turns SET state = 'failed', deliverable_id = 3 WHERE turn_id = 3;
INSERT INTO blobs VALUES (NULL, 1, 0, x'01');
INSERT INTO receipts VALUES (1, {ACTOR}, 'key', 1, x'00', 0, 0.0, 0.0, 9.0, 0, '');
INSERT INTO edges VALUES (NULL, 1, 0, 'inbound_received', 0, 0.0, x'', x'');
INSERT INTO turns VALUES (5, 11, 'suspended', 1, 3, 1, NULL, 9.0, NULL, NULL, NULL);
INSERT INTO waits VALUES (NULL, 5, 0, 'timer', 9.0, NULL);
INSERT INTO signals VALUES (1, 11, 'paid', 'key', x'C0', 1.0, 9.0, x'', NULL, 0);
INSERT INTO desired VALUES ('agents/a', 'paused', '', 0.0, '', x'');
INSERT INTO child_events VALUES (NULL, 0.0, 1, 'agents/a', 'paused', 0, x'', x'');
"""
FORBIDDEN = {
    "a second running turn of an actor": "UPDATE turns SET state = 'running', boot_id = 1 WHERE turn_id = 2",
    "a new turn beside one running": (
        f"INSERT INTO turns VALUES (4, {ACTOR}, 'running', 1, 2, 1, 1, NULL, NULL, NULL, NULL)"
    ),
    "an end without a deliverable": "UPDATE turns SET state = 'completed', boot_id = NULL WHERE turn_id = 1",
    "a live turn with a deliverable": "UPDATE turns SET deliverable_id = 2 WHERE turn_id = 2",
    "an ended turn that goes on": "UPDATE turns SET state = 'queued' WHERE turn_id = 3",
    "another turn's deliverable": "UPDATE turns SET state = 'failed', deliverable_id = 3 WHERE turn_id = 2",
    "a deliverable that is not there": "UPDATE turns SET state = 'failed', deliverable_id = 2 WHERE turn_id = 2",
    "a second deliverable": "INSERT INTO deliverables VALUES (3, 'completed', x'C0', 2.0)",
    "a deliverable of no turn": "INSERT INTO deliverables VALUES (99, 'completed', x'C0', 2.0)",
    "a deliverable that is no end": "INSERT INTO deliverables VALUES (2, 'running', x'C0', 2.0)",
    "a changed edge": "UPDATE edges SET kind = 'turn_completed'",
    "a deleted edge": "DELETE FROM edges",
    "a live turn that goes": "DELETE FROM turns WHERE turn_id = 2",
    "a second large value of an edge": "INSERT INTO blobs VALUES (NULL, 1, 0, x'02')",
    "a second edge at one ordinal": "INSERT INTO edges VALUES (NULL, 1, 0, 'steered', 0, 0.0, x'', x'')",
    "an unknown state": "UPDATE turns SET state = 'paused' WHERE turn_id = 2",
    "a wait without a deadline": "UPDATE turns SET state = 'suspended' WHERE turn_id = 2",
    "a run without an owner": "INSERT INTO turns VALUES (4, 11, 'running', 1, 2, 1, NULL, NULL, NULL, NULL, NULL)",
    "an owner of a turn that does not run": "UPDATE turns SET boot_id = 1 WHERE turn_id = 2",
    "an owner that never started": "UPDATE turns SET boot_id = 99 WHERE turn_id = 1",
    "a turn of no actor": "INSERT INTO turns VALUES (4, 99, 'queued', 0, 1, 1, NULL, NULL, NULL, NULL, NULL)",
    "a second receipt under a key": f"INSERT INTO receipts VALUES (2, {ACTOR}, 'key', 2, x'', 0, 0.0, 0.0, 9.0, 0, '')",
    "a receipt of no turn": f"INSERT INTO receipts VALUES (2, {ACTOR}, 'other', 99, x'00', 0, 0.0, 0.0, 9.0, 0, '')",
    "a second actor at one address": "INSERT INTO actors VALUES (12, '', 's', 'a')",
    "a changed event": "UPDATE child_events SET path = 'agents/b'",
    "a deleted event": "DELETE FROM child_events",
    "an event of no kind": "INSERT INTO child_events VALUES (NULL, 0.0, 1, 'agents/a', 'fell', 0, x'', x'')",
    "an event of no boot": "INSERT INTO child_events VALUES (NULL, 0.0, 99, 'agents/a', 'died', 0, x'', x'')",
    "what nobody can want": "UPDATE desired SET desired = 'dead'",
    "what is wanted of nobody": "UPDATE desired SET path = ''",
    "a wait of no kind": "INSERT INTO waits VALUES (NULL, 5, 1, 'hope', 9.0, NULL)",
    "a wait of no turn": "INSERT INTO waits VALUES (NULL, 99, 1, 'timer', 9.0, NULL)",
    "a wait without a child's turn": "INSERT INTO waits VALUES (NULL, 5, 1, 'child', 9.0, NULL)",
    "a wait for a turn that is not there": "INSERT INTO waits VALUES (NULL, 5, 1, 'child', 9.0, 99)",
    "a timer with a child's turn": "INSERT INTO waits VALUES (NULL, 5, 1, 'timer', 9.0, 1)",
    "a second wait of one step": "INSERT INTO waits VALUES (NULL, 5, 0, 'signal', 9.0, NULL)",
    "a second signal under a key": "INSERT INTO signals VALUES (2, 11, 'sent', 'key', x'C0', 1.0, 9.0, x'', NULL, 0)",
    "a signal to no actor": "INSERT INTO signals VALUES (2, 99, 'paid', 'key', x'C0', 1.0, 9.0, x'', NULL, 0)",
    "a value of another type": "UPDATE turns SET epoch = 'one' WHERE turn_id = 1",
}


@pytest.fixture
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """A plain connection to a store with a few rows, as somebody with the sqlite3 shell has it."""
    migrate(path, "a1b2", 100.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(BY_HAND)
        yield connection


@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_the_database_itself_refuses(forbidden: str, by_hand: sqlite3.Connection, path: Path) -> None:
    """Whoever writes, with whatever tool: what the contract forbids cannot be stored."""
    before = contents(path)

    with pytest.raises(sqlite3.IntegrityError):
        by_hand.execute(FORBIDDEN[forbidden])
    assert contents(path) == before


def test_the_database_allows_what_the_contract_allows(by_hand: sqlite3.Connection) -> None:
    """The guards above refuse each thing for its own reason: its lawful neighbour passes."""
    by_hand.executescript(f"""
        INSERT INTO edges VALUES (NULL, 1, 1, 'steered', 1, 0.0, x'', x'');
        UPDATE receipts SET retired = 1 WHERE receipt_id = 1;
        INSERT INTO receipts VALUES (2, {ACTOR}, 'key', 2, x'00', 0, 0.0, 0.0, 9.0, 0, '');
        UPDATE turns SET state = 'suspended', boot_id = NULL, due_at = 9.0 WHERE turn_id = 1;
        UPDATE turns SET state = 'running', boot_id = 1 WHERE turn_id = 2;
        INSERT INTO deliverables VALUES (2, 'cancelled', x'C0', 2.0);
        UPDATE turns SET state = 'cancelled', boot_id = NULL, deliverable_id = 2 WHERE turn_id = 2;
        INSERT INTO waits VALUES (NULL, 5, 1, 'handoff', 9.0, 1);
        INSERT INTO signals VALUES (2, {ACTOR}, 'paid', 'key', x'C0', 1.0, 9.0, x'', NULL, 0);
    """)

    assert [state for (state,) in by_hand.execute("SELECT state FROM turns ORDER BY turn_id")] == [
        "suspended",
        "cancelled",
        "failed",
        "suspended",
    ]


@pytest.mark.parametrize(
    "move",
    ["state = 'running', boot_id = 1", "state = 'queued'", "state = 'failed', deliverable_id = 5"],
    ids=["runs again", "goes back to its queue", "ends"],
)
def test_a_turn_that_is_suspended_no_more_stands_on_nothing(move: str, by_hand: sqlite3.Connection) -> None:
    """Whoever moves it; while it stays suspended its waits stay."""
    by_hand.execute("INSERT INTO deliverables VALUES (5, 'failed', x'C0', 1.0)")
    by_hand.execute("UPDATE turns SET state = 'suspended', due_at = 8.0 WHERE turn_id = 5")
    before = by_hand.execute("SELECT turn_id FROM waits").fetchall()
    by_hand.execute(f"UPDATE turns SET {move} WHERE turn_id = 5")

    assert before == [(5,)]
    assert by_hand.execute("SELECT turn_id FROM waits").fetchall() == []


@pytest.mark.parametrize(
    ("move", "state"),
    [
        ("boot_id = NULL, state = 'queued'", TurnState.QUEUED),
        ("boot_id = 1", TurnState.RUNNING),
        ("boot_id = NULL, state = 'suspended', due_at = 9.0", TurnState.SUSPENDED),
        *((f"boot_id = NULL, state = '{end}', deliverable_id = 1", end) for end in sorted(TERMINAL)),
    ],
)
def test_a_receipts_state_is_its_turns_in_other_words(move: str, state: TurnState, by_hand: sqlite3.Connection) -> None:
    """The view says what the kernel says, for every state."""
    by_hand.execute("INSERT INTO deliverables VALUES (1, 'failed', x'C0', 1.0)")
    by_hand.execute(f"UPDATE turns SET {move} WHERE turn_id = 1")
    found = by_hand.execute("SELECT state FROM receipt_states WHERE receipt_id = 1").fetchone()

    assert found == (STATE_OF[state].value,)


def test_a_turn_that_is_over_goes_with_all_that_is_its_own_and_nothing_else(
    by_hand: sqlite3.Connection, path: Path
) -> None:
    """Whoever deletes it: history, deliverable, large values, its receipt and those of what joined it."""
    before = contents(path)
    by_hand.executescript(f"""
        INSERT INTO turns VALUES (4, {ACTOR}, 'queued', 0, 1, 1, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO receipts VALUES (4, {ACTOR}, 'another key', 4, x'00', 0, 0.0, 0.0, 9.0, 0, '');
        INSERT INTO receipts VALUES (6, {ACTOR}, 'joined', 4, x'00', 0, 0.0, 0.0, 9.0, 0, 'coalesced');
        INSERT INTO edges VALUES (NULL, 4, 0, 'inbound_received', 0, 0.0, x'c1', x'');
        INSERT INTO blobs VALUES (NULL, 4, 0, x'01'), (NULL, 4, -1, x'02');
        INSERT INTO deliverables VALUES (4, 'cancelled', x'c1', 2.0);
        UPDATE turns SET state = 'cancelled', deliverable_id = 4 WHERE turn_id = 4;
        DELETE FROM turns WHERE turn_id = 4;
    """)

    assert contents(path) == before


# ---------------------------------------------------------------- a batch is its points, one after another


def test_a_batch_without_guilt_is_written_without_looking_for_it(path: Path) -> None:
    """Every kind of record, in one pass of one statement a kind: no point has a savepoint of its own."""
    migrate(path, "a1b2", 100.0)
    ended = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 102.0)
    left = state_set(ACTOR, 1, b"\x2a", turn_id=1, at=102.0)
    renewed = lifecycle.accept(arrival(5, OTHER_ACTOR, "key-3"), None, retired=3)
    _, dropped = lifecycle.drop_duplicate(None, 3, 3, 102.0)
    begun = lifecycle.accept(arrival(6, NEIGHBOUR), LEASE)
    steered = msgspec.structs.replace(arrival(7, NEIGHBOUR), arrived=Arrived.STEERED._value_)
    joined, parted = lifecycle.join(begun.row, steered), lifecycle.part(steered)
    stood = lifecycle.suspend(joined.row, Suspended("timer", 900.0), 102.0, [OpenWait(0, "timer", 900.0)])
    sent = records.SignalSent(1, NEIGHBOUR, "paid", "key", b"\xc0", 102.0, 900.0)
    last_words = [[records.NodeBeat(150.0, 1)], [records.NodeStopped(103.0, 1)]]
    _, paused = verb_noted("agents/billing", Desired.RUNNING, Verb.PAUSE, at=103.0, boot_id=2)
    batch = [
        [*ended.records, left, *lifecycle.acquire(QUEUED.row, LEASE, 102.0).records],
        renewed.records,
        dropped,
        [NodeStarted(2, 4243, 100.0, 145.0)],
        [ActorOpened(11, "", "session-11", "billing")],
        joined.records,
        parted.records,
        stood.records,
        [sent, records.SignalTaken(6, 1), records.SignalRetired(9)],
        [records.HandedOff(7, "", "session-30", "triage", "billing", 102.0)],
        *last_words,
        paused,
    ]
    statements: list[str] = []
    with closing(writing(path)) as connection:
        for point in [*WORLD, begun.records, [records.SignalSent(9, NEIGHBOUR, "paid", "old", b"\xc0", 1.0, 2.0)]]:
            commit(connection, [point])
        connection.set_trace_callback(statements.append)
        commit(connection, batch)

    assert {type(record) for point in batch for record in point} == set(KINDS)
    assert connection.rejected == {}
    assert statements.count("COMMIT") == 1
    assert not [statement for statement in statements if "SAVEPOINT" in statement]


@pytest.mark.parametrize("apart", [False, True])
def test_what_stands_on_a_refused_edge_is_refused_too(path: Path, *, apart: bool) -> None:
    """In its batch, and in the one that was submitted before anybody heard of it: a history has no gap."""
    migrate(path, "a1b2", 100.0)
    refused = lifecycle.observe(RUNNING.row, EdgeKind.DUPLICATE_DROPPED, None, 103.0)
    behind = lifecycle.observe(refused.row, EdgeKind.DUPLICATE_DROPPED, None, 104.0)
    points = [[*refused.records, records.ReceiptRetired(99)], behind.records]
    with closing(writing(path)) as connection:
        for point in WORLD:
            commit(connection, [point])
        rejected = []
        for batch in [[point] for point in points] if apart else [points]:
            commit(connection, batch)
            rejected += connection.rejected.values()
        commit(connection, [refused.records])
        ordinals = connection.execute("SELECT ordinal FROM edges WHERE turn_id = 1 ORDER BY ordinal").fetchall()

    assert [type(error) for error in rejected] == [VersionConflict, StaleEpoch]
    assert connection.rejected == {}
    assert [ordinal for (ordinal,) in ordinals] == list(range(len(ordinals)))


@pytest.mark.parametrize("alone", [False, True])
def test_an_answer_that_lets_a_turn_run_again_is_written_with_its_batch(path: Path, *, alone: bool) -> None:
    """Its edges stand behind the move that raises the epoch and are fenced by it, also in a point by itself."""
    migrate(path, "a1b2", 100.0)
    begun = lifecycle.accept(arrival(6, NEIGHBOUR), LEASE)
    stood = lifecycle.suspend(begun.row, Suspended("timer", 900.0), 102.0, [OpenWait(0, "timer", 900.0)])
    told = lifecycle.observe(stood.row, EdgeKind.DUPLICATE_DROPPED, None, 103.0)
    edges = [record for record in told.records if isinstance(record, records.EdgeAppended)]
    resumed = lifecycle.resume(told.row, LEASE, Resumed(1, 145.0), 103.0, edges)
    guilty = [[records.ReceiptSeen(103.0, 99)]] if alone else []
    statements: list[str] = []
    with closing(writing(path)) as connection:
        for point in [*WORLD, begun.records, stood.records]:
            commit(connection, [point])
        connection.set_trace_callback(statements.append)
        commit(connection, [resumed.records, *guilty])

    assert connection.rejected.keys() == ({1} if alone else set())
    assert ("SAVEPOINT point" in statements) is alone


class Writer:
    """What one runtime submits: lawful moves of its actors, and now and then something stale or taken."""

    def __init__(self) -> None:
        self.points: list[Sequence[Record]] = []
        self.guilty: set[int] = set()
        self._rows: dict[int, list[TurnRow]] = {ACTOR: [], OTHER_ACTOR: [], NEIGHBOUR: []}
        self._old: list[TurnRow] = []
        self._ids = count(101)

    def submit(self, choice: int, actor_id: int) -> None:
        """Submit one point; a choice that has no meaning now accepts one more turn."""
        rows = self._rows[actor_id]
        head = rows[0] if rows else None
        running = head is not None and head.state is TurnState.RUNNING
        match choice:
            case 0 if running:
                self._end(rows)
            case 1 if running:
                self._replace(rows, lifecycle.requeue(head, Requeued("retry", 130.0), 102.0))
            case 2 if running:
                self._replace(rows, lifecycle.suspend(head, Suspended("approval", 900.0), 102.0))
            case 3 | 4 if running:
                self._replace(rows, lifecycle.observe(head, EdgeKind.MODEL_ATTEMPT, None, 102.0))
            case 0 | 1 | 3 if head is not None and head.state is TurnState.QUEUED:
                self._replace(rows, lifecycle.acquire(head, LEASE, 102.0))
            case 0 | 1 | 3 if head is not None and head.state is TurnState.SUSPENDED:
                self._replace(rows, lifecycle.resume(head, LEASE, Resumed(1, 145.0), 102.0))
            case 5 if self._old:
                self._refused(lifecycle.end(self._old[-1], EdgeKind.TURN_FAILED, b"\x93", 102.0).records)
            case 6 if self._old:
                self._refused(lifecycle.observe(self._old[0], EdgeKind.MODEL_ATTEMPT, None, 102.0).records)
            case 7 if head is not None:
                taken = arrival(next(self._ids), actor_id, f"key-{head.turn_id}")
                self._refused(lifecycle.accept(taken, None).records)
            case _:
                change = lifecycle.accept(arrival(next(self._ids), actor_id), None if rows else LEASE)
                rows.append(change.row)
                self.points.append(change.records)

    def _replace(self, rows: list[TurnRow], change: lifecycle.Change) -> None:
        if rows[0].state is TurnState.RUNNING:
            self._old.append(rows[0])
        rows[0] = change.row
        self.points.append(change.records)

    def _end(self, rows: list[TurnRow]) -> None:
        """End the running turn; its successor's lease rides in the same point."""
        records = lifecycle.end(rows.pop(0), EdgeKind.TURN_COMPLETED, b"\x2a", 102.0).records
        if rows and rows[0].state is TurnState.QUEUED:
            acquired = lifecycle.acquire(rows[0], LEASE, 102.0)
            rows[0] = acquired.row
            records = [*records, *acquired.records]
        self.points.append(records)

    def _refused(self, point: Sequence[Record]) -> None:
        self.guilty.add(len(self.points))
        self.points.append(point)


def write(path: Path, batches: Sequence[Sequence[Sequence[Record]]]) -> dict[int, str]:
    """Write the batches one after another; return the refusals by the points' number in all of them."""
    refusals: dict[int, str] = {}
    first = 0
    with closing(writing(path)) as connection:
        for batch in batches:
            commit(connection, batch)
            refusals |= {first + number: repr(error) for number, error in connection.rejected.items()}
            first += len(batch)
    return refusals


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([ACTOR, OTHER_ACTOR, NEIGHBOUR])), max_size=40))
def test_a_batch_comes_to_the_same_as_its_points_one_after_another(choices: list[tuple[int, int]]) -> None:
    """How many points share a commit changes nothing but the number of commits: same rows, same refusals."""
    writer = Writer()
    for choice in choices:
        writer.submit(*choice)
    with tempfile.TemporaryDirectory() as folder:
        together, apart = Path(folder, "together.db"), Path(folder, "apart.db")
        migrate(together, "a1b2", 100.0)
        write(together, [WORLD[:4]])
        shutil.copy(together, apart)
        refused = write(together, [writer.points] if writer.points else [])

        assert refused == write(apart, [[point] for point in writer.points])
        assert set(refused) == writer.guilty
        assert contents(together) == contents(apart)
