"""Refusing: what the contract forbids cannot be stored, and whoever tries is told which rule it is."""
# ruff: noqa: S101 - tests say what they expect by asserting it

from collections.abc import Sequence

import pytest

from turnkeeper.kernel import lifecycle, records
from turnkeeper.kernel.edge import EdgeKind, Requeued, Resumed, Suspended
from turnkeeper.kernel.errors import (
    DeliverableRecorded,
    KeyTaken,
    LeaseHeld,
    StaleEpoch,
    StorageFailed,
    TurnkeeperError,
    TurnNotFound,
    VersionConflict,
)
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import (
    ActorOpened,
    Deliverable,
    EdgeAppended,
    HandedOff,
    NodeStarted,
    ReceiptAccepted,
    ReceiptMoved,
    ReceiptRetired,
    ReceiptSeen,
    Record,
    SignalRetired,
    SignalSent,
    SignalTaken,
    TurnAcquired,
    TurnInserted,
    TurnReleased,
    WaitStood,
)
from turnkeeper.testing.conformance.world import (
    ACTOR,
    ENDED,
    LEASE,
    NEIGHBOUR,
    OTHER_ACTOR,
    QUEUED,
    RUNNING,
    STANDING,
    STARTED,
    Stores,
    accepted,
    address,
    again,
    arrival,
    changed,
    everything,
    facts,
    neighbours,
)

__all__ = ["GUILTY", "Refusing"]

RAN = RUNNING.row
STOOD_AT = STANDING.row.version
SENT = SignalSent(1, NEIGHBOUR, "paid", "key-1", b"\x2a", 100.0, 200.0)
HANDED = HandedOff(1, *address(NEIGHBOUR), "triage", 100.0)
GUILTY: dict[str, tuple[Sequence[Record], TurnkeeperError]] = {
    "a move from an older epoch": (
        lifecycle.end(changed(RAN, epoch=0), EdgeKind.TURN_COMPLETED, b"\x2a", 102.0).records,
        StaleEpoch(1, 0),
    ),
    "a move from an older version": (
        lifecycle.requeue(changed(RAN, version=1), Requeued("retry"), 102.0).records,
        StaleEpoch(1, 1),
    ),
    "a move of no turn": (
        lifecycle.suspend(changed(RAN, turn_id=99), Suspended("timer", 900.0), 102.0).records,
        StaleEpoch(99, 1),
    ),
    "a lease from an older epoch": (
        lifecycle.acquire(changed(QUEUED.row, epoch=7), LEASE, 102.0).records,
        StaleEpoch(2, 7),
    ),
    "a lease of no turn": (lifecycle.acquire(changed(QUEUED.row, turn_id=99), LEASE, 102.0).records, StaleEpoch(99, 0)),
    "an edge of an older epoch": (
        lifecycle.observe(changed(RAN, epoch=0), EdgeKind.MODEL_ATTEMPT, None, 102.0).records,
        StaleEpoch(1, 0),
    ),
    "an edge of an epoch to come": (
        lifecycle.observe(changed(RAN, epoch=2), EdgeKind.MODEL_ATTEMPT, None, 102.0).records,
        StaleEpoch(1, 2),
    ),
    "an edge of no turn": (
        lifecycle.observe(changed(RAN, turn_id=99), EdgeKind.MODEL_ATTEMPT, None, 102.0).records,
        StaleEpoch(99, 1),
    ),
    "an edge where one stands": (
        lifecycle.observe(changed(RAN, edges=1), EdgeKind.MODEL_ATTEMPT, None, 102.0).records,
        VersionConflict(1, 1),
    ),
    "an inbound under a taken key": (accepted(5, key="key-1"), KeyTaken("key-1")),
    "an inbound under the key of a turn that has ended": (accepted(5, OTHER_ACTOR, "key-3"), KeyTaken("key-3")),
    "a new turn beside a running one": (lifecycle.accept(arrival(5), LEASE).records, LeaseHeld(ACTOR)),
    "a lease beside a running turn": (lifecycle.acquire(QUEUED.row, LEASE, 102.0).records, LeaseHeld(ACTOR)),
    "a second deliverable": (
        lifecycle.end(STARTED.row, EdgeKind.TURN_FAILED, b"\x93", 102.0).records,
        DeliverableRecorded(3),
    ),
    "a receipt retired that is not there": ([ReceiptRetired(99)], VersionConflict(99, 0)),
    "a duplicate of no receipt": (lifecycle.drop_duplicate(None, 99, 1, 102.0)[1], VersionConflict(99, 0)),
    "a duplicate of no turn": (lifecycle.drop_duplicate(None, 1, 99, 102.0)[1], TurnNotFound(99)),
    "a late edge of a turn that has none to follow": (
        [
            TurnInserted(5, NEIGHBOUR, "queued", 0, 1, 1, None),
            records.EdgeAppendedLate("duplicate_dropped", 0.0, b"", 5),
        ],
        TurnNotFound(5),
    ),
    "a receipt moved that is not there": ([ReceiptMoved(1, 99)], VersionConflict(99, 0)),
    "a wait of a turn that runs": ([WaitStood(0, "timer", 900.0, None, 1, RAN.version)], VersionConflict(1, 2)),
    "a wait of a turn that has ended": (
        [WaitStood(0, "timer", 900.0, None, 3, ENDED.row.version)],
        VersionConflict(3, 3),
    ),
    "a wait at an older version": ([WaitStood(1, "timer", 900.0, None, 4, 2)], VersionConflict(4, 2)),
    "a wait of no turn": ([WaitStood(0, "timer", 900.0, None, 99, 3)], VersionConflict(99, 3)),
    "a signal under a taken key": ([SENT, changed(SENT, signal_id=2)], KeyTaken("key-1")),
    "a signal under a taken number": ([SENT, changed(SENT, key="other")], KeyTaken("other")),
    "a signal retired that is not there": ([SignalRetired(99)], VersionConflict(99, 0)),
    "a signal retired twice": ([SENT, SignalRetired(1), SignalRetired(1)], VersionConflict(1, 0)),
    "a signal taken that is not there": ([SignalTaken(1, 99)], VersionConflict(99, 0)),
    "a signal taken twice": ([SENT, SignalTaken(1, 1), SignalTaken(2, 1)], VersionConflict(1, 0)),
}
"""Points that a runtime can come to submit, and what it is told."""

UNSTORABLE: dict[str, Sequence[Record]] = {
    "a lone surrogate": [ActorOpened(11, "", "\ud800", "billing")],
    "a lone surrogate as a key": [ReceiptAccepted(5, ACTOR, "\udfff", 1, b"", 0.0, 0.0, 0.0)],
    "an integer past 64 bits": [NodeStarted(2, 2**63, 0.0, 0.0)],
    "an integer below 64 bits": [NodeStarted(2, -(2**63) - 1, 0.0, 0.0)],
    "an identity past 64 bits": [Deliverable(2**63, "completed", b"", 0.0)],
    "a time that is no number": [NodeStarted(2, 1, float("nan"), 0.0)],
    "a value of no stored type": [NodeStarted(2, object(), 0.0, 0.0)],  # type: ignore[arg-type]
    "a value of another type": [NodeStarted(2, "x", 0.0, 0.0)],  # type: ignore[arg-type]
    "a value that is missing": [NodeStarted(2, None, 0.0, 0.0)],  # type: ignore[arg-type]
}
FORBIDDEN: dict[str, Sequence[Record]] = {
    "an end without a deliverable": [TurnReleased("completed", 1, 3, 1, None, None, 1, 1, 2)],
    "an end whose deliverable was not written": [TurnReleased("completed", 1, 3, 1, None, 1, 1, 1, 2)],
    "an end with another turn's deliverable": [
        Deliverable(1, "completed", b"", 0.0),
        TurnReleased("completed", 1, 3, 1, None, 3, 1, 1, 2),
    ],
    "a live turn with a deliverable": [
        Deliverable(1, "completed", b"", 0.0),
        TurnReleased("queued", 2, 3, 2, None, 1, 1, 1, 2),
    ],
    "an ended turn that runs again": [TurnAcquired(2, 4, 1, 3, ENDED.row.epoch, ENDED.row.version)],
    "a deliverable of no turn": [Deliverable(99, "completed", b"", 0.0)],
    "a deliverable that is no end": [Deliverable(1, "running", b"", 0.0)],
    "an unknown state": [TurnReleased("paused", 1, 3, 1, None, None, 1, 1, 2)],
    "a release into running": [TurnReleased("running", 1, 3, 1, None, None, 1, 1, 2)],
    "a wait without a deadline": [TurnReleased("suspended", 1, 3, 1, None, None, 1, 1, 2)],
    "a wait with a deadline that is no number": [TurnReleased("suspended", 1, 3, 1, float("nan"), None, 1, 1, 2)],
    "a new turn that waits": [TurnInserted(5, NEIGHBOUR, "suspended", 0, 1, 1, None)],
    "a new turn that has ended": [TurnInserted(5, NEIGHBOUR, "completed", 0, 1, 1, None)],
    "a new turn in no state": [TurnInserted(5, NEIGHBOUR, "", 0, 1, 1, None)],
    "a run without an owner": [TurnInserted(5, NEIGHBOUR, "running", 1, 2, 1, None)],
    "an owner of a turn that does not run": [TurnInserted(5, NEIGHBOUR, "queued", 0, 1, 1, 1)],
    "a new turn of an owner that never started": [TurnInserted(5, NEIGHBOUR, "running", 1, 2, 1, 99)],
    "a lease of an owner that never started": lifecycle.resume(
        STANDING.row, changed(LEASE, boot_id=99), Resumed(99, 145.0), 102.0
    ).records,
    "a turn of no actor": accepted(5, 99),
    "a receipt of no turn": [ReceiptAccepted(5, ACTOR, "new", 99, b"", 0.0, 0.0, 0.0)],
    "a receipt of no actor": [ReceiptAccepted(5, 99, "new", 1, b"", 0.0, 0.0, 0.0)],
    "a second actor at one address": [ActorOpened(11, "", f"session-{ACTOR}", "billing")],
    "a second actor under one id": [ActorOpened(ACTOR, "", "session-11", "billing")],
    "a boot that starts twice": [NodeStarted(1, 4242, 100.0, 145.0)],
    "a receipt moved to no turn": [ReceiptMoved(99, 1)],
    "a wait for nothing known": [WaitStood(1, "hope", 900.0, None, 4, STOOD_AT)],
    "a wait until no time": [WaitStood(1, "timer", float("nan"), None, 4, STOOD_AT)],
    "a wait for a child without its turn": [WaitStood(1, "child", 900.0, None, 4, STOOD_AT)],
    "a wait for a handoff without its turn": [WaitStood(1, "handoff", 900.0, None, 4, STOOD_AT)],
    "a wait for a child that is not there": [WaitStood(1, "child", 900.0, 99, 4, STOOD_AT)],
    "a timer with a child": [WaitStood(1, "timer", 900.0, 1, 4, STOOD_AT)],
    "a second wait of one step": [WaitStood(0, "timer", 900.0, None, 4, STOOD_AT)],
    "a signal to no actor": [changed(SENT, actor_id=99)],
    "a signal sent at no time": [changed(SENT, at=float("nan"))],
    "a signal whose key answers until no time": [changed(SENT, expires_at=float("nan"))],
    "a signal without a body": [changed(SENT, body=None)],
    "a turn that was handed on twice": [HANDED, HANDED],
    "a handoff at no time": [changed(HANDED, at=float("nan"))],
    "a beat of no boot": [records.NodeBeat(150.0, 99)],
    "an end of no boot": [records.NodeStopped(150.0, 99)],
}
"""Points that no runtime submits: each breaks one rule of the tables."""


async def check_alone(store: Store, stores: Stores, guilty: Sequence[Record]) -> TurnkeeperError:
    """Apply a guilty point in the middle of good ones; check that only it is missing; return its refusal."""
    good = neighbours(6)
    before = await everything(store)
    alone = await store.apply([guilty])
    assert list(alone) == [0]
    assert await everything(store) == before, "something of the guilty point stands"

    rejected = await store.apply([*good[:3], guilty, *good[3:]])
    after = await everything(store)

    assert facts({0: rejected[3]}) == facts(alone), "it is told otherwise in company"
    assert list(rejected) == [3]
    assert [await store.turn(100 + number) is None for number in range(6)] == [False] * 6
    async with again(stores, store) as reopened:
        assert await everything(reopened) == after
    return rejected[3]


class Refusing:
    """What a store does not take."""

    @pytest.mark.parametrize("guilty", GUILTY)
    async def test_one_guilty_point_fails_alone_and_is_told_why(
        self, guilty: str, store: Store, stores: Stores
    ) -> None:
        """The others of its batch stand, nothing of it does, and the error names the fact."""
        point, expected = GUILTY[guilty]
        refusal = await check_alone(store, stores, point)

        assert facts({0: refusal}) == facts({0: expected})

    @pytest.mark.parametrize("guilty", UNSTORABLE)
    async def test_one_point_that_cannot_be_stored_fails_alone(self, guilty: str, store: Store, stores: Stores) -> None:
        """A value that the store cannot take is its own point's failure, not the batch's."""
        refusal = await check_alone(store, stores, UNSTORABLE[guilty])

        assert isinstance(refusal, StorageFailed)

    @pytest.mark.parametrize("guilty", FORBIDDEN)
    async def test_one_point_that_breaks_a_rule_of_the_tables_fails_alone(
        self, guilty: str, store: Store, stores: Stores
    ) -> None:
        """Terminal if and only if delivered, owned if and only if running, and nothing leads nowhere."""
        refusal = await check_alone(store, stores, FORBIDDEN[guilty])

        assert isinstance(refusal, StorageFailed)

    @pytest.mark.parametrize(
        "seen", [ReceiptSeen(0.0, 2**63), ReceiptSeen(float("nan"), 1), ReceiptRetired(-(2**63) - 1)]
    )
    async def test_a_receipt_that_cannot_be_changed_is_not_as_it_was_read(
        self, seen: ReceiptSeen | ReceiptRetired, store: Store, stores: Stores
    ) -> None:
        """Whatever the reason is: read it again."""
        refusal = await check_alone(store, stores, [seen])

        assert facts({0: refusal}) == facts({0: VersionConflict(seen.receipt_id, 0)})

    async def test_an_actor_has_one_running_turn_in_one_commit_too(self, store: Store) -> None:
        """Of two leases for one actor, the first stands."""
        first = lifecycle.accept(arrival(5, NEIGHBOUR), LEASE)
        second = lifecycle.accept(arrival(6, NEIGHBOUR), LEASE)
        resumed = lifecycle.resume(STANDING.row, LEASE, Resumed(1, 145.0), 102.0)
        beside = lifecycle.accept(arrival(7, OTHER_ACTOR), LEASE)
        rejected = await store.apply([point.records for point in (first, second, resumed, beside)])

        assert facts(rejected) == facts({1: LeaseHeld(NEIGHBOUR), 3: LeaseHeld(OTHER_ACTOR)})
        assert [await store.turn(turn_id) for turn_id in (5, 6, 4, 7)] == [first.row, None, resumed.row, None]

    async def test_the_slot_of_a_turn_that_gave_it_back_is_free(self, store: Store) -> None:
        """By ending, by waiting, or by going back to the queue."""
        back = lifecycle.requeue(RUNNING.row, Requeued("retry"), 102.0)
        assert await store.apply([back.records]) == {}
        second = lifecycle.acquire(QUEUED.row, LEASE, 103.0)
        assert await store.apply([second.records]) == {}
        waits = lifecycle.suspend(second.row, Suspended("timer", 900.0), 104.0)
        assert await store.apply([waits.records]) == {}
        first = lifecycle.acquire(back.row, LEASE, 105.0)
        assert await store.apply([first.records]) == {}
        resumed = lifecycle.resume(waits.row, LEASE, Resumed(1, 145.0), 106.0)

        assert facts(await store.apply([resumed.records])) == facts({0: LeaseHeld(ACTOR)})

    async def test_nothing_of_a_run_that_was_taken_away_lands(self, store: Store) -> None:
        """A zombie's edges, its wait, its result: each is refused, before and after the next lease."""
        back = lifecycle.requeue(RUNNING.row, Requeued("recovery"), 102.0)
        zombie = [
            lifecycle.observe(RUNNING.row, EdgeKind.MODEL_ATTEMPT, None, 103.0).records,
            lifecycle.suspend(RUNNING.row, Suspended("timer", 900.0), 103.0).records,
            lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 103.0).records,
        ]
        expected = facts(dict.fromkeys(range(3), StaleEpoch(1, 1)))
        assert await store.apply([back.records]) == {}
        early = await store.apply(zombie)
        second = lifecycle.acquire(back.row, LEASE, 104.0)
        assert await store.apply([second.records]) == {}
        late = await store.apply(zombie)

        assert facts(early) == facts(late) == expected
        assert await store.turn(1) == second.row
        assert await store.deliverable(1) is None
        assert len(await store.edges(1)) == second.row.edges

    async def test_edges_are_never_changed(self, store: Store) -> None:
        """Whatever is written under a taken ordinal, the first stays as it was."""
        before = await store.edges(1)
        rejected = await store.apply([[EdgeAppended(n, "steered", 9, 0.0, b"x", 1, 1)] for n in range(2)])

        assert facts(rejected) == facts({0: VersionConflict(1, 0), 1: VersionConflict(1, 1)})
        assert await store.edges(1) == before
