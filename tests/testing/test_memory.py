"""The store in memory: it answers as SQLite's does, to anything; what a crash leaves; how fast it is about it."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mischief import KEYS, NAMES, PATHS, PAYLOAD, Mischief, Traffic

from turnkeeper.actors.store.batch import ORDER
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel import lifecycle, records
from turnkeeper.kernel.edge import EdgeKind
from turnkeeper.kernel.errors import (
    DeliverableRecorded,
    KeyTaken,
    LeaseHeld,
    StaleEpoch,
    StorageFailed,
    StoreInUse,
    TurnkeeperError,
    TurnNotFound,
    VersionConflict,
)
from turnkeeper.kernel.history import Tally, check_rows
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import ActorOpened, EdgeAppended, NodeStarted, Record
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.kept import check_noted
from turnkeeper.kernel.supervision.noted import verb_noted
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import WaitKind
from turnkeeper.testing.memory import Disk, MemoryStore

REFUSALS = [
    DeliverableRecorded,
    KeyTaken,
    LeaseHeld,
    StaleEpoch,
    StorageFailed,
    TurnNotFound,
    VersionConflict,
]
SEEDS = range(60)
BATCHES = 40


# ---------------------------------------------------------------- the same answers as SQLite


def facts(error: TurnkeeperError) -> tuple[object, ...]:
    """Return what an error says, but for the database's own words."""
    said = vars(error)
    if isinstance(error, StorageFailed):
        said = {**said, "reason": error.reason.split(":")[0]}
    return type(error), said


def told(rejected: Mapping[int, TurnkeeperError]) -> dict[int, tuple[object, ...]]:
    return {number: facts(error) for number, error in rejected.items()}


async def as_sqlite(store: MemoryStore, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
    """Apply points in SQLite's two ways: all sorted by kind if that passes, otherwise one after another."""
    together = sorted((record for point in points for record in point), key=lambda record: ORDER.index(type(record)))
    if not await store.apply([together]):
        return {}
    return await store.apply(points)


def stored(path: Path) -> dict[str, list[Any]]:
    """Return every row of every table of a file."""
    tables = ("nodes", "actors", "turns", "receipts", "edges", "deliverables", "signals", "handoffs", "states")
    asked = {name: f"SELECT * FROM {name} ORDER BY 1" for name in (*tables, "desired", "child_events")}
    asked["waits"] = "SELECT turn_id, issued, kind, due_at, child_id FROM waits ORDER BY turn_id, issued"
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(sql).fetchall() for name, sql in asked.items()}


def held(disk: Disk) -> dict[str, list[Any]]:
    """Return the same of a disk."""
    row = msgspec.structs.astuple
    edges = sorted((number, edge) for of_turn in disk.edges.values() for number, edge in of_turn.values())
    return {
        "nodes": [row(node) for _, node in sorted(disk.nodes.items())],
        "actors": [(number, *address) for number, address in sorted(disk.actors.items())],
        "turns": [row(turn) for _, turn in sorted(disk.turns.items())],
        "receipts": [
            (*row(receipt)[:5], receipt.duplicate_count, *row(receipt)[5:8], receipt.retired, receipt.arrived)
            for _, receipt in sorted(disk.receipts.items())
        ],
        "edges": [(number, *row(edge)) for number, edge in edges],
        "deliverables": [row(deliverable) for _, deliverable in sorted(disk.deliverables.items())],
        "states": [row(state) for _, state in sorted(disk.states.items())],
        "waits": [(one.turn_id, one.issued, one.kind, one.due_at, one.child_id) for one in disk.stood()],
        "signals": [(*row(sent), *later) for _, (sent, *later) in sorted(disk.signals.items())],
        "handoffs": [row(handoff) for _, handoff in sorted(disk.handoffs.items())],
        "desired": [tuple(row) for row in disk.wanted()],
        "child_events": [tuple(event) for event in disk.child_events()],
    }


def shown(rows: Rows) -> list[object]:
    """Return everything that a reader sees, and every rule that it breaks."""
    seen: list[object] = []
    for session in rows.sessions():
        seen += [session, rows.state(session.actor_id)]
        for turn in rows.turns(session.actor_id):
            row = counted(turn.row)
            seen += [row, *turn[1:], rows.edges(row.turn_id), rows.deliverable(row.turn_id)]
            seen += [rows.joined(row.turn_id), rows.stands(row.turn_id)]
    seen += [list(rows.signals()), rows.live(), rows.running()]
    seen += [rows.waits(kind, after, 5) for kind in WaitKind for after in ((-1, -1), (3, 2))]
    seen += [
        rows.waits(WaitKind.TIMER, (-1, -1), 50, tenant="", session_id=f"session-{number}") for number in range(1, 4)
    ]
    violations = {(found.rule, found.where) for found in check_rows(rows, Tally())}
    violations |= {(found.rule, found.where) for found in check_noted(rows)}
    seen += [list(rows.desired()), list(rows.child_events()), list(rows.child_events(PATHS[0], 2, 3))]
    return [*seen, sorted(rows.orphans()), sorted(violations)]


async def answers(store: Store, last: int) -> list[object]:
    """Return what a store answers to its own runtime."""
    waiting = store.waiting
    of_actors = [await store.live_turns_of(actor_id) for actor_id in range(1, 4)]
    paged = await store.live_turns_after(1, 5, 4)
    said: list[object] = [
        [msgspec.structs.replace(live, row=counted(live.row)) for live in found]
        for found in (await store.live_turns(), await store.awake_turns(), *of_actors, paged)
    ]
    for number in range(1, last + 2):
        row = await store.turn(number)
        said += [row and counted(row), await store.deliverable(number)]
        said += [await waiting.waits(number), await waiting.live_children(number), await waiting.address_of(number)]
    for actor_id in range(1, 4):
        said += [await store.receipt(actor_id, key) for key in KEYS]
        said += [await store.actor_id(Address("", f"session-{actor_id}", "billing")), await store.state(actor_id)]
        said += [await waiting.signal(actor_id, key) for key in KEYS]
        said += [await waiting.waiting_signal(actor_id, name) for name in NAMES]
        said += [await waiting.signals_waiting(actor_id), await waiting.live_turns_in("", f"session-{actor_id}")]
        said += [await waiting.handoffs("", f"session-{actor_id}", name, "billing") for name in NAMES]
    said += [await waiting.suspended_count(), await waiting.answered_children(), await waiting.orphaned_children()]
    said += [await waiting.signalled_turns(), await waiting.due_turns((-1e9, 0), 1e9, 2)]
    said += [await waiting.due_turns((due_at, 3), 700.0, 50) for due_at in (0.0, 300.0, 600.0)]
    said += [await waiting.next_due(due_at) for due_at in (0.0, 300.0, 600.0, 1e9)]
    said.append(await store.happened(0, 1_000_000))
    said += [await store.happened(since, 7) for since in range(0, 50, 5)]
    said += [await store.desired(), await store.child_events()]
    said += [await store.child_events(path, 3, 4) for path in PATHS]
    return said


def counted(row: TurnRow) -> TurnRow:
    """Return a row whose edges are a number where there are none: a turn whose inbound was lost on the way."""
    return msgspec.structs.replace(row, edges=row.edges or 0)


async def test_what_is_submitted_is_of_every_sort() -> None:
    """Each kind of record is written, and each error is met in it, many times."""
    met: Counter[object] = Counter()
    for seed in SEEDS:
        mischief, disk = Mischief(seed), Disk()
        memory = MemoryStore(disk)
        await memory.open()
        for _ in range(BATCHES):
            points = mischief.batch()
            refused = await as_sqlite(memory, points)
            met.update(type(error) for error in refused.values())
            met.update(type(r) for number, point in enumerate(points) if number not in refused for r in point)
            mischief.traffic.believe(disk)

    assert min(met[sort] for sort in (*ORDER, *REFUSALS)) >= 5, met
    assert met[EdgeAppended] > 4000


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_is_submitted_memory_answers_as_sqlite_does(seed: int, path: Path) -> None:
    """Stale, bent, doubled and disordered points, in batches: the same refusals, and the same rows to the last id."""
    mischief = Mischief(seed)
    sqlite, disk = SqliteStore(path, synchronous="OFF", store_id="disk", created_at=100.0), Disk()
    memory = MemoryStore(disk)
    await sqlite.open()
    await memory.open()
    try:
        for number in range(BATCHES):
            points = mischief.batch()
            refused = told(await as_sqlite(memory, points))
            assert told(await sqlite.apply(points)) == refused, f"batch {number}: {points}"
            mischief.traffic.believe(disk)
            assert stored(path) == held(disk), f"batch {number}: {points}"
        assert await answers(sqlite, mischief.traffic.turn_id) == await answers(memory, mischief.traffic.turn_id)
        assert await sqlite.look(shown) == await memory.look(shown)
        for ended_before, now, limit in ((102.0, 1e9, 9), (103.0, 199.0, 9), (103.0, 200.0, 3), (1e9, 1e9, 1_000)):
            pruned = await sqlite.prune(ended_before, now, limit)
            assert pruned == await memory.prune(ended_before, now, limit)
            assert stored(path) == held(disk), f"{pruned} turns pruned"
    finally:
        await sqlite.close()
        await memory.close()
    assert await sqlite.open() == await memory.open()
    await sqlite.close()


async def test_lawful_points_need_no_second_way(path: Path) -> None:
    """What runtimes submit, stale and repeated points with it, is in SQLite's batches what it is one by one."""
    for seed in range(20):
        traffic, disk = Traffic(1000 + seed), Disk()
        file = path.with_name(f"{seed}.db")
        sqlite, memory = SqliteStore(file, synchronous="OFF", store_id="disk", created_at=100.0), MemoryStore(disk)
        await sqlite.open()
        await memory.open()
        try:
            for _ in range(BATCHES):
                points = [
                    traffic.stale() if traffic.chance.random() < 0.1 else traffic.point()
                    for _ in range(traffic.chance.choice([1, 2, 5, 8]))
                ]
                assert told(await sqlite.apply(points)) == told(await memory.apply(points)), f"seed {seed}: {points}"
                traffic.believe(disk)
        finally:
            await sqlite.close()
            await memory.close()
        on_file, on_disk = stored(file), held(disk)
        for rows in (on_file, on_disk):
            rows["edges"] = sorted(row[1:] for row in rows["edges"])  # late edges get their number last in a batch

        assert on_file == on_disk
        assert list(check_rows(disk.rows(), Tally())) == []


# ---------------------------------------------------------------- what is the disk's, and what the process's

ARRIVAL = Arrival(1, 1, "key", PAYLOAD, payload_digest(PAYLOAD), 100.0, 200.0)
RUNNING = lifecycle.accept(ARRIVAL, Lease(1, 145.0))
WORLD = [[NodeStarted(1, 4242, 100.0, 145.0)], [ActorOpened(1, "", "s", "a")], RUNNING.records]
ENDED = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 101.0)


class Pauses:
    """A pause that counts, and does something in the n-th."""

    def __init__(self) -> None:
        self.count = 0
        self.then: Mapping[int, Callable[[], None]] = {}

    async def __call__(self) -> None:
        self.count += 1
        self.then.get(self.count, lambda: None)()


async def opened(disk: Disk, pauses: Pauses | None = None) -> MemoryStore:
    store = MemoryStore(disk, pause=pauses)
    await store.open()
    return store


async def test_a_store_pauses_before_a_commit_after_it_and_before_each_read() -> None:
    """So a schedule decides what happens meanwhile; opening and closing take no time."""
    disk, pauses = Disk(), Pauses()
    store = await opened(disk, pauses)
    seen: list[tuple[int, int]] = []
    pauses.then = {number: lambda: seen.append((pauses.count, len(disk.turns))) for number in (1, 2)}
    assert await store.apply(WORLD) == {}
    assert seen == [(1, 0), (2, 1)]
    await store.turn(1)
    await store.edges(1)
    await store.deliverable(1)
    await store.receipt(1, "key")
    await store.actor_id(Address("", "s", "a"))
    await store.live_turns()
    await store.close()

    assert pauses.count == 8


@pytest.mark.parametrize(("moment", "stands"), [(1, False), (2, True)])
async def test_a_commit_cut_off_by_death_stands_or_does_not_and_is_never_answered(moment: int, stands: bool) -> None:
    """Killed before it: nothing of it. Killed after it: all of it. Nobody hears of either."""
    disk, pauses = Disk(), Pauses()
    store = await opened(disk, pauses)
    pauses.then = {moment: store.die}
    with pytest.raises(StorageFailed, match="killed"):
        await store.apply(WORLD)
    again = await opened(disk)

    assert (await again.turn(1) == RUNNING.row) is stands
    assert len(await again.live_turns()) == stands


async def test_a_read_cut_off_by_death_is_not_answered() -> None:
    """What a killed process asked for reaches nobody."""
    disk, pauses = Disk(), Pauses()
    store = await opened(disk, pauses)
    pauses.then = {1: store.die}

    with pytest.raises(StorageFailed, match="killed"):
        await store.turn(1)


async def test_a_disk_is_free_at_once_after_death_and_the_dead_do_not_come_back() -> None:
    """The next owner keeps it, whatever the dead one's last words are."""
    disk = Disk()
    dead = await opened(disk)
    assert await dead.apply(WORLD) == {}
    dead.die()
    dead.die()
    owner = await opened(disk)
    await dead.close()
    for call in (dead.open(), dead.apply([ENDED.records]), dead.turn(1), dead.live_turns()):
        with pytest.raises(StorageFailed, match="killed"):
            await call

    assert await owner.turn(1) == RUNNING.row
    with pytest.raises(StoreInUse):
        await opened(disk)


async def test_a_commit_overtaken_by_the_close_of_its_store_does_not_land() -> None:
    """The disk may have its next owner by then."""
    disk, pauses = Disk(), Pauses()
    store = await opened(disk, pauses)
    pauses.then = {1: lambda: setattr(disk, "owner", None)}

    with pytest.raises(StorageFailed, match="closed"):
        await store.apply(WORLD)
    assert disk.turns == {}


async def test_a_bug_of_the_caller_leaves_no_half_of_its_batch() -> None:
    """What is no record ends the call, not the disk."""
    disk = Disk()
    store = await opened(disk)
    empty = disk.digest()
    with pytest.raises(KeyError):
        await store.apply([*WORLD, [ActorOpened(2, "", "t", "a"), "no record"]])  # type: ignore[list-item]

    assert disk.digest() == empty


# ---------------------------------------------------------------- digest and rows


async def test_disks_with_the_same_rows_have_the_same_digest_and_others_have_another() -> None:
    """How the rows came there does not matter; one more edge does; a process id does not."""
    one, other = Disk(), Disk()
    first, second = await opened(one), await opened(other)
    await first.apply(WORLD)
    await second.apply([[NodeStarted(1, 99, 50.0, 145.0)]])
    for point in WORLD:
        await second.apply([point])
    alike = one.digest() == other.digest()
    await second.apply([ENDED.records])
    paused = one.digest()
    await first.apply([verb_noted("agents/a", Desired.RUNNING, Verb.PAUSE, at=1.0, boot_id=1)[1]])

    assert alike
    assert one.digest() != paused
    assert one.digest() != other.digest()
    assert len(one.digest()) == len(bytes.fromhex(one.digest())) * 2


async def test_the_rows_of_a_disk_can_be_checked() -> None:
    """Clean where all is lawful; a broken rule is found."""
    disk = Disk()
    store = await opened(disk)
    await store.apply([*WORLD, ENDED.records])
    tally = Tally()
    clean = list(check_rows(disk.rows(), tally))
    await store.apply([[records.TurnInserted(9, 1, "queued", 0, 1, 1, None)]])

    assert clean == []
    assert (tally.actors, tally.turns, tally.edges, tally.live) == (1, 1, 3, 0)
    assert {found.rule for found in check_rows(disk.rows(), Tally())} == {"no orphans", "legal transitions"}
