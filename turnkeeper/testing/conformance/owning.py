"""Owning: a store has one owner at a time, and without one it answers nobody."""
# ruff: noqa: S101 - tests say what they expect by asserting it

from collections.abc import Awaitable, Callable

import pytest

from turnkeeper.kernel.errors import StorageFailed, StoreInUse
from turnkeeper.kernel.ports import Store
from turnkeeper.testing.conformance.world import ACTOR, WORLD, Stores, address, again, everything, neighbours

__all__ = ["Owning"]

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "apply": lambda store: store.apply(neighbours(1)),
    "apply nothing": lambda store: store.apply([]),
    "live_turns": lambda store: store.live_turns(),
    "live_turns_after": lambda store: store.live_turns_after(0, 0, 10),
    "actor_id": lambda store: store.actor_id(address(ACTOR)),
    "receipt": lambda store: store.receipt(ACTOR, "key-1"),
    "turn": lambda store: store.turn(1),
    "edges": lambda store: store.edges(1),
    "deliverable": lambda store: store.deliverable(3),
    "happened": lambda store: store.happened(0, 10),
    "desired": lambda store: store.desired(),
    "child_events": lambda store: store.child_events(),
    "child_events of a path": lambda store: store.child_events("agents/billing"),
    "prune": lambda store: store.prune(1e12, 1e12, 10),
}


class Owning:
    """Who may use a store."""

    async def test_a_second_owner_is_refused_and_the_first_goes_on(self, store: Store, stores: Stores) -> None:
        """However often it tries; it reads and writes nothing meanwhile."""
        before = await everything(store)
        second = stores()
        with pytest.raises(StoreInUse) as refusal:
            await second.open()
        with pytest.raises(StorageFailed):
            await second.apply(neighbours(1))
        with pytest.raises(StoreInUse):
            await second.open()

        assert refusal.value.path == store.path == second.path
        assert refusal.value.owner
        assert await everything(store) == before
        assert await store.apply(neighbours(1)) == {}

    async def test_a_store_that_is_open_cannot_be_opened_once_more(self, store: Store) -> None:
        """Not by itself either; it stays open."""
        with pytest.raises(StoreInUse):
            await store.open()

        assert await store.apply(neighbours(1)) == {}

    async def test_a_closed_store_is_free_at_once(self, store: Store, stores: Stores) -> None:
        """For the next owner, and the next."""
        for _ in range(3):
            async with again(stores, store) as following:
                assert await following.actor_id(address(ACTOR)) == ACTOR

    async def test_an_open_that_failed_changes_nothing_and_can_be_tried_again(
        self, store: Store, stores: Stores
    ) -> None:
        """The one that was refused is as good as a new one, once there is room."""
        before = await everything(store)
        second = stores()
        with pytest.raises(StoreInUse):
            await second.open()
        await store.close()
        await second.open()

        assert await everything(second) == before
        assert await second.apply(neighbours(1)) == {}
        await second.close()

    async def test_closing_one_that_was_refused_takes_nothing_from_the_owner(
        self, store: Store, stores: Stores
    ) -> None:
        """It has nothing to give back."""
        second = stores()
        with pytest.raises(StoreInUse):
            await second.open()
        await second.close()

        with pytest.raises(StoreInUse):
            await stores().open()
        assert await store.apply(neighbours(1)) == {}

    async def test_a_store_closed_twice_is_closed(self, store: Store, stores: Stores) -> None:
        """Closing once more does nothing, not even to its next owner."""
        await store.close()
        await store.close()
        following = stores()
        await following.open()
        await store.close()

        with pytest.raises(StoreInUse):
            await stores().open()
        await following.close()

    async def test_a_store_that_was_never_opened_can_be_closed(self, stores: Stores) -> None:
        """Nothing happens."""
        store = stores()
        await store.close()
        await store.open()

        assert await store.apply(WORLD) == {}
        await store.close()

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_closed_store_refuses(self, call: str, store: Store) -> None:
        """Whatever is asked of it."""
        await store.close()

        with pytest.raises(StorageFailed) as refusal:
            await CALLS[call](store)
        assert refusal.value.path == store.path

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_store_that_was_never_opened_refuses(self, call: str, stores: Stores) -> None:
        """As a closed one does."""
        with pytest.raises(StorageFailed):
            await CALLS[call](stores())
