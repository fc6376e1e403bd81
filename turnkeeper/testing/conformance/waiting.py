"""Waiting: what suspended turns stand on and until when, their children, signals, handoffs, and messages that join."""
# ruff: noqa: S101, PLR2004 - tests say what they expect by asserting it, and in numbers

from collections.abc import Sequence

import pytest

from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.arrival import Arrived
from turnkeeper.kernel.edge import EdgeKind, Requeued, Resumed
from turnkeeper.kernel.history import Tally, check_rows
from turnkeeper.kernel.lifecycle import Change
from turnkeeper.kernel.ports import DueTurn, LiveTurn, Signal, Store
from turnkeeper.kernel.records import ActorOpened, HandedOff, Record, SignalSent, SignalTaken
from turnkeeper.kernel.rows import SignalRow
from turnkeeper.kernel.signal import digested
from turnkeeper.kernel.wait import OpenWait
from turnkeeper.testing.conformance.world import (
    ACTOR,
    LEASE,
    NEIGHBOUR,
    OTHER_ACTOR,
    QUEUED,
    RUNNING,
    STANDING,
    STOOD,
    Stores,
    accepted,
    address,
    again,
    arrival,
    changed,
    everything,
    standing,
)

__all__ = ["Waiting"]

FAILURE = b"\x93\xa1E\xa1m\xa0"
LEAVES: dict[str, Change] = {
    "resumed": lifecycle.resume(STANDING.row, LEASE, Resumed(1, 145.0), 102.0),
    "failed": lifecycle.end(STANDING.row, EdgeKind.TURN_FAILED, FAILURE, 102.0),
    "cancelled": lifecycle.end(STANDING.row, EdgeKind.TURN_CANCELLED, FAILURE, 102.0),
}
"""Ways out of a wait."""


def ids(live: Sequence[LiveTurn]) -> list[int]:
    return [one.row.turn_id for one in live]


def begun(turn_id: int, actor_id: int = NEIGHBOUR) -> list[list[Record]]:
    """Return the points that open an actor and let a turn of it run."""
    opened = [ActorOpened(actor_id, *address(actor_id))] if actor_id > NEIGHBOUR else []
    return [[*opened, *lifecycle.accept(arrival(turn_id, actor_id), LEASE).records]]


def stood(turn_id: int, *waits: OpenWait, actor_id: int = NEIGHBOUR) -> list[list[Record]]:
    """Return the points of a turn that begins and stands on things at once."""
    row = lifecycle.accept(arrival(turn_id, actor_id), LEASE).row
    return [*begun(turn_id, actor_id), standing(row, *waits).records]


def child(turn_id: int, parent_id: int, actor_id: int = NEIGHBOUR) -> Change:
    """Return the acceptance of a turn that another one has asked for."""
    return lifecycle.accept(changed(arrival(turn_id, actor_id), chain=[parent_id]), None)


def sent(number: int, name: str, key: str = "", expires_at: float = 200.0) -> SignalSent:
    """Return a signal to the neighbour; without a key it has one of its own."""
    return digested(SignalSent(number, NEIGHBOUR, name, key or f"signal-{number}", bytes([number]), 100.0, expires_at))


def joining(expires_at: float) -> list[list[Record]]:
    """Return the points of turn 500, of the neighbour, that has ended with message 501 in it, and of one behind it."""
    opened = lifecycle.accept(arrival(500, NEIGHBOUR), None)
    joined = changed(arrival(501, NEIGHBOUR), expires_at=expires_at, arrived=Arrived.COALESCED._value_)
    change = lifecycle.join(opened.row, joined)
    ended = lifecycle.end(change.row, EdgeKind.TURN_CANCELLED, FAILURE, 110.0)
    return [opened.records, change.records, ended.records, accepted(900, NEIGHBOUR)]


class Waiting:
    """What a store knows of turns that wait, and of who talks to them."""

    # ------------------------------------------------------------ waits

    async def test_a_suspended_turn_stands_on_what_it_asked_for(self, store: Store, stores: Stores) -> None:
        """In the order in which it asked, with where its children are; a turn that is not suspended on nothing."""
        asked = [
            OpenWait(0, "child", 800.0, 1, address(ACTOR)),
            OpenWait(2, "timer", 600.0),
            OpenWait(11, "handoff", 700.0, 4, address(OTHER_ACTOR)),
        ]
        assert await store.apply(stood(500, *asked)) == {}
        async with again(stores, store) as reopened:
            assert await reopened.waiting.waits(500) == asked
            assert await reopened.waiting.waits(4) == [STOOD]
            assert [await reopened.waiting.waits(turn_id) for turn_id in (1, 2, 3, 99, 2**63)] == [[]] * 5
            assert await reopened.look(lambda rows: rows.stands(500)) == [one._replace(child=None) for one in asked]

    async def test_waits_of_a_kind_come_in_pages(self, store: Store) -> None:
        """In the order of turns and, of each, of its steps; of one session or of all."""
        first = stood(500, OpenWait(0, "timer", 600.0), OpenWait(1, "approval", 600.0), OpenWait(2, "approval", 600.0))
        second = stood(501, OpenWait(3, "approval", 600.0), actor_id=40)
        assert await store.apply([*first, *second]) == {}
        found = [(4, 0), (500, 1), (500, 2), (501, 3)]

        assert await store.look(lambda rows: rows.waits("approval", (-1, -1), 9)) == found
        assert await store.look(lambda rows: rows.waits("approval", (500, 1), 1)) == [(500, 2)]
        assert await store.look(lambda rows: rows.waits("approval", (-1, -1), 9, session_id="session-40")) == [(501, 3)]
        assert await store.look(lambda rows: rows.waits("approval", (-1, -1), 9, tenant="")) == found
        assert await store.look(lambda rows: rows.waits("approval", (-1, -1), 9, tenant="acme")) == []
        assert await store.look(lambda rows: rows.waits("signal", (-1, -1), 9)) == []

    @pytest.mark.parametrize("leaves", LEAVES)
    async def test_waits_go_when_their_turn_is_suspended_no_more(self, leaves: str, store: Store) -> None:
        """Nothing of it is due any more; what it stands on when it is suspended again is all that it stands on."""
        assert await store.apply([LEAVES[leaves].records]) == {}
        assert await store.waiting.waits(4) == []
        assert await store.look(lambda rows: rows.waits("approval", (-1, -1), 9)) == []
        assert await store.waiting.suspended_count() == 0
        assert await store.waiting.next_due(0.0) is None
        assert await store.waiting.due_turns((0.0, 0), 1e9, 9) == []

        if leaves == "resumed":
            assert await store.apply([standing(LEAVES[leaves].row, OpenWait(9, "timer", 300.0)).records]) == {}
            assert await store.waiting.waits(4) == [OpenWait(9, "timer", 300.0)]

    async def test_a_wait_stands_or_falls_with_the_suspension(self, store: Store) -> None:
        """A suspension that is refused leaves no wait, also beside others of its batch that stand."""
        before = await everything(store)
        refused = standing(changed(RUNNING.row, version=1), OpenWait(0, "timer", 300.0))

        assert list(await store.apply([refused.records, *stood(500, OpenWait(0, "timer", 300.0))])) == [0]
        assert await store.waiting.waits(1) == []
        assert await store.waiting.waits(500) == [OpenWait(0, "timer", 300.0)]
        assert await store.turn(1) == RUNNING.row
        assert await everything(store) != before

    # ------------------------------------------------------------ deadlines

    async def test_turns_are_due_in_the_order_of_their_deadlines(self, store: Store, stores: Stores) -> None:
        """Of one deadline in the order of acceptance; not before their time, and that moment is in time."""
        deadlines = [(500, 700.0), (501, 300.0), (502, 700.0), (503, 500.0)]
        for turn_id, due_at in deadlines:
            later = OpenWait(1, "timer", due_at + 5.0)
            assert await store.apply(stood(turn_id, later, OpenWait(3, "signal", due_at), actor_id=turn_id)) == {}
        order = [(300.0, 501), (500.0, 503), (700.0, 500), (700.0, 502), (900.0, 4)]
        found = [
            DueTurn(due_at, turn_id, address(OTHER_ACTOR if turn_id == 4 else turn_id)) for due_at, turn_id in order
        ]
        async with again(stores, store) as reopened:
            due = reopened.waiting.due_turns

            assert await due((0.0, 0), 1e9, 9) == found
            assert await due((0.0, 0), 700.0, 9) == found[:4]
            assert await due((0.0, 0), 699.9, 9) == found[:2]
            assert await due((0.0, 0), 200.0, 9) == []
            assert await reopened.waiting.suspended_count() == 5

    @pytest.mark.parametrize("limit", [1, 2, 3, 5])
    async def test_pages_of_due_turns_neither_skip_nor_repeat(self, limit: int, store: Store) -> None:
        """Whoever goes on behind the last one has everyone, once; also where many are due at one moment."""
        for turn_id in range(500, 506):
            assert await store.apply(stood(turn_id, OpenWait(0, "timer", 300.0), actor_id=turn_id)) == {}
        seen: list[DueTurn] = []
        after = (0.0, 0)
        while page := await store.waiting.due_turns(after, 300.0, limit):
            assert len(page) <= limit
            seen += page
            after = page[-1][:2]

        assert [one.turn_id for one in seen] == [*range(500, 506)]

    async def test_the_next_deadline_lies_behind_a_moment(self, store: Store) -> None:
        """The moment itself is not behind it; behind the last there is none."""
        assert await store.apply(stood(500, OpenWait(0, "timer", 300.0))) == {}
        next_due = store.waiting.next_due

        assert [await next_due(after) for after in (0.0, 299.9, 300.0, 900.0)] == [300.0, 300.0, 900.0, None]

    async def test_awake_turns_are_those_of_actors_without_a_suspended_one(self, store: Store) -> None:
        """Those behind a suspended turn wait with it; an actor's own are told all the same."""
        assert await store.apply([accepted(500, OTHER_ACTOR), *begun(501)]) == {}
        assert ids(await store.awake_turns()) == [1, 2, 501]
        assert [ids(await store.live_turns_of(actor_id)) for actor_id in (OTHER_ACTOR, ACTOR, 99)] == [
            [4, 500],
            [1, 2],
            [],
        ]

        assert await store.apply([LEAVES["resumed"].records]) == {}
        assert ids(await store.awake_turns()) == [1, 2, 4, 500, 501]
        assert await store.awake_turns() == await store.live_turns()

    # ------------------------------------------------------------ children

    async def test_a_turn_knows_its_live_children_and_where_they_are(self, store: Store, stores: Stores) -> None:
        """Those that have ended are left out; a child's own children are its own."""
        first, second, third = child(500, 1), child(501, 1, OTHER_ACTOR), child(502, 500)
        ended = lifecycle.end(child(503, 1).row, EdgeKind.TURN_FAILED, FAILURE, 102.0)
        points = [first.records, second.records, third.records, child(503, 1).records, ended.records]
        assert await store.apply(points) == {}
        async with again(stores, store) as reopened:
            children = reopened.waiting.live_children

            assert await children(1) == [(500, address(NEIGHBOUR)), (501, address(OTHER_ACTOR))]
            assert await children(500) == [(502, address(NEIGHBOUR))]
            assert await children(2) == []
            assert [live.parent_id for live in await reopened.live_turns()] == [None, None, None, 1, 1, 500]
            assert [live.parent_id for live in await reopened.live_turns_of(NEIGHBOUR)] == [1, 500]

    async def test_a_child_that_ended_unheard_is_told_until_its_parent_goes_on(self, store: Store) -> None:
        """Of a parent that stands on it still: one that runs is told by other means."""
        asked, ended = child(500, 4), lifecycle.end(child(500, 4).row, EdgeKind.TURN_FAILED, FAILURE, 102.0)
        parent = stood(600, OpenWait(0, "child", 800.0, 500), OpenWait(1, "child", 800.0, 1), actor_id=40)
        assert await store.apply([asked.records, *parent]) == {}
        assert await store.waiting.answered_children() == []
        assert await store.apply([ended.records]) == {}
        assert await store.waiting.answered_children() == [(500, 600)]
        row = await store.turn(600)
        assert row is not None
        assert await store.apply([lifecycle.resume(row, LEASE, Resumed(1, 145.0), 103.0).records]) == {}

        assert await store.waiting.answered_children() == []

    @pytest.mark.parametrize("leaves", LEAVES)
    async def test_a_child_whose_parent_has_ended_is_an_orphan(self, leaves: str, store: Store) -> None:
        """While the parent lives, whether it runs or stands, it is none; nor once it has ended itself."""
        asked = child(500, 4)
        assert await store.apply([asked.records]) == {}
        assert await store.waiting.orphaned_children() == []
        assert await store.apply([LEAVES[leaves].records]) == {}
        assert await store.waiting.orphaned_children() == ([] if leaves == "resumed" else [500])
        assert await store.apply([lifecycle.end(asked.row, EdgeKind.TURN_CANCELLED, FAILURE, 103.0).records]) == {}

        assert await store.waiting.orphaned_children() == []

    async def test_the_live_turns_of_a_session_are_those_of_all_its_agents(self, store: Store) -> None:
        """Of one tenant, in the order of acceptance."""
        opened = [
            ActorOpened(40, "", f"session-{ACTOR}", "triage"),
            ActorOpened(41, "acme", f"session-{ACTOR}", "triage"),
        ]
        assert await store.apply([opened, accepted(500, 40), accepted(501, 41), accepted(502)]) == {}

        assert await store.waiting.live_turns_in("", f"session-{ACTOR}") == [1, 2, 500, 502]
        assert await store.waiting.live_turns_in("acme", f"session-{ACTOR}") == [501]
        assert await store.waiting.live_turns_in("", "nowhere") == []

    async def test_a_turn_can_be_found_by_its_number(self, store: Store) -> None:
        """Live or over; what is not there is nowhere."""
        found = [await store.waiting.address_of(turn_id) for turn_id in (1, 3, 99, 2**63)]

        assert found == [address(ACTOR), address(OTHER_ACTOR), None, None]

    # ------------------------------------------------------------ signals

    async def test_the_oldest_signal_of_a_name_is_taken_first_and_once(self, store: Store, stores: Stores) -> None:
        """By name and actor; what was taken waits no more, and its key answers still."""
        signals = [sent(1, "paid"), sent(2, "sent"), sent(3, "paid", "key")]
        assert await store.apply([[signal] for signal in signals]) == {}
        assert await store.waiting.waiting_signal(NEIGHBOUR, "paid") == (1, b"\x01")
        assert await store.waiting.waiting_signal(ACTOR, "paid") is None
        assert await store.waiting.signals_waiting(NEIGHBOUR) == 3
        assert await store.apply([[SignalTaken(500, 1)]]) == {}
        async with again(stores, store) as reopened:
            waiting = reopened.waiting

            assert await waiting.waiting_signal(NEIGHBOUR, "paid") == (3, b"\x03")
            assert await waiting.waiting_signal(NEIGHBOUR, "sent") == (2, b"\x02")
            assert [await waiting.signals_waiting(actor_id) for actor_id in (NEIGHBOUR, ACTOR)] == [2, 0]
            assert await waiting.signal(NEIGHBOUR, "signal-1") == Signal(1, "paid", b"\x01", 200.0)
            assert await waiting.signal(NEIGHBOUR, "key") == Signal(3, "paid", b"\x03", 200.0)
            assert await waiting.signal(ACTOR, "key") is None
            taken = [SignalRow(signals[0], 500), SignalRow(signals[1], None), SignalRow(signals[2], None)]
            assert await reopened.look(lambda rows: list(rows.signals())) == taken

    async def test_turns_that_stand_on_a_signal_are_told_where_their_actors_have_one(self, store: Store) -> None:
        """Of whatever name: they may have missed it. One that stands on something else is not meant."""
        assert await store.apply([*stood(500, OpenWait(0, "timer", 600.0), OpenWait(1, "signal", 700.0))]) == {}
        assert await store.waiting.signalled_turns() == []
        assert await store.apply([[sent(1, "paid")], [changed(sent(2, "paid"), actor_id=OTHER_ACTOR)]]) == {}
        assert await store.waiting.signalled_turns() == [500]
        assert await store.apply([[SignalTaken(500, 1)]]) == {}

        assert await store.waiting.signalled_turns() == []

    async def test_signals_go_once_they_were_taken_and_their_keys_answer_no_more(
        self, store: Store, stores: Stores
    ) -> None:
        """Never the newest, from which numbers are counted on; what nobody has taken stays for ever."""
        signals = [sent(1, "paid"), sent(2, "paid"), sent(3, "paid", expires_at=300.0), sent(4, "paid")]
        taken = [SignalTaken(1, number) for number in (1, 3, 4)]
        assert await store.apply([[*signals, *taken]]) == {}
        await store.prune(0.0, 199.9, 10)
        assert len(await store.look(lambda rows: list(rows.signals()))) == 4
        await store.prune(0.0, 200.0, 0)
        await store.close()
        reopened = stores()
        marks = await reopened.open()
        left = await reopened.look(lambda rows: [row.sent.signal_id for row in rows.signals()])
        again_sent = await reopened.apply([[sent(5, "paid", "signal-1")]])
        await reopened.close()

        assert left == [2, 3, 4]
        assert marks.signal_id == 4
        assert again_sent == {}

    # ------------------------------------------------------------ handoffs

    async def test_handoffs_are_counted_by_session_and_timed_by_pair(self, store: Store) -> None:
        """The last one of that direction; other sessions and tenants have their own."""
        session = ("", f"session-{ACTOR}")
        handed = [
            HandedOff(500, *session, "triage", "billing", 110.0),
            HandedOff(501, *session, "triage", "billing", 130.0),
            HandedOff(502, *session, "billing", "triage", 120.0),
            HandedOff(503, "acme", session[1], "triage", "billing", 140.0),
            HandedOff(504, "", "another", "triage", "billing", 150.0),
        ]
        assert await store.apply([[one] for one in handed]) == {}
        handoffs = store.waiting.handoffs

        assert await handoffs(*session, "triage", "billing") == (3, 130.0)
        assert await handoffs(*session, "billing", "triage") == (3, 120.0)
        assert await handoffs(*session, "triage", "people") == (3, None)
        assert await handoffs("acme", session[1], "triage", "billing") == (1, 140.0)
        assert await handoffs("acme", "another", "triage", "billing") == (0, None)

    # ------------------------------------------------------------ what joined, and what is pruned

    async def test_a_message_that_joined_a_turn_has_a_receipt_of_its_own_that_leads_there(
        self, store: Store, stores: Stores
    ) -> None:
        """It is counted with the live turn, and says what its arrival came to."""
        joined = changed(arrival(500), arrived=Arrived.STEERED._value_)
        assert await store.apply([lifecycle.join(RUNNING.row, joined).records]) == {}
        async with again(stores, store) as reopened:
            receipt = await reopened.receipt(ACTOR, "key-500")
            assert receipt is not None
            assert (receipt.receipt_id, receipt.turn_id, receipt.arrived) == (500, 1, Arrived.STEERED)
            assert await reopened.look(lambda rows: rows.joined(1)) == [receipt]
            assert [live.joined for live in await reopened.live_turns()] == [1, 0, 0]
            assert [live.joined for live in await reopened.awake_turns()] == [1, 0]
            assert await reopened.look(lambda rows: rows.turn(500)) is None

    async def test_a_message_moves_to_a_turn_of_its_own(self, store: Store) -> None:
        """Its receipt keeps its number, its key and its duplicates."""
        joined = changed(arrival(500), arrived=Arrived.STEERED._value_)
        change = lifecycle.join(RUNNING.row, joined)
        _, dropped = lifecycle.drop_duplicate(change.row, 500, 1, 103.0)
        assert await store.apply([change.records, dropped, lifecycle.part(joined).records]) == {}
        receipt, row = await store.receipt(ACTOR, "key-500"), await store.turn(500)

        assert receipt is not None
        assert (receipt.receipt_id, receipt.turn_id, receipt.duplicate_count) == (500, 500, 1)
        assert row == lifecycle.part(joined).row
        assert await store.look(lambda rows: rows.joined(1)) == []

    async def test_what_joined_a_turn_goes_with_it_and_keeps_it_while_its_key_answers(self, store: Store) -> None:
        """The keys of both are free then."""
        assert await store.apply(joining(300.0)) == {}
        assert await store.prune(1e12, 299.9, 10) == 1, "turn 3"
        assert await store.receipt(NEIGHBOUR, "key-501") is not None
        assert await store.prune(1e12, 300.0, 10) == 1

        assert [await store.receipt(NEIGHBOUR, f"key-{number}") for number in (500, 501)] == [None, None]
        assert await store.look(lambda rows: (rows.turn(500), list(rows.orphans()))) == (None, [])
        assert await store.apply([accepted(901, NEIGHBOUR, "key-501")]) == {}

    async def test_a_turn_that_a_suspended_one_waits_for_is_not_pruned(self, store: Store) -> None:
        """Its deliverable is the answer."""
        parent = stood(500, OpenWait(0, "child", 800.0, 3))
        assert await store.apply([*parent, accepted(900)]) == {}
        assert await store.prune(1e12, 1e12, 10) == 0
        row = await store.turn(500)
        assert row is not None
        resumed = lifecycle.resume(row, LEASE, Resumed(1, 145.0), 103.0)
        back = lifecycle.requeue(resumed.row, Requeued("resolved"), 103.0)
        assert await store.apply([resumed.records, back.records, accepted(901)]) == {}

        assert await store.prune(1e12, 1e12, 10) == 1
        assert await store.turn(3) is None

    async def test_a_store_with_all_of_this_is_sound(self, store: Store) -> None:
        """By every rule of the history, but that the suite's receipts hold another digest than their payload's."""
        joined = changed(arrival(501), arrived=Arrived.COALESCED._value_)
        points: list[Sequence[Record]] = [
            *stood(500, OpenWait(0, "child", 800.0, 1), OpenWait(1, "signal", 700.0)),
            lifecycle.join(QUEUED.row, joined).records,
            [sent(1, "paid"), SignalTaken(500, 1), HandedOff(500, *address(NEIGHBOUR)[:2], "triage", "billing", 110.0)],
        ]
        assert await store.apply(points) == {}

        found = await store.look(lambda rows: {found.rule for found in check_rows(rows, Tally())})
        assert found <= {"receipt = inbound"}
