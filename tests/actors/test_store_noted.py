"""What SQLite keeps of supervision: through kills, in its bounds, told by the audit where it does not add up."""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from looking import rows

from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.backup import backup
from turnkeeper.actors.store.batch import BatchConnection
from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sql import schema
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.records import ActorOpened, NodeStarted, Record
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import (
    DETAIL_BYTES_MAX,
    EVENTS_MAX,
    EVENTS_PER_PATH_MAX,
    PATH_BYTES_MAX,
    TEXT_BYTES_MAX,
    ChildEventKind,
    Note,
    noted,
    verb_noted,
)
from turnkeeper.kernel.turn import TurnState
from turnkeeper.kernel.wait import WaitKind

STARTED = [NodeStarted(1, 4242, 100.0, 145.0)]
A, B = "agents/a", "tree/b"


def said(path: str, verb: Verb = Verb.PAUSE, desired: Desired = Desired.RUNNING) -> Sequence[Record]:
    return verb_noted(path, desired, verb, Note("why", by="ann"), at=110.0, boot_id=1)[1]


def fell(path: str, incarnation: int = 1) -> list[Record]:
    return [noted(path, ChildEventKind.CRASHED, Note("", "ValueError"), incarnation=incarnation, at=111.0, boot_id=1)]


def store_at(path: Path, synchronous: str = "OFF") -> SqliteStore:
    return SqliteStore(path, synchronous=synchronous, store_id="a1b2", created_at=100.0)


async def keep(path: Path, *points: Sequence[Record]) -> None:
    """Write points into a store, each in a batch of its own, and close it."""
    store = store_at(path)
    await store.open()
    for point in points:
        assert await store.apply([point]) == {}
    await store.close()


# ---------------------------------------------------------------- the schema says what the kernel says


def listed(table: str, column: str) -> set[str]:
    """Return the words that a CHECK of a table allows."""
    (made,) = re.findall(rf"CREATE TABLE {table} \((.+?)\) STRICT", schema(), re.DOTALL)
    (words,) = re.findall(rf"{column} TEXT NOT NULL CHECK \({column} IN \(([^()]+)\)\)", made)
    return set(re.findall(r"'(\w+)'", words))


def test_the_words_of_the_schema_are_the_kernels() -> None:
    """No more and no fewer: a kind that is added needs a migration."""

    assert listed("desired", "desired") == set(Desired)
    assert listed("child_events", "kind") == set(ChildEventKind)
    assert listed("waits", "kind") == set(WaitKind)
    assert listed("turns", "state") == set(TurnState)


def test_the_bounds_of_the_schema_are_the_kernels() -> None:
    """Each number, in each place where it stands."""
    tables = schema().split("CREATE TABLE desired")[1].split("CREATE VIEW")[0]
    numbers = re.findall(r"(?:AND|<=|OFFSET|<|-) (\d+)\b", re.sub(r"--.*", "", tables))

    assert numbers == [
        *map(str, (PATH_BYTES_MAX, TEXT_BYTES_MAX, TEXT_BYTES_MAX, PATH_BYTES_MAX, DETAIL_BYTES_MAX)),
        *map(str, (EVENTS_MAX, EVENTS_PER_PATH_MAX, EVENTS_PER_PATH_MAX, EVENTS_MAX)),
    ]


# ---------------------------------------------------------------- it survives, and it costs a turn nothing

KILLED = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from test_store_noted import A, B, STARTED, Desired, Verb, fell, said, store_at
from pathlib import Path

async def main():
    store = store_at(Path(sys.argv[1]), "FULL")
    await store.open()
    await store.apply([STARTED])
    desired, verb = Desired.RUNNING, Verb.PAUSE
    for number in range(1, 10_000):
        assert await store.apply([said(A, verb, desired), fell(B, number)]) == {}
        desired, verb = (Desired.PAUSED, Verb.RESUME) if verb is Verb.PAUSE else (Desired.RUNNING, Verb.PAUSE)
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 2, 37, 250])
def test_what_was_acknowledged_survives_a_kill(acknowledged: int, path: Path) -> None:
    """A verb with its event, and the newest events of a child, to the one last told of."""
    line = [sys.executable, "-c", KILLED, path, Path(__file__).parent]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert child.stdout is not None
    while int(child.stdout.readline()) < acknowledged:
        pass
    child.kill()
    told = [acknowledged, *map(int, child.stdout.read().splitlines())][-1]
    child.wait()
    child.stdout.close()

    assert audit(path).violations == []
    with Reader(path) as reader:
        fallen, verbs, (row,) = reader.child_events(B), reader.child_events(A), reader.desired()
    last = fallen[-1].incarnation
    assert last in {told, told + 1}
    assert [event.incarnation for event in fallen] == list(range(max(1, last - EVENTS_PER_PATH_MAX + 1), last + 1))
    assert len(verbs) == len(fallen)
    assert row.desired == (Desired.PAUSED if last % 2 else Desired.RUNNING)


def size(path: Path) -> int:
    return path.stat().st_size


async def test_a_crash_loop_fills_no_disk(path: Path) -> None:
    """The file has its size after the first few hundred events, however many follow."""
    await keep(path, STARTED, [record for number in range(400) for record in fell(B, number)])
    before = size(path)
    await keep(path, [record for number in range(20_000) for record in fell(B, number)])

    assert size(path) <= before + 4096


async def test_a_turn_is_written_without_a_statement_about_supervision(path: Path) -> None:
    """Its commits are as they were, whatever is kept beside them."""
    await keep(path, STARTED, [ActorOpened(1, "", "s", "a")], said(A))
    started = lifecycle.accept(Arrival(1, 1, "key", b"\x01", b"digest", 100.0, 200.0), Lease(1, 145.0))
    ended = lifecycle.end(started.row, EdgeKind.TURN_COMPLETED, b"\x2a", 101.0)
    statements: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None, factory=BatchConnection)) as connection:
        connection.prepare()
        connection.set_trace_callback(statements.append)
        connection.write([started.records, ended.records])

    assert connection.rejected == {}
    assert [said for said in statements if "INSERT INTO edges" in said]
    assert not [said for said in statements if "child_events" in said or "desired" in said]


async def test_reading_one_childs_events_walks_no_table(path: Path) -> None:
    """Nor does noting one more."""
    await keep(path, STARTED)
    with closing(sqlite3.connect(path)) as connection:
        for asked in (
            "SELECT * FROM child_events WHERE path = 'x' AND event_id > 5 ORDER BY event_id LIMIT 3",
            "SELECT event_id FROM child_events WHERE path = 'x' ORDER BY event_id DESC LIMIT 1 OFFSET 200",
            "DELETE FROM child_events WHERE event_id <= 7",
        ):
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked}"))

            assert "SEARCH" in plan
            assert "SCAN" not in plan
            assert "TEMP B-TREE" not in plan


async def test_a_backup_has_it_too(path: Path, tmp_path: Path) -> None:
    """What is wanted, and what happened."""
    await keep(path, STARTED, said(A), fell(B))
    backup(path, tmp_path / "copy.db")
    with Reader(path) as one, Reader(tmp_path / "copy.db") as other:
        assert other.desired() == one.desired() != []
        assert other.child_events() == one.child_events() != []
    assert audit(tmp_path / "copy.db").violations == []


# ---------------------------------------------------------------- what the audit finds

TAMPERED = {
    "a path": "UPDATE child_events SET path = 'agents/c' WHERE event_id = 2",
    "a time": "UPDATE child_events SET at = at + 1 WHERE event_id = 2",
    "a kind": "UPDATE child_events SET kind = 'started' WHERE event_id = 2",
    "a kind that is none": "UPDATE child_events SET kind = 'fell' WHERE event_id = 2",
    "an incarnation": "UPDATE child_events SET incarnation = 2 WHERE event_id = 2",
    "a boot": "UPDATE child_events SET boot_id = 2 WHERE event_id = 2",
    "a detail": "UPDATE child_events SET detail = x'90' WHERE event_id = 2",
    "a detail that cannot be read": "UPDATE child_events SET detail = x'c1' WHERE event_id = 2",
    "an event that is gone": "DELETE FROM child_events WHERE event_id = 2",
    "the first that is gone": "DELETE FROM child_events WHERE event_id = 1",
    "a verb that is gone": "DELETE FROM child_events WHERE event_id = 3",
    "who is meant": "UPDATE desired SET path = 'agents/c'",
    "what is wanted": "UPDATE desired SET desired = 'running'",
    "what nobody can want": "UPDATE desired SET desired = 'dead'",
    "a reason": "UPDATE desired SET reason = 'another'",
    "a name": "UPDATE desired SET changed_by = 'bob'",
    "a moment": "UPDATE desired SET at = 5.0",
    "what was wanted and is gone": "DELETE FROM desired",
    "what was never said": "INSERT INTO desired VALUES ('agents/c', 'stopped', '', 1.0, '', x'')",
    "nobody's path": "UPDATE desired SET path = ''",
}


def tamper(path: Path, *statements: str) -> None:
    """Change a store behind its back, and leave its schema as it was."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)


async def test_what_is_lawful_is_found_sound(path: Path) -> None:
    """Also once much of it has gone, and words have been said twice."""
    points = [STARTED, said(A), fell(A), said(A, Verb.RESUME, Desired.PAUSED), said(A, Verb.RESUME), said(B, Verb.STOP)]
    await keep(path, *points)
    assert audit(path).violations == []
    await keep(path, [record for number in range(400) for record in fell(B, number)])
    assert audit(path).violations == []
    await keep(path, [record for number in range(EVENTS_MAX + 700) for record in fell(f"tree/{number % 61}", number)])

    assert audit(path).violations == []
    assert rows(path, "SELECT count(*) FROM child_events") == [(EVENTS_MAX,)]


@pytest.mark.parametrize("tampered", TAMPERED)
async def test_what_was_changed_behind_its_back_is_found(tampered: str, path: Path) -> None:
    """Each fact of a row, a row that is gone, a verb without what is wanted, and the other way round."""
    await keep(path, STARTED, [NodeStarted(2, 1, 0.0, 0.0)], fell(B), fell(A), said(A), fell(B))
    assert audit(path).violations == []
    tamper(path, TAMPERED[tampered])
    rules = {found.rule for found in audit(path).violations}

    assert rules & {"child events", "desired state", "desired state = last verb"}
    assert "readable rows" not in rules


async def test_what_should_have_gone_is_found(path: Path) -> None:
    """An event too many of a child, and one too many of all."""
    await keep(path, STARTED, [record for number in range(EVENTS_PER_PATH_MAX) for record in fell(B, number)])
    copied = "SELECT NULL, at, boot_id, path, kind, incarnation, detail, digest FROM child_events WHERE event_id = 1"
    tamper(path, f"INSERT INTO child_events {copied}")
    many = [found.what for found in audit(path).violations]
    tamper(path, f"INSERT INTO child_events {copied.replace('NULL', str(EVENTS_MAX + 1))}")
    old = [found.what for found in audit(path).violations]

    assert many == [f"has {EVENTS_PER_PATH_MAX + 1} events; {EVENTS_PER_PATH_MAX} are kept"]
    assert f"should have gone; {EVENTS_MAX} are kept in all" in old
