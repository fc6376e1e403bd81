"""The persistence actor: order, batches, refusals, a full disk, and that everyone is answered exactly once."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from turnkeeper.actors.persistence import Persistence, PersistenceStatistics, Told
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind, Requeued
from turnkeeper.kernel.errors import KeyTaken, MailboxFull, ShuttingDown, StaleEpoch, StorageFailed, TurnkeeperError
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Change
from turnkeeper.kernel.records import ActorOpened, NodeStarted, Record

LEASE = Lease(1, 145.0)
ACTOR = 10


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """An open store with one node and one actor."""
    opened = SqliteStore(path, synchronous="OFF", store_id="a1b2", created_at=100.0)
    await opened.open()
    assert await opened.apply([[NodeStarted(1, 4242, 100.0, 145.0)], [ActorOpened(ACTOR, "", "s", "a")]]) == {}
    yield opened
    await opened.close()


def inbound(turn_id: int, key: str | None = None, *, lease: Lease | None = None, size: int = 1) -> Change:
    """Return the acceptance of an inbound whose payload has about this many bytes."""
    payload = msgspec.msgpack.encode(b"x" * size)
    return lifecycle.accept(Arrival(turn_id, ACTOR, key or f"key-{turn_id}", payload, b"digest", 100.0, 200.0), lease)


class Answers:
    """What callers were told, in the order in which they were."""

    def __init__(self) -> None:
        self.told: list[tuple[int, TurnkeeperError | None]] = []

    def submit(self, persistence: Persistence, numbers: Sequence[int], *, size: int = 1) -> None:
        """Submit an inbound for each number, without waiting."""
        for number in numbers:
            persistence.submit(inbound(number, size=size).records, self.told_to(number))

    def told_to(self, number: int) -> Told:
        return lambda error: self.told.append((number, error))

    @property
    def good(self) -> list[int]:
        """Return whose point stands."""
        return [number for number, error in self.told if error is None]

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.told]

    @property
    def failures(self) -> dict[int, TurnkeeperError]:
        return {number: error for number, error in self.told if error is not None}


async def drained(persistence: Persistence) -> PersistenceStatistics:
    """Let the writer write what waits and end; return what it has done."""
    persistence.close()
    with anyio.fail_after(10):
        await persistence.run()
    return persistence.statistics()


@asynccontextmanager
async def running(persistence: Persistence) -> AsyncIterator[None]:
    """Let the writer write beside the test, and end with it."""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(persistence.run)
            yield
            persistence.close()


async def stand(store: SqliteStore, numbers: Sequence[int]) -> list[int]:
    """Return which of these turns the store holds."""
    return [number for number in numbers if await store.turn(number) is not None]


class Gated(SqliteStore):
    """A store whose batches wait at a gate: what is written is real, when it is written the test says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, synchronous="OFF", store_id="a1b2", created_at=100.0)
        self.gate = anyio.Event()
        self.arrived = anyio.Event()
        self.batches: list[int] = []

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        self.batches.append(len(points))
        self.arrived.set()
        await self.gate.wait()
        return await super().apply(points)


@pytest.fixture
async def gated(store: SqliteStore, path: Path) -> AsyncIterator[Gated]:
    """The same store, behind a gate."""
    await store.close()
    opened = Gated(path)
    await opened.open()
    yield opened
    await opened.close()


class Crashing(SqliteStore):
    """A store with a bug: its second batch raises what no store may raise."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, synchronous="OFF", store_id="a1b2", created_at=100.0)
        self.batches = 0

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        self.batches += 1
        if self.batches > 1:
            raise ZeroDivisionError
        return await super().apply(points)


# ---------------------------------------------------------------- order and batches


async def test_nothing_is_told_before_it_stands(gated: Gated) -> None:
    """The answer comes after the commit, and then the store has it."""
    persistence, answers = Persistence(gated, batch_max=10, waiting_max=100), Answers()
    async with running(persistence):
        answers.submit(persistence, [1])
        await gated.arrived.wait()
        await anyio.wait_all_tasks_blocked()
        before = list(answers.told)
        gated.gate.set()

    assert before == []
    assert answers.told == [(1, None)]
    assert await stand(gated, [1]) == [1]


async def test_one_batch_holds_everything_that_waits(store: SqliteStore) -> None:
    """Queue depth is the batch size: a hundred callers share one transaction."""
    persistence, answers = Persistence(store, batch_max=1_024, waiting_max=1_000), Answers()
    answers.submit(persistence, range(1, 101))
    done = await drained(persistence)

    assert done == PersistenceStatistics(
        commits=1, points=100, points_rejected=0, batch_largest=100, waiting=0, failing=""
    )
    assert answers.told == [(number, None) for number in range(1, 101)]


async def test_what_comes_while_a_batch_is_written_makes_up_the_next_one(gated: Gated) -> None:
    """One batch is in flight at a time, and the disk's slowness makes batches bigger, not more."""
    persistence, answers = Persistence(gated, batch_max=1_024, waiting_max=1_000), Answers()
    async with running(persistence):
        answers.submit(persistence, [1])
        await gated.arrived.wait()
        answers.submit(persistence, range(2, 52))
        assert persistence.statistics().waiting == 50
        gated.gate.set()

    assert gated.batches == [1, 50]
    assert answers.numbers == list(range(1, 52))


async def test_a_batch_holds_at_most_batch_max(store: SqliteStore) -> None:
    """Ten points in batches of four are three transactions, in order."""
    persistence, answers = Persistence(store, batch_max=4, waiting_max=100), Answers()
    answers.submit(persistence, range(1, 11))
    done = await drained(persistence)

    assert (done.commits, done.points, done.batch_largest) == (3, 10, 4)
    assert answers.told == [(number, None) for number in range(1, 11)]


@pytest.mark.parametrize("batch_max", [1, 3, 1_024])
async def test_points_become_durable_in_the_order_of_their_submission(store: SqliteStore, batch_max: int) -> None:
    """Each move of one turn is guarded by the one before it: in any other order they would be refused."""
    persistence, answers = Persistence(store, batch_max=batch_max, waiting_max=100), Answers()
    change = inbound(1, lease=LEASE)
    for number in range(20):
        persistence.submit(change.records, answers.told_to(number))
        requeue = number % 2 == 0
        change = (
            lifecycle.requeue(change.row, Requeued("retry"), 101.0)
            if requeue
            else lifecycle.acquire(change.row, LEASE, 101.0)
        )
    await drained(persistence)

    assert answers.told == [(number, None) for number in range(20)]
    assert [edge.ordinal for edge in await store.edges(1)] == list(range(21))


async def test_callers_are_told_in_the_order_of_submission_before_any_of_them_goes_on(store: SqliteStore) -> None:
    """A callback of the batch runs before a task that waits for the same batch is resumed."""
    persistence, answers = Persistence(store, batch_max=100, waiting_max=100), Answers()

    async def wait_for(number: int) -> None:
        await persistence.commit(inbound(number).records)
        answers.told.append((1_000 + number, None))

    async with anyio.create_task_group() as group:
        group.start_soon(wait_for, 1)
        group.start_soon(wait_for, 2)
        await anyio.wait_all_tasks_blocked()
        answers.submit(persistence, [3, 4])
        await drained(persistence)

    assert answers.numbers == [3, 4, 1_001, 1_002]


async def test_what_a_caller_says_when_it_goes_on_rides_in_the_very_next_batch(gated: Gated) -> None:
    """Whoever was resumed speaks before the next batch is taken, though others wait already."""
    persistence, answers = Persistence(gated, batch_max=100, waiting_max=100), Answers()

    async def two_in_a_row(number: int) -> None:
        await persistence.commit(inbound(number).records)
        await persistence.commit(inbound(100 + number).records)
        answers.told.append((number, None))

    async with running(persistence), anyio.create_task_group() as callers:
        for number in range(1, 11):
            callers.start_soon(two_in_a_row, number)
        await gated.arrived.wait()
        answers.submit(persistence, [200])
        gated.gate.set()

    assert sorted(answers.good) == [*range(1, 11), 200]
    assert gated.batches == [10, 11]
    assert persistence.statistics().commits == 2


# ---------------------------------------------------------------- refusals and cancellation


async def test_only_the_guilty_point_of_a_batch_is_refused(store: SqliteStore) -> None:
    """Its caller gets the reason, its neighbours their commit, and the count says so."""
    persistence, answers = Persistence(store, batch_max=100, waiting_max=100), Answers()
    answers.submit(persistence, [1, 2])
    persistence.submit(inbound(3, key="key-1").records, answers.told_to(3))
    stale = lifecycle.observe(inbound(2, lease=LEASE).row, EdgeKind.MODEL_ATTEMPT, None, 101.0)
    persistence.submit(stale.records, answers.told_to(4))
    answers.submit(persistence, [5])
    done = await drained(persistence)

    assert answers.numbers == [1, 2, 3, 4, 5]
    assert answers.good == [1, 2, 5]
    assert {number: type(error) for number, error in answers.failures.items()} == {3: KeyTaken, 4: StaleEpoch}
    assert await stand(store, range(1, 6)) == [1, 2, 5]
    assert (done.commits, done.points, done.points_rejected) == (1, 5, 2)


async def test_a_refused_commit_raises_at_its_caller(store: SqliteStore) -> None:
    """`commit` waits, and raises what was said of its point."""
    persistence = Persistence(store, batch_max=100, waiting_max=100)
    async with running(persistence):
        await persistence.commit(inbound(1).records)
        with pytest.raises(KeyTaken):
            await persistence.commit(inbound(2, key="key-1").records)

    assert await stand(store, [1, 2]) == [1]


async def test_the_write_of_a_cancelled_caller_stands_and_its_neighbours_are_untouched(gated: Gated) -> None:
    """Cancelling stops the waiting: one caller goes away before its batch is taken, one while it is written."""
    persistence = Persistence(gated, batch_max=100, waiting_max=100)
    callers = [asyncio.ensure_future(persistence.commit(inbound(number).records)) for number in range(1, 6)]
    await anyio.wait_all_tasks_blocked()
    callers[1].cancel()
    async with running(persistence):
        await gated.arrived.wait()
        callers[3].cancel()
        await anyio.wait_all_tasks_blocked()
        gated.gate.set()
        ended = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(end) for end in ended] == [
        type(None),
        asyncio.CancelledError,
        type(None),
        asyncio.CancelledError,
        type(None),
    ]
    assert await stand(gated, range(1, 6)) == [1, 2, 3, 4, 5]


async def test_a_refusal_that_nobody_waits_for_any_more_is_no_error(store: SqliteStore) -> None:
    """A caller that was cancelled is not told, and nobody is disturbed by it."""
    persistence = Persistence(store, batch_max=100, waiting_max=100)
    persistence.submit(inbound(1).records, lambda _: None)
    caller = asyncio.ensure_future(persistence.commit(inbound(2, key="key-1").records))
    await anyio.wait_all_tasks_blocked()
    caller.cancel()
    done = await drained(persistence)

    assert caller.cancelled()
    assert done.points_rejected == 1


# ---------------------------------------------------------------- room


async def test_new_work_is_refused_while_too_much_waits(store: SqliteStore) -> None:
    """Before anything is accepted; and there is room again as soon as something is written."""
    persistence, answers = Persistence(store, batch_max=100, waiting_max=2), Answers()
    persistence.check_room()
    answers.submit(persistence, [1])
    persistence.check_room()
    answers.submit(persistence, [2])
    with pytest.raises(MailboxFull) as refusal:
        persistence.check_room()
    await drained(persistence)
    persistence.check_room()

    assert (refusal.value.mailbox, refusal.value.mailbox_len_max) == ("persistence", 2)
    assert answers.good == [1, 2]


async def test_what_was_begun_is_written_even_where_there_is_no_room_for_more(store: SqliteStore) -> None:
    """The limit is for new work: the end of a running turn is never turned away."""
    persistence, answers = Persistence(store, batch_max=100, waiting_max=1), Answers()
    answers.submit(persistence, range(1, 6))
    await drained(persistence)

    assert answers.good == [1, 2, 3, 4, 5]


# ---------------------------------------------------------------- a full disk


async def limit_pages(store: SqliteStore, pages: int) -> None:
    """Let the database grow to so many pages and no further: SQLite then fails as on a full disk."""
    assert store._writer is not None
    await store._writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")


async def test_a_full_disk_fails_the_batch_and_everything_that_waits(store: SqliteStore) -> None:
    """Later points must not stand where earlier ones do not, so those that would fit fail too, unwritten."""
    await limit_pages(store, 1)  # it is raised to what is in use: not one page more
    persistence, answers = Persistence(store, batch_max=1, waiting_max=100), Answers()
    answers.submit(persistence, [1], size=100_000)
    answers.submit(persistence, [2, 3])
    done = await drained(persistence)

    assert answers.numbers == [1, 2, 3]
    assert {type(error) for error in answers.failures.values()} == {StorageFailed}
    assert "the disk is full" in str(answers.failures[1])
    assert len(answers.failures) == 3
    assert await stand(store, [1, 2, 3]) == []
    assert (done.commits, done.points, "full" in done.failing) == (0, 0, True)


async def test_a_full_disk_fails_all_points_of_its_batch_and_leaves_none_of_them(store: SqliteStore) -> None:
    """A batch is one transaction: the small ones before the big one are not there either."""
    await limit_pages(store, 1)
    persistence, answers = Persistence(store, batch_max=100, waiting_max=100), Answers()
    answers.submit(persistence, [1])
    answers.submit(persistence, [2], size=100_000)
    await drained(persistence)

    assert answers.numbers == [1, 2]
    assert len(answers.failures) == 2
    assert await stand(store, [1, 2]) == []


async def test_writing_goes_on_by_itself_once_there_is_room(store: SqliteStore) -> None:
    """The next submission tries again, on the same connection; reading never stopped."""
    persistence, answers = Persistence(store, batch_max=100, waiting_max=100), Answers()
    async with running(persistence):
        await persistence.commit(inbound(1).records)
        await limit_pages(store, 1)
        with pytest.raises(StorageFailed):
            await persistence.commit(inbound(2, size=100_000).records)
        assert persistence.statistics().failing
        assert await stand(store, [1, 2]) == [1]
        await limit_pages(store, 1_000_000)
        await persistence.commit(inbound(2, size=100_000).records)
        assert not persistence.statistics().failing
        answers.submit(persistence, [3])

    assert answers.good == [3]
    assert await stand(store, [1, 2, 3]) == [1, 2, 3]


async def test_a_batch_with_a_guilty_point_on_a_full_disk_fails_as_a_whole(store: SqliteStore) -> None:
    """Looking for the guilty one point by point runs out of room as well, and leaves nothing half-written."""
    await store.apply([inbound(1).records])
    await limit_pages(store, 1)
    persistence, answers = Persistence(store, batch_max=100, waiting_max=100), Answers()
    persistence.submit(inbound(2, key="key-1").records, answers.told_to(2))
    answers.submit(persistence, [3], size=100_000)
    await drained(persistence)

    assert {type(error) for error in answers.failures.values()} == {StorageFailed}
    assert await stand(store, [1, 2, 3]) == [1]


# ---------------------------------------------------------------- closing and crashing


async def test_close_writes_what_waits(store: SqliteStore) -> None:
    """Everything submitted before, and everything that its callbacks submit, in as many batches as it takes."""
    persistence, answers = Persistence(store, batch_max=2, waiting_max=100), Answers()
    answers.submit(persistence, [1, 2, 3])
    persistence.submit(inbound(4).records, lambda _: answers.submit(persistence, [5]))
    done = await drained(persistence)

    assert answers.good == [1, 2, 3, 5]
    assert await stand(store, range(1, 6)) == [1, 2, 3, 4, 5]
    assert done.waiting == 0


async def test_close_wakes_a_writer_that_has_nothing_to_do(store: SqliteStore) -> None:
    """An idle writer ends at once."""
    persistence = Persistence(store, batch_max=100, waiting_max=100)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(persistence.run)
            await anyio.wait_all_tasks_blocked()
            persistence.close()

    assert persistence.statistics().commits == 0


async def test_what_comes_after_the_end_is_answered_and_not_kept(store: SqliteStore) -> None:
    """Nobody waits for a writer that is not there."""
    persistence, answers = Persistence(store, batch_max=100, waiting_max=100), Answers()
    await drained(persistence)
    answers.submit(persistence, [1])
    with anyio.fail_after(5), pytest.raises(ShuttingDown):
        await persistence.commit(inbound(2).records)

    assert isinstance(answers.failures[1], ShuttingDown)
    assert persistence.statistics().waiting == 0
    assert await stand(store, [1, 2]) == []


@pytest.fixture
async def crashing(store: SqliteStore, path: Path) -> AsyncIterator[Crashing]:
    """The same store, with a bug in it."""
    await store.close()
    opened = Crashing(path)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_crash_of_the_writer_leaves_nobody_unanswered(crashing: Crashing) -> None:
    """Those of its batch, those who waited and those who come later are told by whoever ends it, each once."""
    persistence, answers = Persistence(crashing, batch_max=2, waiting_max=100), Answers()
    answers.submit(persistence, range(1, 6))
    with pytest.raises(ZeroDivisionError):
        await persistence.run()
    at_the_crash = list(answers.told)
    answers.submit(persistence, [6])
    crashed = StorageFailed(crashing.path, "the writer has crashed; restart the runtime")
    persistence.stop(crashed)
    answers.submit(persistence, [7])

    assert at_the_crash == [(1, None), (2, None)]
    assert answers.numbers == [1, 2, 3, 4, 5, 6, 7]
    assert {number: str(error) for number, error in answers.failures.items()} == dict.fromkeys(
        range(3, 8), str(crashed)
    )
    assert await stand(crashing, range(1, 8)) == [1, 2]


async def test_a_callback_that_raises_leaves_nobody_unanswered(store: SqliteStore) -> None:
    """Its neighbours are told that their points stand; the event loop's handler hears of the bug."""
    persistence, answers = Persistence(store, batch_max=3, waiting_max=100), Answers()

    def broken(_: TurnkeeperError | None) -> None:
        raise ZeroDivisionError

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    answers.submit(persistence, [1])
    persistence.submit(inbound(2).records, broken)
    answers.submit(persistence, [3, 4])
    persistence.close()
    await persistence.run()

    assert answers.numbers == [1, 3, 4]
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_a_writer_that_is_cancelled_leaves_nobody_unanswered(gated: Gated) -> None:
    """Its batch is among those whom `stop` answers."""
    persistence, answers = Persistence(gated, batch_max=2, waiting_max=100), Answers()
    answers.submit(persistence, [1, 2, 3])
    runner = asyncio.ensure_future(persistence.run())
    await gated.arrived.wait()
    runner.cancel()
    await asyncio.wait([runner])
    persistence.stop(ShuttingDown())

    assert answers.numbers == [1, 2, 3]
    assert len(answers.failures) == 3
