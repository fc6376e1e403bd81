"""Remembering: an actor's state is what the last of its turns to complete with one has left, and nothing else is."""
# ruff: noqa: S101 - tests say what they expect by asserting it, and in numbers

from collections.abc import Sequence

import pytest

from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind
from turnkeeper.kernel.errors import StorageFailed, VersionConflict
from turnkeeper.kernel.history import Tally, check_rows
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import ReceiptRetired, Record, StateSet
from turnkeeper.kernel.state import state_set
from turnkeeper.testing.conformance.refusing import GUILTY, check_alone
from turnkeeper.testing.conformance.world import (
    ACTOR,
    LEASE,
    NEIGHBOUR,
    OTHER_ACTOR,
    RUNNING,
    Stores,
    accepted,
    again,
    arrival,
    changed,
    everything,
    facts,
)

__all__ = ["Remembering"]


def ending(turn_id: int, body: bytes, kind: EdgeKind = EdgeKind.TURN_COMPLETED) -> list[list[Record]]:
    """Return the points of a turn of the neighbour that leaves a state."""
    begun = lifecycle.accept(arrival(turn_id, NEIGHBOUR), LEASE)
    ended = lifecycle.end(begun.row, kind, b"\x93\xa1E\xa1m\xa0", 110.0)
    return [begun.records, [*ended.records, state_set(NEIGHBOUR, 1, body, turn_id=turn_id, at=110.0)]]


LEFT = state_set(OTHER_ACTOR, 3, b"\x2a", turn_id=3, at=101.5)
UNFIT: dict[str, Record] = {
    "a state of a turn that is not there": changed(LEFT, turn_id=99),
    "a state of a turn that runs": state_set(ACTOR, 1, b"\x2a", turn_id=1, at=101.0),
    "a state of a turn that waits its turn": state_set(ACTOR, 1, b"\x2a", turn_id=2, at=101.0),
    "a state of a turn that is suspended": changed(LEFT, turn_id=4),
    "a state by another actor's turn": changed(LEFT, actor_id=ACTOR),
    "a state of an actor that is not there": changed(LEFT, actor_id=99),
    "a state of a version past 64 bits": changed(LEFT, version=2**63),
    "a state of no version": changed(LEFT, version=None),
    "a state that is text": changed(LEFT, body="x"),
    "a state that is missing": changed(LEFT, body=None),
    "a state at no time": changed(LEFT, at=float("nan")),
}
"""Records that break one rule each."""


class Remembering:
    """What a store keeps of actors between their turns."""

    async def test_an_actor_remembers_nothing_at_first(self, store: Store) -> None:
        """Nor does one that is not there."""
        assert [await store.state(actor_id) for actor_id in (ACTOR, 99, 2**63)] == [None] * 3
        assert await store.look(lambda rows: rows.state(ACTOR)) is None

    @pytest.mark.parametrize("size", [1, 16_384, 3_000_000])
    async def test_a_state_comes_back_as_it_was_left(self, size: int, store: Store, stores: Stores) -> None:
        """Byte for byte, of any size, now and after the store is opened again; nobody else has it."""
        body = b"\xc6" + (size - 1).to_bytes(4) + bytes(size - 1)
        before = await store.look(lambda rows: {found.rule for found in check_rows(rows, Tally())})
        begun, (*ended, left) = ending(500, body)
        assert await store.apply([begun, [*ended, left]]) == {}
        async with again(stores, store) as reopened:
            assert await reopened.state(NEIGHBOUR) == left
            assert type(await reopened.state(NEIGHBOUR)) is StateSet
            assert await reopened.look(lambda rows: rows.state(NEIGHBOUR)) == left
            assert [await reopened.state(actor_id) for actor_id in (ACTOR, OTHER_ACTOR)] == [None, None]
            assert await reopened.look(lambda rows: {found.rule for found in check_rows(rows, Tally())}) <= before

    async def test_the_last_state_counts_in_the_order_of_commits(self, store: Store) -> None:
        """In one batch, and in many."""
        assert await store.apply([*ending(500, b"\x01"), *ending(501, b"\x02")]) == {}
        first = await store.state(NEIGHBOUR)
        for point in [*ending(502, b"\x03"), *ending(503, b"\x04")]:
            assert await store.apply([point]) == {}
        second = await store.state(NEIGHBOUR)

        assert first is not None
        assert second is not None
        assert [(row.turn_id, row.body) for row in (first, second)] == [(501, b"\x02"), (503, b"\x04")]

    async def test_a_state_stands_or_falls_with_the_end_of_its_turn(self, store: Store) -> None:
        """One commit point, all or nothing; in a batch that is gone through point by point as well."""
        ended = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 102.0).records
        left = state_set(ACTOR, 1, b"\x2a", turn_id=1, at=102.0)
        before = await everything(store)
        assert facts(await store.apply([[*ended, left, ReceiptRetired(99)]])) == facts({0: VersionConflict(99, 0)})
        assert await everything(store) == before

        guilty, error = GUILTY["an edge where one stands"]
        assert facts(await store.apply([guilty, [*ended, left]])) == facts({0: error})
        assert await store.state(ACTOR) == left

    @pytest.mark.parametrize("kind", [EdgeKind.TURN_FAILED, EdgeKind.TURN_CANCELLED])
    async def test_a_turn_that_does_not_complete_leaves_no_state(self, kind: EdgeKind, store: Store) -> None:
        """Its whole end is refused, so that whoever tries finds out."""
        begun, ended = ending(500, b"\x02", kind)
        assert await store.apply([begun]) == {}
        (refusal,) = (await store.apply([ended])).values()

        assert isinstance(refusal, StorageFailed)
        assert await store.state(NEIGHBOUR) is None
        assert await store.deliverable(500) is None

    @pytest.mark.parametrize("unfit", UNFIT)
    async def test_what_is_no_completed_turns_to_say_is_refused_alone(
        self, unfit: str, store: Store, stores: Stores
    ) -> None:
        """And so is what fits no column; what stood before stands."""
        assert await store.apply([[LEFT]]) == {}

        assert isinstance(await check_alone(store, stores, [UNFIT[unfit]]), StorageFailed)

    async def test_a_state_outlives_the_turn_that_left_it(self, store: Store) -> None:
        """Pruning takes the turn, and nothing of what its actor remembers."""
        points: Sequence[Sequence[Record]] = [[LEFT], accepted(900)]
        assert await store.apply(points) == {}

        assert await store.prune(1e12, 1e12, 10) == 1
        assert await store.turn(3) is None
        assert await store.state(OTHER_ACTOR) == LEFT
