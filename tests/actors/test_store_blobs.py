"""Blobs: a value too large for its row stands in a table of its own, and nobody who reads can tell."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from looking import dump, rows

from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind, Requeued, StepResult, encode_detail
from turnkeeper.kernel.errors import DeliverableRecorded, StaleEpoch, TurnkeeperError, VersionConflict
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Change
from turnkeeper.kernel.records import ActorOpened, NodeStarted, Record
from turnkeeper.kernel.turn import TurnRow

FROM_BYTES = 16_384
"""Four pages: from here on a value leaves its row."""

RUNNING = lifecycle.accept(Arrival(7, 2, "key", b"\x01", b"digest", 100.0, 200.0), Lease(1, 145.0))
WORLD: list[list[Record]] = [[NodeStarted(1, 4242, 100.0, 145.0)], [ActorOpened(2, "", "s", "play")], RUNNING.records]


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """A store with one running turn."""
    opened = SqliteStore(path, synchronous="OFF", store_id="a1b2", created_at=100.0)
    await opened.open()
    assert await opened.apply(WORLD) == {}
    yield opened
    await opened.close()


def binary(size: int) -> bytes:
    """Return msgpack of this size: one value of raw bytes, with every byte there is in it."""
    content = size - 5
    return b"\xc6" + content.to_bytes(4, "big") + (bytes(range(256)) * (content // 256 + 1))[:content]


def observed(size: int, row: TurnRow = RUNNING.row) -> Change:
    """Return a step's result whose edge has a detail of this size."""
    beside = len(encode_detail(StepResult(0, "look", "#0", msgspec.Raw(b"\xc0")))) - 1
    result = StepResult(0, "look", "#0", msgspec.Raw(binary(size - beside)))
    return lifecycle.observe(row, EdgeKind.STEP_SUCCEEDED, result, 101.0)


@pytest.mark.parametrize("size", [FROM_BYTES - 1, FROM_BYTES, FROM_BYTES + 1, 1_000_000])
async def test_a_value_of_any_size_comes_back_as_it_was_written(store: SqliteStore, path: Path, size: int) -> None:
    """From the store and from a reader; the row of a large one holds a byte in its place."""
    change = observed(size)
    ended = lifecycle.end(change.row, EdgeKind.TURN_COMPLETED, binary(size), 102.0)
    assert await store.apply([change.records, ended.records]) == {}
    with Reader(path) as reader:
        read = [numbered.edge.detail for numbered in reader.edges(7)], reader.deliverable(7)
    found = [edge.detail for edge in await store.edges(7)], await store.deliverable(7)
    in_row = 1 if size >= FROM_BYTES else size

    assert found == read
    assert (found[0][2], found[1]) == (change.records[0].detail, ended.records[0])
    assert rows(path, "SELECT length(detail) FROM edges WHERE ordinal = 2") == [(in_row,)]
    assert rows(path, "SELECT length(body) FROM deliverables") == [(in_row,)]
    assert rows(path, "SELECT turn_id, ordinal, length(body) FROM blobs ORDER BY ordinal") == (
        [(7, -1, size), (7, 2, size)] if in_row == 1 else []
    )


ENDED = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, binary(FROM_BYTES), 102.0)
REFUSED: dict[str, tuple[list[list[Record]], list[Record], type[TurnkeeperError]]] = {
    "an edge of an epoch that is over": (
        [lifecycle.requeue(RUNNING.row, Requeued("recovery"), 101.0).records],
        observed(FROM_BYTES).records,
        StaleEpoch,
    ),
    "a second edge in one place": ([observed(100).records], observed(FROM_BYTES).records, VersionConflict),
    "a second large edge in one place": (
        [observed(FROM_BYTES).records],
        observed(FROM_BYTES + 1).records,
        VersionConflict,
    ),
    "a second deliverable": ([ENDED.records], [ENDED.records[0]], DeliverableRecorded),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_nothing_is_left_of_a_large_value_that_is_refused(store: SqliteStore, path: Path, what: str) -> None:
    """Alone and in a batch with others: the reason is that of its row, and no blob stands without one."""
    before, refused, error = REFUSED[what]
    assert await store.apply(before) == {}
    stood = dump(path)

    for batch in ([refused], [refused, refused]):
        assert {type(found) for found in (await store.apply(batch)).values()} == {error}
        assert dump(path) == stood


async def test_only_the_guilty_large_value_of_a_batch_is_refused(store: SqliteStore, path: Path) -> None:
    """The others stand as if it had never been there."""
    good = observed(FROM_BYTES)
    next_one = observed(FROM_BYTES, good.row)
    rejected = await store.apply([good.records, good.records, next_one.records])

    assert {number: type(error) for number, error in rejected.items()} == {1: VersionConflict}
    assert rows(path, "SELECT ordinal FROM blobs ORDER BY ordinal") == [(2,), (3,)]
    assert [edge.detail for edge in await store.edges(7)][2:] == [good.records[0].detail, next_one.records[0].detail]
