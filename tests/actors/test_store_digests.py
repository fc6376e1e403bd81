"""Digests: edges are chained, ends are sealed, and whatever is changed later in a stored history is noticed."""

import asyncio
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from looking import FAST, check_invariants, until

from turnkeeper import Effect, Retry, Runtime, Turn, agent, tool
from turnkeeper.actors.store import batch
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import Edge, EdgeKind, Failure, Suspended, chained, encode_failure, sealed
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import ActorOpened, NodeStarted, Record
from turnkeeper.testing.memory import Disk, MemoryStore

LEASE = Lease(1, 145.0)
RUNNING = lifecycle.accept(Arrival(7, 2, "key", b"\x01", b"digest", 100.0, 200.0), LEASE)
WORLD: list[list[Record]] = [[NodeStarted(1, 4242, 100.0, 145.0)], [ActorOpened(2, "", "s", "play")], RUNNING.records]


# ---------------------------------------------------------------- the functions


def test_a_digest_is_over_everything_that_an_edge_says() -> None:
    """Each part counts, and none runs into its neighbour."""
    same = (b"before", 7, "steered", 100.0, b"detail")
    others = [
        (b"other", 7, "steered", 100.0, b"detail"),
        (b"before", 8, "steered", 100.0, b"detail"),
        (b"before", 7, "steere", 100.0, b"ddetail"),
        (b"before", 7, "steered", 100.5, b"detail"),
        (b"before", 7, "steered", 100.0, b"details"),
        (b"", 7, "steered", 100.0, b"detail"),
        (b"before", 7, "steered", 100.0, b""),
    ]
    digests = {chained(*parts) for parts in (same, *others)}

    assert len(digests) == 1 + len(others)
    assert {len(digest) for digest in digests} == {8}


def test_a_seal_is_over_the_history_and_the_deliverable() -> None:
    """Of the last edge, the outcome, the body and its time."""
    same = (b"last", "completed", b"body", 100.0)
    others = [
        (b"other", "completed", b"body", 100.0),
        (b"last", "failed", b"body", 100.0),
        (b"last", "complete", b"dbody", 100.0),
        (b"last", "completed", b"", 100.0),
        (b"last", "completed", b"body", 100.5),
    ]
    seals = {sealed(*parts) for parts in (same, *others)}

    assert len(seals) == 1 + len(others)
    assert {len(seal) for seal in seals} == {16}


def test_digests_are_the_same_in_every_version() -> None:
    """They stand in stores: a version that computed others would find every older store damaged."""

    assert chained(b"", 7, "steered", 100.0, b"detail").hex() == "c5ea0cd57ff6b25d"
    assert sealed(b"last", "completed", b"body", 100.0).hex() == "25fef96a537a6170063669d3bfc83f30"


# ---------------------------------------------------------------- late duplicates


async def of_sqlite(folder: Path, points: list[list[Record]]) -> list[Edge]:
    """Return the turn's edges after these points, as SQLite's store has them."""
    store = SqliteStore(folder / "agents.db", synchronous="OFF", store_id="a1b2", created_at=100.0)
    return await written(store, points)


async def written(store: Store, points: list[list[Record]]) -> list[Edge]:
    """Write each point by itself, and return the turn's edges; its row must have the last one's digest."""
    await store.open()
    try:
        for point in points:
            assert await store.apply([point]) == {}
        found, row = await store.edges(7), await store.turn(7)
    finally:
        await store.close()
    assert row is not None
    assert (row.edges, row.digest) == (len(found), found[-1].digest)
    return found


def late(at: float) -> list[Record]:
    """Return what a duplicate of a turn that nobody holds in memory writes."""
    return lifecycle.drop_duplicate(None, 7, 7, at)[1]


@pytest.mark.parametrize("size", [1, 20_000], ids=["small", "spilled"])
@pytest.mark.parametrize("ends", [False, True], ids=["live", "over"])
async def test_late_duplicates_are_chained_in_sqlite_exactly_as_in_memory(
    tmp_path: Path, size: int, ends: bool
) -> None:
    """The store finds the edge before by itself: in SQL the one, in a dict the other, and here it is known."""
    change = lifecycle.suspend(RUNNING.row, Suspended("x" * size, 900.0), 101.0)
    points = [*WORLD, change.records]
    if ends:
        change = lifecycle.end(change.row, EdgeKind.TURN_FAILED, encode_failure(Failure("Error", "x" * size)), 102.0)
        points.append(change.records)
    points += [late(103.0), late(103.0), late(104.5)]
    in_sqlite, in_memory = await of_sqlite(tmp_path, points), await written(MemoryStore(Disk()), points)

    digest = change.row.digest
    for edge, at in zip(in_sqlite[-3:], (103.0, 103.0, 104.5), strict=True):
        digest = chained(digest, 7, "duplicate_dropped", at, b"")
        assert edge.digest == digest
    assert in_sqlite == in_memory


@settings(deadline=None, max_examples=25)
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=12))
def test_whoever_appends_an_edge_the_next_one_chains_to_it(times: list[float | None]) -> None:
    """Duplicates that come while the turn is in memory (None) and while it is not, in any order and at any time."""
    row, points = RUNNING.row, list(WORLD)
    for at in times:
        dropped, records = lifecycle.drop_duplicate(row if at is None else None, 7, 7, 101.0 if at is None else at)
        digest = chained(row.digest, 7, "duplicate_dropped", 101.0 if at is None else at, b"")
        row = dropped or msgspec.structs.replace(row, edges=row.edges + 1, digest=digest)
        points.append(records)

    async def compared() -> None:
        with tempfile.TemporaryDirectory() as folder:
            in_sqlite, in_memory = await of_sqlite(Path(folder), points), await written(MemoryStore(Disk()), points)
        assert in_sqlite == in_memory
        assert (len(in_sqlite), in_sqlite[-1].digest) == (row.edges, row.digest)

    asyncio.run(compared())


# ---------------------------------------------------------------- a value that is not what was written


@tool(effect=Effect.EFFECTFUL)
async def act(text: str) -> str:
    return text


@agent("play", retry=Retry(retries_max=0))
async def play(turn: Turn) -> str:
    if turn.input == "fail":
        raise ValueError("no such order")
    if turn.input == "wait":
        await asyncio.Event().wait()
    await turn.step("look", lambda: 1)
    return await turn.call(act, turn.input)


async def lived(path: Path) -> None:
    """Leave a store with a turn that completed, one that failed, one that waits, and a duplicate of each sort."""
    for _ in range(2):
        async with Runtime(path, [play], settings=FAST) as runtime:
            with anyio.fail_after(5):
                await runtime.ask("done", "play", "long " * 20, key="one")
                await runtime.ask("failed", "play", "fail", key="two")
            await runtime.tell("waits", "play", "wait", key="three")
            await until(lambda: runtime.statistics().running == 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store, in which a hundred bytes are too large for a row, and which nothing guards any more."""
    path = tmp_path_factory.mktemp("store") / "agents.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_SPILLED_FROM_BYTES", 100)
        asyncio.run(lived(path))
    check_invariants(path)
    assert audit(path).violations == []
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TRIGGER edges_never_change; PRAGMA journal_mode = DELETE")
    return path


def rules(path: Path) -> set[str]:
    """Return what an audit finds, but for the guard that the fixture has taken away."""
    return {found.rule for found in audit(path).violations if found.where != "edges_never_change"}


VALUES = {
    "edges": ("edge_id", ("kind", "at", "detail", "digest")),
    "deliverables": ("turn_id", ("outcome", "body", "at")),
    "turns": ("turn_id", ("digest",)),
    "blobs": ("blob_id", ("body",)),
}


def changed(value: object) -> Iterator[object]:
    """Yield a value with each of its bytes changed, one at a time."""
    match value:
        case float():
            encoded, decode = struct.pack(">d", value), lambda raw: struct.unpack(">d", raw)[0]
        case str():
            encoded, decode = value.encode(), bytes.decode
        case _:
            assert isinstance(value, bytes)
            encoded, decode = value, bytes
    for place in range(len(encoded)):
        yield decode(encoded[:place] + bytes([encoded[place] ^ 1]) + encoded[place + 1 :])


@pytest.mark.parametrize(("table", "column"), [(table, column) for table in VALUES for column in VALUES[table][1]])
def test_whichever_byte_of_a_history_is_changed_an_audit_finds_it(store: Path, table: str, column: str) -> None:
    """Every byte of every row, one after another; and nothing is left of the finding once it is put back."""
    key = VALUES[table][0]
    unnoticed, tried = [], 0
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.executescript("PRAGMA synchronous = OFF; PRAGMA ignore_check_constraints = ON")
        update = f"UPDATE {table} SET {column} = ? WHERE {key} = ?"
        select = f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"
        for number, value in connection.execute(select).fetchall():
            for place, other in enumerate(changed(value)):
                tried += 1
                connection.execute(update, (other, number))
                if "digests" not in rules(store):
                    unnoticed.append((number, place))
            connection.execute(update, (value, number))

    assert tried
    assert unnoticed == []
    assert rules(store) == set()


@pytest.mark.parametrize(
    "lost",
    [
        "UPDATE turns SET digest = NULL WHERE state = 'completed'",
        "UPDATE edges SET digest = x'' WHERE kind = 'turn_completed'",
        "UPDATE edges SET digest = x'' WHERE ordinal = 0",
        "UPDATE edges SET digest = x'' WHERE kind = 'duplicate_dropped'",
        "DELETE FROM blobs WHERE ordinal = -1",
        "UPDATE blobs SET ordinal = ordinal + 100",
    ],
)
def test_a_digest_or_a_large_value_that_is_lost_is_found(store: Path, tmp_path: Path, lost: str) -> None:
    """Whatever is gone, its neighbours miss it."""
    copy = Path(shutil.copy(store, tmp_path / "agents.db"))
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        assert connection.execute(lost).rowcount > 0

    assert "digests" in rules(copy)
