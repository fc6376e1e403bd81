"""The world that the suite's tests find in a store, and what they use to look at it."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind, StepIntent, Suspended, Wait
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Change
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import ActorOpened, NodeStarted, Record
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait

__all__ = [
    "ACTOR",
    "ENDED",
    "LEASE",
    "NEIGHBOUR",
    "OTHER_ACTOR",
    "QUEUED",
    "RUNNING",
    "STANDING",
    "STARTED",
    "STOOD",
    "WORLD",
    "Stores",
    "accepted",
    "address",
    "again",
    "arrival",
    "changed",
    "everything",
    "facts",
    "neighbours",
    "standing",
]

Stores = Callable[[], Store]
"""What makes one more store on the same place."""

LEASE = Lease(1, 145.0)
ACTOR, OTHER_ACTOR, NEIGHBOUR = 10, 20, 30


def address(actor_id: int) -> Address:
    """Return an actor's address."""
    return Address("", f"session-{actor_id}", "billing")


def arrival(turn_id: int, actor_id: int = ACTOR, key: str | None = None) -> Arrival:
    """Return an inbound; without a key of the caller's it has one of its own."""
    return Arrival(turn_id, actor_id, f"key-{turn_id}" if key is None else key, b"\x01", b"digest", 100.0, 200.0)


def accepted(turn_id: int, actor_id: int = ACTOR, key: str | None = None) -> list[Record]:
    """Return the point that accepts an inbound into the queue."""
    return lifecycle.accept(arrival(turn_id, actor_id, key), None).records


def asked(row: TurnRow, wait: OpenWait) -> Change:
    """Return the edge by which a running turn asks for something, as the next of its steps."""
    said = Wait(wait.kind, wait.due_at, child_id=wait.child_id)
    step = StepIntent(wait.issued, wait.kind, str(wait.issued), "pure", msgspec.Raw(b"\x80"), "", wait=said)
    return lifecycle.observe(row, EdgeKind.STEP_INTENDED, step, 101.0)


def standing(row: TurnRow, *waits: OpenWait) -> Change:
    """Return what lets a running turn ask for things, and stand on them."""
    told: list[Record] = []
    for wait in waits:
        row, edges = asked(row, wait)
        told += edges
    why = Suspended(waits[0].kind, min(wait.due_at for wait in waits))
    row, moved = lifecycle.suspend(row, why, 101.0, waits)
    return Change(row, [*told, *moved])


RUNNING: Change = lifecycle.accept(arrival(1), LEASE)
QUEUED: Change = lifecycle.accept(arrival(2), None)
STARTED: Change = lifecycle.accept(arrival(3, OTHER_ACTOR), LEASE)
ENDED: Change = lifecycle.end(STARTED.row, EdgeKind.TURN_COMPLETED, b"\x2a", 101.0)
BEGUN: Change = lifecycle.accept(arrival(4, OTHER_ACTOR), LEASE)
STOOD = OpenWait(0, "approval", 900.0)
STANDING: Change = standing(BEGUN.row, STOOD)
WORLD: list[list[Record]] = [
    [NodeStarted(1, 4242, 100.0, 145.0)],
    [ActorOpened(ACTOR, *address(ACTOR))],
    [ActorOpened(OTHER_ACTOR, *address(OTHER_ACTOR))],
    [ActorOpened(NEIGHBOUR, *address(NEIGHBOUR))],
    RUNNING.records,
    QUEUED.records,
    STARTED.records,
    ENDED.records,
    BEGUN.records,
    STANDING.records,
]
"""One node, three actors. Turn 1 runs, turn 2 waits behind it; turn 3 has ended, turn 4 stands on a wait."""


def neighbours(count: int) -> list[list[Record]]:
    """Return points that nothing is wrong with: turns 100, 101, ... of an actor that has no others."""
    return [accepted(100 + number, NEIGHBOUR) for number in range(count)]


def changed(row: Any, **facts: object) -> Any:
    """Return a row or a record with other facts."""
    return msgspec.structs.replace(row, **facts)


def facts(rejected: Mapping[int, TurnkeeperError]) -> dict[int, tuple[type, dict[str, object]]]:
    """Return refusals so that they can be compared."""
    return {number: (type(error), vars(error)) for number, error in rejected.items()}


async def everything(store: Store) -> list[object]:
    """Return all that can be read of supervision, of the turns 1 to 9 and from 100 on, their receipts and actors.

    Of signals, those under a turn's key.
    """
    seen: list[object] = [await store.live_turns()]
    for turn_id in (*range(1, 10), *range(100, 106)):
        seen += [await store.turn(turn_id), await store.edges(turn_id), await store.deliverable(turn_id)]
        seen += [await store.receipt(actor_id, f"key-{turn_id}") for actor_id in (ACTOR, OTHER_ACTOR, NEIGHBOUR)]
        seen += [await store.waiting.signal(actor_id, f"key-{turn_id}") for actor_id in (ACTOR, NEIGHBOUR)]
        seen += [await store.waiting.waits(turn_id), await store.waiting.address_of(turn_id)]
    seen += [await store.desired(), await store.child_events()]
    seen += [await store.state(actor_id) for actor_id in (ACTOR, OTHER_ACTOR, NEIGHBOUR)]
    seen += [await store.waiting.signals_waiting(actor_id) for actor_id in (ACTOR, NEIGHBOUR)]
    seen += [await store.waiting.handoffs(*address(NEIGHBOUR), "triage"), await store.waiting.due_turns((0, 0), 1e9, 9)]
    return [*seen, *[await store.actor_id(address(actor_id)) for actor_id in (ACTOR, 11, OTHER_ACTOR, NEIGHBOUR)]]


@asynccontextmanager
async def again(stores: Stores, before: Store) -> AsyncIterator[Store]:
    """Close a store and open the next on its place."""
    await before.close()
    store = stores()
    await store.open()
    try:
        yield store
    finally:
        await store.close()
