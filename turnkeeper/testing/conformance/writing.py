"""Writing: what is written is what is read, now and after the store is opened again."""
# ruff: noqa: S101, PLR2004 - tests say what they expect by asserting it, and in numbers

import msgspec
import pytest

from turnkeeper.kernel import lifecycle, records
from turnkeeper.kernel.edge import EdgeKind, Requeued, Resumed, StepIntent, Suspended
from turnkeeper.kernel.lifecycle import Change
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import LiveTurn, Store
from turnkeeper.kernel.receipt import ReceiptRow, ReceiptState
from turnkeeper.kernel.records import ActorOpened, NodeStarted, ReceiptRetired
from turnkeeper.kernel.signal import digested
from turnkeeper.kernel.turn import fold
from turnkeeper.testing.conformance.world import (
    ACTOR,
    ENDED,
    LEASE,
    NEIGHBOUR,
    OTHER_ACTOR,
    QUEUED,
    RUNNING,
    STANDING,
    WORLD,
    Stores,
    accepted,
    address,
    again,
    arrival,
    changed,
    everything,
    neighbours,
)

__all__ = ["Writing"]

MOVES: dict[str, Change] = {
    "requeued, to start at once": lifecycle.requeue(RUNNING.row, Requeued("recovery"), 102.0),
    "requeued, to start later": lifecycle.requeue(RUNNING.row, Requeued("retry", 130.0), 102.0),
    "suspended": lifecycle.suspend(RUNNING.row, Suspended("approval", 900.0), 102.0),
    "resumed": lifecycle.resume(STANDING.row, LEASE, Resumed(1, 145.0), 102.0),
    "completed": lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 102.0),
    "failed": lifecycle.end(RUNNING.row, EdgeKind.TURN_FAILED, b"\x93\xa1E\xa1m\xa0", 102.0),
    "cancelled": lifecycle.end(RUNNING.row, EdgeKind.TURN_CANCELLED, b"\x93\xa1E\xa1m\xa0", 102.0),
    "failed in its queue": lifecycle.end(QUEUED.row, EdgeKind.TURN_FAILED, b"\x93\xa1E\xa1m\xa0", 102.0),
    "cancelled in its wait": lifecycle.end(STANDING.row, EdgeKind.TURN_CANCELLED, b"\x93\xa1E\xa1m\xa0", 102.0),
    "observed": lifecycle.observe(
        RUNNING.row, EdgeKind.STEP_INTENDED, StepIntent(0, "pay", "0", "effectful", msgspec.Raw(b"\x80"), "k"), 102.0
    ),
}
SIGNAL = digested(records.SignalSent(12, NEIGHBOUR, "paid", "key", b"\x2a", 100.0, 200.0))
TEXTS = ["", " ", "\0", "e\u0301", "\u00e9", "\U0001f9ea", "'; --", "line\nline\r", "\ufeff\uffff", "x" * 100_000]
BODIES = [b"", b"\0", bytes(range(256)), b"\xff" * 1_000_000]


class Writing:
    """What a store holds."""

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
    async def test_what_could_not_be_stored_is_in_no_row(self, store: Store, number: int) -> None:
        """Numbers beyond 64 bits and lone surrogates are asked for in vain; they break nothing."""
        found = [
            await store.turn(number),
            await store.deliverable(number),
            await store.actor_id(Address("", "\ud800", "a")),
            await store.receipt(number, "k"),
            await store.receipt(ACTOR, "\ud800"),
        ]

        assert found == [None] * 5
        assert await store.edges(number) == []

    async def test_a_new_store_has_a_name_and_nothing_in_it(self, stores: Stores) -> None:
        """The first ids are for the runtime to give out."""
        store = stores()
        marks = await store.open()
        seen = [await store.live_turns(), await store.turn(1), await store.edges(1), await store.deliverable(1)]
        found = [await store.receipt(1, "key"), await store.actor_id(address(ACTOR))]
        await store.close()

        assert marks.store_id
        assert (marks.boot_id, marks.actor_id, marks.receipt_id) == (0, 0, 0)
        assert seen == [[], None, [], None]
        assert found == [None, None]

    async def test_a_store_opened_again_has_its_name_and_goes_on_counting(self, stores: Stores) -> None:
        """No id is given out twice, whichever runtime comes next."""
        first = stores()
        name = (await first.open()).store_id
        assert await first.apply(WORLD) == {}
        await first.close()
        second = stores()
        marks = await second.open()
        await second.apply([[NodeStarted(7, 4243, 200.0, 245.0)], accepted(9, NEIGHBOUR), [SIGNAL]])
        await second.close()
        third = stores()
        later = await third.open()
        await third.close()

        assert msgspec.structs.astuple(marks) == (name, 1, NEIGHBOUR, 4, 0)
        assert msgspec.structs.astuple(later) == (name, 7, NEIGHBOUR, 9, 12)

    async def test_what_is_written_is_what_is_read(self, store: Store) -> None:
        """Rows, receipts, edges and deliverables come back as the decisions made them."""
        edges = await store.edges(3)
        turns = [await store.turn(turn_id) for turn_id in (1, 2, 3, 4)]

        assert turns == [RUNNING.row, QUEUED.row, ENDED.row, STANDING.row]
        assert await store.deliverable(3) == ENDED.records[0]
        assert fold(OTHER_ACTOR, edges) == ENDED.row
        assert [(edge.turn_id, edge.ordinal, type(edge.kind)) for edge in edges] == [
            (3, ordinal, EdgeKind) for ordinal in range(3)
        ]
        assert await store.receipt(ACTOR, "key-1") == ReceiptRow(
            1, ACTOR, "key-1", 1, b"digest", ReceiptState.PROCESSING, 0, 100.0, 100.0, 200.0
        )
        assert await store.actor_id(address(ACTOR)) == ACTOR

    async def test_what_is_not_there_is_none(self, store: Store) -> None:
        """Reading never makes anything up."""
        assert await store.turn(99) is None
        assert await store.deliverable(1) is None
        assert await store.edges(99) == []
        assert await store.receipt(ACTOR, "key-3") is None
        assert await store.actor_id(Address("tenant", "session-10", "billing")) is None

    @pytest.mark.parametrize("move", MOVES)
    async def test_a_turn_is_where_its_last_move_led_and_its_edges_lead_there_too(
        self, move: str, store: Store, stores: Stores
    ) -> None:
        """Every transition, with its epoch, version, attempt, owner and deadline; now and after opening again."""
        change = MOVES[move]
        assert await store.apply([change.records]) == {}
        turn_id = change.row.turn_id
        async with again(stores, store) as reopened:
            edges = await reopened.edges(turn_id)
            delivered = await reopened.deliverable(turn_id)

            assert await reopened.turn(turn_id) == change.row
            assert fold(change.row.actor_id, edges) == change.row
            assert delivered == next((r for r in change.records if isinstance(r, records.Deliverable)), None)

    async def test_live_turns_are_listed_in_the_order_of_acceptance_with_what_recovery_needs(
        self, store: Store, stores: Stores
    ) -> None:
        """Queued, running and suspended ones, with address and key; not those that have ended."""
        expected = [
            LiveTurn(change.row, address(change.row.actor_id), f"key-{change.row.turn_id}", b"digest", 200.0)
            for change in (RUNNING, QUEUED, STANDING)
        ]

        assert await store.live_turns() == expected
        async with again(stores, store) as reopened:
            assert await reopened.live_turns() == expected

    async def test_a_turn_that_moves_keeps_its_place_among_the_live(self, store: Store) -> None:
        """The order is that of acceptance, not of the last change."""
        assert await store.apply([MOVES["requeued, to start later"].records, accepted(5, NEIGHBOUR)]) == {}
        assert await store.apply([lifecycle.acquire(QUEUED.row, LEASE, 103.0).records]) == {}

        assert [live.row.turn_id for live in await store.live_turns()] == [1, 2, 4, 5]

    @pytest.mark.parametrize("limit", [1, 2, 3, 10])
    async def test_pages_of_live_turns_neither_skip_nor_repeat(self, limit: int, store: Store) -> None:
        """Whoever goes on behind the last place has every live turn once, by actor and turn, whatever its state."""
        assert await store.apply(neighbours(4)) == {}
        assert await store.apply([accepted(200, ACTOR)]) == {}
        live = await store.live_turns()
        seen, place = list[LiveTurn](), (0, 0)
        while page := await store.live_turns_after(*place, limit):
            assert len(page) <= limit
            seen, place = [*seen, *page], (page[-1].row.actor_id, page[-1].row.turn_id)

        assert seen == sorted(live, key=lambda one: (one.row.actor_id, one.row.turn_id))
        assert len(seen) == 3 + 4 + 1

    async def test_everything_is_there_after_the_store_is_opened_again(self, store: Store, stores: Stores) -> None:
        """Every row, through every way of reading it."""
        before = await everything(store)
        async with again(stores, store) as reopened:
            assert await everything(reopened) == before

    async def test_a_receipt_counts_its_duplicates_and_says_what_its_turn_says(self, store: Store) -> None:
        """The count rises with each; a late edge follows the last one, at the epoch the turn has."""
        _, dropped = lifecycle.drop_duplicate(None, 3, 3, 150.0)
        assert await store.apply([dropped, dropped]) == {}
        _, held = lifecycle.drop_duplicate(RUNNING.row, 1, 1, 160.0)
        assert await store.apply([held]) == {}
        counted = await store.receipt(OTHER_ACTOR, "key-3")
        late = await store.edges(3)

        assert counted is not None
        assert (counted.duplicate_count, counted.last_seen, counted.state) == (2, 150.0, ReceiptState.COMPLETED)
        assert (counted.first_seen, counted.expires_at) == (100.0, 200.0)
        assert [edge.ordinal for edge in late] == [0, 1, 2, 3, 4]
        assert [(edge.kind, edge.epoch, edge.at, edge.detail) for edge in late[3:]] == [
            (EdgeKind.DUPLICATE_DROPPED, ENDED.row.epoch, 150.0, b"")
        ] * 2
        assert await store.turn(3) == changed(ENDED.row, edges=5, digest=late[4].digest)
        assert [edge.kind for edge in await store.edges(1)][2:] == [EdgeKind.DUPLICATE_DROPPED]

    async def test_a_receipts_state_is_its_turns_in_other_words(self, store: Store) -> None:
        """It is never behind."""
        states = [
            found and found.state
            for found in [await store.receipt(ACTOR if n < 3 else OTHER_ACTOR, f"key-{n}") for n in (1, 2, 3, 4)]
        ]

        assert states == [
            ReceiptState.PROCESSING,
            ReceiptState.ACCEPTED,
            ReceiptState.COMPLETED,
            ReceiptState.PROCESSING,
        ]

    async def test_the_key_of_a_retired_receipt_stands_for_nothing_until_it_is_renewed(self, store: Store) -> None:
        """Then it stands for the new receipt; the old turn and its deliverable stay."""
        assert await store.apply([[ReceiptRetired(3)]]) == {}
        nothing = await store.receipt(OTHER_ACTOR, "key-3")
        assert await store.apply([accepted(5, OTHER_ACTOR, "key-3")]) == {}
        renewal = lifecycle.accept(arrival(6, OTHER_ACTOR, "key-3"), None, retired=5)
        assert await store.apply([renewal.records]) == {}
        found = await store.receipt(OTHER_ACTOR, "key-3")

        assert nothing is None
        assert found is not None
        assert (found.receipt_id, found.turn_id) == (6, 6)
        assert await store.deliverable(3) == ENDED.records[0]

    async def test_a_key_belongs_to_its_actor_alone(self, store: Store) -> None:
        """Another actor's equal key is another key."""
        assert await store.apply([accepted(5, NEIGHBOUR, "key-1")]) == {}
        found = [await store.receipt(actor_id, "key-1") for actor_id in (ACTOR, NEIGHBOUR, OTHER_ACTOR)]

        assert [receipt and receipt.turn_id for receipt in found] == [1, 5, None]

    async def test_an_address_is_told_from_its_neighbours_in_all_three_parts(self, store: Store) -> None:
        """Tenants share nothing, not even where their session names are equal."""
        addresses = [Address("t", "session-10", "billing"), Address("", "session-10", "b"), Address("", "billing", "")]
        await store.apply([[ActorOpened(40 + number, *at)] for number, at in enumerate(addresses)])

        assert [await store.actor_id(at) for at in addresses] == [40, 41, 42]
        assert await store.actor_id(address(ACTOR)) == ACTOR

    @pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
    async def test_a_text_comes_back_letter_for_letter(self, text: str, store: Store, stores: Stores) -> None:
        """Empty, long, of any script; nothing ends at a NUL, and nothing is normalised."""
        await store.apply(
            [[ActorOpened(40, text, "s", text)], accepted(5, ACTOR, text), accepted(6, ACTOR, text + "x")]
        )
        async with again(stores, store) as reopened:
            found = [await reopened.receipt(ACTOR, key) for key in (text, text + "x", text + "y")]

            assert [receipt and (receipt.key, receipt.turn_id) for receipt in found] == [
                (text, 5),
                (text + "x", 6),
                None,
            ]
            assert await reopened.actor_id(Address(text, "s", text)) == 40

    @pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
    async def test_bytes_come_back_byte_for_byte(self, body: bytes, store: Store, stores: Stores) -> None:
        """Digests, details and deliverables, the empty and the large."""
        accept = accepted(5, NEIGHBOUR)
        receipt = changed(next(r for r in accept if isinstance(r, records.ReceiptAccepted)), digest=body)
        point: list[records.Record] = [receipt if isinstance(r, records.ReceiptAccepted) else r for r in accept]
        edge = records.EdgeAppended(2, "model_attempt", 1, 102.0, body, 1, 1)
        ended = lifecycle.end(QUEUED.row, EdgeKind.TURN_CANCELLED, body, 102.0)
        batch: list[list[records.Record]] = [point, [edge], ended.records]
        assert await store.apply(batch) == {}
        async with again(stores, store) as reopened:
            found, delivered = await reopened.receipt(NEIGHBOUR, "key-5"), await reopened.deliverable(2)

            assert found is not None
            assert delivered is not None
            assert found.digest == delivered.body == (await reopened.edges(1))[2].detail == body

    async def test_numbers_come_back_as_they_went(self, store: Store, stores: Stores) -> None:
        """Whole ones up to 64 bits, times to the last bit."""
        largest, time = 2**63 - 1, 1_700_000_000.123456789
        points: list[list[records.Record]] = [
            [records.EdgeAppended(2, "model_attempt", largest, time, b"", 1, 1)],
            [records.EdgeAppended(3, "model_attempt", -(2**63), -time, b"", 1, 1)],
            [NodeStarted(largest, largest, time, float("inf"))],
        ]
        assert await store.apply(points) == {}
        await store.close()
        reopened = stores()
        marks = await reopened.open()
        edges = (await reopened.edges(1))[2:]
        await reopened.close()

        assert [(edge.epoch, edge.at) for edge in edges] == [(largest, time), (-(2**63), -time)]
        assert marks.boot_id == largest

    async def test_a_node_starts_beats_and_stops(self, store: Store) -> None:
        """Each is written; a boot that has stopped is still a boot."""
        beats: list[list[records.Record]] = [
            [records.NodeBeat(150.0, 1)],
            [records.NodeStopped(160.0, 1)],
            [NodeStarted(2, 4243, 170.0, 215.0)],
        ]

        assert await store.apply(beats) == {}
        assert await store.apply([[records.NodeBeat(150.0, 1)]]) == {}
