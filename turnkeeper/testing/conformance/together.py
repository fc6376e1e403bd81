"""Together: commit points in batches. Each stands whole or not at all, and one is not the worse for another."""
# ruff: noqa: S101, PLR2004 - tests say what they expect by asserting it, and in numbers

from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind, Requeued
from turnkeeper.kernel.errors import KeyTaken, LeaseHeld, StaleEpoch, VersionConflict
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import ActorOpened, ReceiptRetired, Record
from turnkeeper.testing.conformance.refusing import GUILTY
from turnkeeper.testing.conformance.world import (
    ACTOR,
    LEASE,
    NEIGHBOUR,
    QUEUED,
    RUNNING,
    Stores,
    accepted,
    again,
    arrival,
    changed,
    everything,
    facts,
    neighbours,
)

__all__ = ["Together"]

TAKEN = accepted(5, key="key-1")


def a_life() -> list[list[Record]]:
    """Return the points of a turn's whole life: accepted, acquired, tried twice, ended."""
    accept = lifecycle.accept(arrival(100, NEIGHBOUR), None)
    first = lifecycle.acquire(accept.row, LEASE, 101.0)
    tried = lifecycle.observe(first.row, EdgeKind.MODEL_ATTEMPT, None, 102.0)
    back = lifecycle.requeue(tried.row, Requeued("retry"), 103.0)
    second = lifecycle.acquire(back.row, LEASE, 104.0)
    ended = lifecycle.end(second.row, EdgeKind.TURN_COMPLETED, b"\x2a", 105.0)
    _, dropped = lifecycle.drop_duplicate(None, 100, 100, 106.0)
    return [*(change.records for change in (accept, first, tried, back, second, ended)), dropped]


class Together:
    """What `apply` promises of the points it is given."""

    async def test_no_points_and_a_point_of_nothing_change_nothing(self, store: Store) -> None:
        """Neither is an error."""
        before = await everything(store)

        assert await store.apply([]) == {}
        assert await store.apply([[]]) == {}
        assert await store.apply([[], *neighbours(1), []]) == {}
        assert (await everything(store))[0] != before[0]

    async def test_points_come_one_after_another(self, store: Store) -> None:
        """A turn's whole life can be one batch: each point finds what those before it left."""
        assert await store.apply(a_life()) == {}
        found = await store.turn(100)

        assert found is not None
        assert (found.state, found.epoch, found.version, found.attempt, found.edges) == ("completed", 3, 5, 2, 7)
        assert [edge.ordinal for edge in await store.edges(100)] == list(range(7))

    async def test_points_come_to_the_same_in_one_batch_and_in_many(self, store: Store) -> None:
        """How many share a commit changes nothing."""
        points = a_life()
        assert await store.apply([TAKEN, *points]) != {}
        for point in points:
            assert await store.apply([[changed_turn(record) for record in point]]) == {}
        one, other = await store.edges(100), await store.edges(101)
        row, twin = await store.turn(100), await store.turn(101)

        assert row is not None
        assert twin is not None
        assert changed(row, turn_id=101, digest=b"") == changed(twin, digest=b"")
        assert [changed(edge, turn_id=101, detail=b"", digest=b"") for edge in one] == [
            changed(edge, detail=b"", digest=b"") for edge in other
        ]

    async def test_several_guilty_points_fail_each_for_its_own_reason(self, store: Store) -> None:
        """Points are told apart by their place in the batch."""
        good = neighbours(len(GUILTY))
        batch = [point for pair in zip(good, (point for point, _ in GUILTY.values()), strict=True) for point in pair]
        rejected = await store.apply(batch)
        expected = {2 * place + 1: error for place, (_, error) in enumerate(GUILTY.values())}

        assert facts(rejected) == facts(expected)
        assert [await store.turn(100 + number) is None for number in range(len(good))] == [False] * len(good)

    async def test_a_batch_may_be_guilty_as_a_whole(self, store: Store, stores: Stores) -> None:
        """Then nothing has changed, now and after opening again."""
        before = await everything(store)
        rejected = await store.apply([point for point, _ in GUILTY.values()])

        assert list(rejected) == list(range(len(GUILTY)))
        assert await everything(store) == before
        async with again(stores, store) as reopened:
            assert await everything(reopened) == before

    async def test_a_batch_without_guilt_after_one_with_has_no_refusals(self, store: Store) -> None:
        """Every batch answers for itself, the empty one too."""
        assert list(await store.apply([TAKEN])) == [0]

        assert await store.apply([]) == {}
        assert await store.apply(neighbours(1)) == {}

    async def test_nothing_of_a_point_stands_whose_last_record_is_refused(self, store: Store) -> None:
        """Not the new actor, not its turn, not the end of another's."""
        before = await everything(store)
        ended = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 102.0)
        point = [ActorOpened(11, "", "session-11", "billing"), *accepted(5, 11), *ended.records, ReceiptRetired(99)]

        assert facts(await store.apply([point])) == facts({0: VersionConflict(99, 0)})
        assert await everything(store) == before

    async def test_a_point_is_judged_without_those_refused_before_it(self, store: Store) -> None:
        """What builds on a refused point is refused in turn; what has its room takes it."""
        onwards = lifecycle.acquire(lifecycle.accept(arrival(5, key="key-1"), None).row, LEASE, 102.0)
        rejected = await store.apply([TAKEN, onwards.records, accepted(5, key="free")])
        found = await store.receipt(ACTOR, "free")

        assert facts(rejected) == facts({0: KeyTaken("key-1"), 1: StaleEpoch(5, 0)})
        assert found is not None
        assert found.turn_id == 5

    async def test_of_two_equal_points_the_second_is_refused(self, store: Store) -> None:
        """A move that was made cannot be made again, not even in the same commit."""
        moved = lifecycle.requeue(RUNNING.row, Requeued("retry"), 102.0)
        rejected = await store.apply([moved.records, moved.records, accepted(5), accepted(5, key="other")])

        assert facts(rejected) == facts({1: StaleEpoch(1, 1), 3: LeaseHeld(ACTOR)})
        assert await store.turn(1) == moved.row

    async def test_of_two_receipts_under_one_key_the_first_has_it(self, store: Store) -> None:
        """Two that race for a key in one commit: one is accepted, the other told."""
        rejected = await store.apply([accepted(5, key="new"), accepted(6, key="new")])

        assert facts(rejected) == facts({1: KeyTaken("new")})
        assert await store.turn(6) is None

    async def test_a_receipt_retired_twice_is_refused_the_second_time(self, store: Store) -> None:
        """Of two that want to renew one key, one wins and the other is told."""
        rejected = await store.apply([[ReceiptRetired(3)], [ReceiptRetired(3)]])

        assert facts(rejected) == facts({1: VersionConflict(3, 0)})

    async def test_a_turn_and_its_successor_change_places_in_one_point(self, store: Store) -> None:
        """The end of one and the lease of the next are one commit: the slot is freed before it is taken."""
        ended = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 102.0)
        acquired = lifecycle.acquire(QUEUED.row, LEASE, 102.0)

        assert await store.apply([[*ended.records, *acquired.records]]) == {}
        assert [await store.turn(1), await store.turn(2)] == [ended.row, acquired.row]

    async def test_a_batch_of_hundreds_stands_but_for_the_guilty_one(self, store: Store) -> None:
        """Size changes nothing."""
        good = neighbours(400)

        assert facts(await store.apply([*good[:200], TAKEN, *good[200:]])) == facts({200: KeyTaken("key-1")})
        assert len(await store.live_turns()) == 3 + len(good)


def changed_turn(record: Record) -> Record:
    """Return a record of turn 100 as one of turn 101 with a key of its own."""
    names = {name: 101 for name in ("turn_id", "receipt_id", "deliverable_id") if getattr(record, name, None) == 100}
    key = {"key": "key-101"} if hasattr(record, "key") else {}
    other: Record = changed(record, **names, **key)
    return other
