"""Keeping: what has happened is told in order, large values stay whole, and what is over may be pruned."""
# ruff: noqa: S101, PLR2004 - tests say what they expect by asserting it, and in numbers

from collections.abc import Sequence

import pytest

from turnkeeper.kernel import lifecycle, records
from turnkeeper.kernel.edge import Edge, EdgeKind, chained
from turnkeeper.kernel.history import Tally, check_rows
from turnkeeper.kernel.lifecycle import Change
from turnkeeper.kernel.ports import Happening, Store
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import ActorOpened, EdgeAppended, ReceiptRetired
from turnkeeper.kernel.rows import AgentRow, Rows
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.testing.conformance.refusing import GUILTY
from turnkeeper.testing.conformance.world import (
    ACTOR,
    ENDED,
    NEIGHBOUR,
    OTHER_ACTOR,
    QUEUED,
    RUNNING,
    STANDING,
    Stores,
    accepted,
    address,
    again,
    arrival,
    changed,
    everything,
    neighbours,
)

__all__ = ["Keeping"]

LARGE = [16_383, 16_384, 16_385, 100_000, 3_000_000]
"""Sizes around that from which SQLite's store puts a value elsewhere, and far beyond it."""


def ending(turn_id: int, at: float, body: bytes = b"\x2a") -> Change:
    """Return the end, at a moment, of a turn of the neighbour that has been accepted and never run."""
    row = lifecycle.accept(arrival(turn_id, NEIGHBOUR), None).row
    return lifecycle.end(row, EdgeKind.TURN_CANCELLED, body, at)


async def over(store: Store, *ends: tuple[int, float]) -> None:
    """Let turns of the neighbour begin and end, and one of another actor come after them."""
    for turn_id, at in ends:
        assert await store.apply([accepted(turn_id, NEIGHBOUR), ending(turn_id, at).records]) == {}
    assert await store.apply([accepted(900, ACTOR)]) == {}


async def offsets(store: Store) -> list[int]:
    return [one.offset for one in await store.happened(0, 10_000)]


class Keeping:
    """What a store keeps, tells, and lets go."""

    # ------------------------------------------------------------ what has happened

    async def test_what_has_happened_is_told_once_and_in_order(self, store: Store, stores: Stores) -> None:
        """Every edge, under offsets that rise, with its turn, its kind and its address; now and after opening again."""
        told = await store.happened(0, 10_000)
        kinds = [
            (one.turn_id, one.ordinal, one.kind, one.at, one.address)
            for one in told
            if one.turn_id == ENDED.row.turn_id
        ]

        assert all(isinstance(one, Happening) for one in told)
        assert sorted({one.offset for one in told}) == [one.offset for one in told]
        assert len(told) == 2 + 1 + 3 + 4
        assert kinds == [
            (3, 0, EdgeKind.INBOUND_RECEIVED, 100.0, address(OTHER_ACTOR)),
            (3, 1, EdgeKind.LEASE_ACQUIRED, 100.0, address(OTHER_ACTOR)),
            (3, 2, EdgeKind.TURN_COMPLETED, 101.0, address(OTHER_ACTOR)),
        ]
        async with again(stores, store) as reopened:
            assert await reopened.happened(0, 10_000) == told

    @pytest.mark.parametrize("limit", [1, 2, 4, 9, 10])
    async def test_pages_of_what_has_happened_neither_skip_nor_repeat(self, limit: int, store: Store) -> None:
        """Whoever goes on behind the last offset has everything, once; behind the very last there is nothing."""
        expected, seen = await store.happened(0, 10_000), list[Happening]()
        while page := await store.happened(seen[-1].offset if seen else 0, limit):
            assert len(page) <= limit
            seen += page

        assert seen == expected
        assert await store.happened(-5, 10_000) == expected

    async def test_what_happens_later_comes_behind_what_was_told(self, store: Store) -> None:
        """Also where it happens to an older turn, and nobody holds it in memory; a refused edge leaves no trace."""
        last = (await offsets(store))[-1]
        held = lifecycle.observe(RUNNING.row, EdgeKind.MODEL_ATTEMPT, None, 105.0)
        _, dropped = lifecycle.drop_duplicate(None, 3, 3, 106.0)
        refused = GUILTY["an edge where one stands"][0]
        assert list(await store.apply([held.records, refused, dropped])) == [1]
        told = await store.happened(last, 10)

        assert sorted((one.turn_id, one.ordinal, one.kind) for one in told) == [
            (1, 2, EdgeKind.MODEL_ATTEMPT),
            (3, 3, EdgeKind.DUPLICATE_DROPPED),
        ]
        assert min(one.offset for one in told) > last

    # ------------------------------------------------------------ one consistent view

    async def test_a_look_sees_the_rows_as_they_are_committed(self, store: Store) -> None:
        """Sessions, turns, edges, deliverables, by the same decisions that wrote them; nothing is wrong with them."""

        def asked(rows: Rows) -> tuple[list[TurnRow | None], Sequence[int], list[Edge], object, set[str], Tally]:
            stored = [rows.turn(turn_id) for turn_id in (1, 2, 3, 4, 99)]
            edges = [edge for _, edge in rows.edges(3)]
            tally = Tally()
            wrong = [found.rule for found in check_rows(rows, tally)]
            return [one and one.row for one in stored], rows.live(), edges, rows.deliverable(3), set(wrong), tally

        rows, live, edges, delivered, wrong, tally = await store.look(asked)

        assert rows == [RUNNING.row, QUEUED.row, ENDED.row, STANDING.row, None]
        assert live == [1, 2, 4]
        assert edges == await store.edges(3)
        assert delivered == ENDED.records[0]
        assert wrong <= {"receipt = inbound"}, "the suite's receipts hold another digest than their payload's"
        assert (tally.turns, tally.live, tally.unsealed) == (4, 3, 0)

    async def test_a_look_says_where_turns_are_and_what_came_twice(self, store: Store) -> None:
        """By id; what is not there is none. What a question raises is raised."""
        _, dropped = lifecycle.drop_duplicate(None, 3, 3, 106.0)
        assert await store.apply([dropped]) == {}

        assert await store.look(lambda rows: (rows.address(ACTOR), rows.address(99))) == (address(ACTOR), None)
        assert await store.look(lambda rows: rows.duplicated()) == [3]
        assert await store.look(lambda rows: (rows.lease_until(1), rows.lease_until(99))) == (145.0, None)
        with pytest.raises(ZeroDivisionError):
            await store.look(lambda _: 1 // 0)

    async def test_a_look_lists_the_agents_with_their_live_turns(self, store: Store) -> None:
        """By name, those without a live turn too; what has ended counts no more."""
        names = ["b", "\u00e9", "\U0001f9ea", "B", "\uffff", "a/b", "a"]
        actors = [ActorOpened(100 + number, "", "session", name) for number, name in enumerate(names)]
        assert await store.apply([actors, accepted(100, 100), accepted(101, 100)]) == {}

        live = {"billing": (1, 1, 1), "b": (2, 0, 0)}
        expected = [AgentRow(name, *live.get(name, (0, 0, 0))) for name in sorted([*names, "billing"])]
        assert await store.look(lambda rows: list(rows.agents())) == expected

    # ------------------------------------------------------------ digests and large values

    async def test_a_late_edge_is_chained_to_those_before_it(self, store: Store) -> None:
        """The store finds its digest by the kernel's function: any store comes to the same."""
        before = ENDED.row.digest
        _, dropped = lifecycle.drop_duplicate(None, 3, 3, 106.0)
        assert await store.apply([dropped, dropped]) == {}
        first, second = (await store.edges(3))[3:]

        assert first.digest == chained(before, 3, "duplicate_dropped", 106.0, b"")
        assert second.digest == chained(first.digest, 3, "duplicate_dropped", 106.0, b"")
        assert (await store.turn(3) or ENDED.row).digest == second.digest

    @pytest.mark.parametrize("size", LARGE)
    @pytest.mark.parametrize("company", ["alone", "beside a guilty one"])
    async def test_a_large_value_comes_back_whole(self, company: str, size: int, store: Store, stores: Stores) -> None:
        """A detail and a deliverable, whichever way their batch is written, through every way of reading them."""
        body = bytes(size - 1) + b"\x2a"
        edge = EdgeAppended(2, "model_attempt", 1, 102.0, body, 1, 1, b"digest")
        points: list[Sequence[records.Record]] = [[edge], ending(100, 103.0, body).records]
        guilty = [GUILTY["a second deliverable"][0]] if company != "alone" else []
        assert await store.apply([accepted(100, NEIGHBOUR)]) == {}
        assert list(await store.apply([*points, *guilty])) == [2][: len(guilty)]
        async with again(stores, store) as reopened:
            delivered = await reopened.deliverable(100)
            seen = await reopened.look(lambda rows: (rows.edges(1)[2].edge.detail, rows.deliverable(100)))

            assert delivered is not None
            assert (await reopened.edges(1))[2].detail == body
            assert delivered.body == body
            assert seen == (body, delivered)

    async def test_nothing_of_a_refused_large_value_stays(self, store: Store) -> None:
        """Its point can be written again."""
        body = bytes(50_000)
        point = ending(100, 103.0, body).records
        refused = await store.apply([accepted(100, NEIGHBOUR), [*point, ReceiptRetired(99)]])
        assert list(refused) == [1]

        assert await store.apply([point]) == {}
        assert await store.look(lambda rows: list(rows.orphans())) == []

    # ------------------------------------------------------------ pruning

    async def test_pruning_takes_what_is_over_whole_and_says_how_many(self, store: Store, stores: Stores) -> None:
        """Turn, edges, receipt, deliverable and key: nothing of it is left, and nothing else is missing."""
        before = await everything(store)
        await over(store, (500, 110.0), (501, 120.0))
        told = await offsets(store)

        assert await store.prune(130.0, 200.0, 10) == 3
        async with again(stores, store) as reopened:
            gone = [
                await reopened.turn(500),
                await reopened.deliverable(501),
                await reopened.receipt(NEIGHBOUR, "key-500"),
            ]
            assert gone == [None] * 3
            assert await reopened.edges(501) == []
            assert await reopened.turn(3) is None
            assert await reopened.turn(4) == STANDING.row
            assert len(await everything(reopened)) == len(before)
            assert await reopened.look(lambda rows: list(rows.orphans())) == []
            assert set(await offsets(reopened)) < set(told)
            assert await reopened.apply([accepted(901, NEIGHBOUR, "key-500")]) == {}

    async def test_pruning_takes_nothing_that_is_live(self, store: Store) -> None:
        """Queued, running and suspended turns stay, however old they are and whatever their keys answer."""
        live = await store.live_turns()
        await store.prune(1e12, 1e12, 1_000)

        assert await store.live_turns() == live

    async def test_pruning_takes_no_key_that_answers(self, store: Store) -> None:
        """Its time to live decides, to the moment."""
        await over(store, (500, 110.0))

        assert await store.prune(1e12, 199.999, 10) == 0
        assert await store.receipt(NEIGHBOUR, "key-500") is not None
        assert await store.prune(1e12, 200.0, 10) == 2

    async def test_pruning_takes_nothing_that_ended_later(self, store: Store) -> None:
        """The moment itself is not before it."""
        await over(store, (500, 110.0), (501, 120.0))

        assert await store.prune(110.0, 1e12, 10) == 1, "turn 3, which ended at 101"
        assert await store.prune(120.0, 1e12, 10) == 1
        assert await store.turn(501) is not None

    async def test_pruning_takes_at_most_so_many_and_the_oldest_first(self, store: Store) -> None:
        """The rest goes the next time."""
        await over(store, (500, 110.0), (501, 105.0), (502, 103.0))

        assert await store.prune(1e12, 1e12, 2) == 2
        assert [await store.turn(turn_id) is None for turn_id in (3, 500, 501, 502)] == [True, True, False, False]
        assert await store.prune(1e12, 1e12, 0) == 0
        assert await store.prune(1e12, 1e12, 2) == 2
        assert await store.prune(1e12, 1e12, 2) == 0

    async def test_the_newest_turn_is_kept_so_that_no_number_comes_twice(self, store: Store, stores: Stores) -> None:
        """The next runtime counts on from it."""
        assert await store.apply([accepted(500, NEIGHBOUR), ending(500, 110.0).records]) == {}
        held = lifecycle.observe(RUNNING.row, EdgeKind.MODEL_ATTEMPT, None, 111.0)
        assert await store.apply([held.records]) == {}

        assert await store.prune(1e12, 1e12, 10) == 1
        assert await store.turn(500) is not None
        await store.close()
        reopened = stores()
        marks = await reopened.open()
        await reopened.close()
        assert marks.receipt_id == 500

    async def test_the_turn_of_the_newest_edge_is_kept_so_that_no_offset_comes_twice(
        self, store: Store, stores: Stores
    ) -> None:
        """Whoever reads events goes on behind the last offset: a later edge must not have it."""
        await over(store, (500, 110.0))
        _, dropped = lifecycle.drop_duplicate(None, 500, 500, 111.0)
        assert await store.apply([dropped]) == {}
        last = (await offsets(store))[-1]

        assert await store.prune(1e12, 1e12, 10) == 1, "turn 3, and not 500"
        async with again(stores, store) as reopened:
            assert await reopened.apply(neighbours(1)) == {}
            assert (await offsets(reopened))[-2:] == [last, last + 1]

    async def test_a_retired_receipt_goes_and_the_key_stays_its_successors(self, store: Store) -> None:
        """Of two turns under one key, the older one is over."""
        renewal = lifecycle.accept(arrival(500, OTHER_ACTOR, "key-3"), None, retired=3)
        assert await store.apply([renewal.records, accepted(501, NEIGHBOUR)]) == {}

        assert await store.prune(1e12, 1e12, 10) == 1
        found = await store.receipt(OTHER_ACTOR, "key-3")
        assert found is not None
        assert found.turn_id == 500

    async def test_a_pruned_store_is_sound(self, store: Store) -> None:
        """By every rule of the history."""
        digest = payload_digest(b"\x01")
        point: list[records.Record] = [
            changed(record, digest=digest) if isinstance(record, records.ReceiptAccepted) else record
            for record in accepted(500, NEIGHBOUR)
        ]
        assert await store.apply([point, ending(500, 110.0, b"\x93\xa1E\xa1m\xa0").records, accepted(900, ACTOR)]) == {}
        wrong = await store.look(lambda rows: {found.rule for found in check_rows(rows, Tally())})
        assert await store.prune(1e12, 1e12, 10) == 2

        assert await store.look(lambda rows: {found.rule for found in check_rows(rows, Tally())}) <= wrong
