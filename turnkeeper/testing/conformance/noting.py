"""Noting: what is wanted of agents and children stands until it is said otherwise; what became of them is bounded."""
# ruff: noqa: S101 - tests say what they expect by asserting it, and in numbers

from collections.abc import Sequence

import pytest

from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.edge import EdgeKind
from turnkeeper.kernel.errors import StaleEpoch, StorageFailed, TurnkeeperError, VersionConflict
from turnkeeper.kernel.ports import Store
from turnkeeper.kernel.records import ChildNoted, ReceiptRetired, Record
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.kept import check_noted
from turnkeeper.kernel.supervision.noted import (
    DETAIL_BYTES_MAX,
    EVENTS_MAX,
    EVENTS_PER_PATH_MAX,
    PATH_BYTES_MAX,
    SAID,
    TEXT_BYTES_MAX,
    ChildEvent,
    ChildEventKind,
    DesiredRow,
    Note,
    decode_note,
    noted,
    verb_noted,
)
from turnkeeper.testing.conformance.refusing import GUILTY, check_alone
from turnkeeper.testing.conformance.world import (
    LEASE,
    QUEUED,
    RUNNING,
    Stores,
    accepted,
    again,
    changed,
    everything,
    facts,
    neighbours,
)

__all__ = ["Noting"]

BILLING, PRICES, REVIEWER = "agents/billing", "tree/shop/prices", "processes/reviewer"
BEFORE: dict[Verb, Desired] = {Verb.RELEASE: Desired.QUARANTINED}
"""What must be wanted for a verb to mean something; running, for most."""


def said(path: str, verb: Verb, at: float = 110.0, reason: str = "", by: str = "") -> Sequence[Record]:
    """Return the point in which a verb is said."""
    return verb_noted(path, BEFORE.get(verb, Desired.RUNNING), verb, Note(reason, by=by), at=at, boot_id=1)[1]


def event(path: str, kind: ChildEventKind = ChildEventKind.STARTED, incarnation: int = 1, **note: object) -> ChildNoted:
    """Return an event of the first boot."""
    return noted(path, kind, changed(Note(), **note), incarnation=incarnation, at=110.0, boot_id=1)


async def numbers(store: Store, path: str | None = None) -> list[int]:
    return [one.event_id for one in await store.child_events(path, limit=2 * EVENTS_MAX)]


PAUSE, FALL = verb_noted(BILLING, Desired.RUNNING, Verb.PAUSE, at=110.0, boot_id=1)[1][0], event(BILLING)
LONG = "\u00e9"
UNFIT: dict[str, Record] = {
    "what nobody can want": changed(PAUSE, desired="paused "),
    "what is wanted of nobody": changed(PAUSE, path=""),
    "what is wanted at no time": changed(PAUSE, at=float("nan")),
    "what is wanted of a path too long": changed(PAUSE, path=LONG * (PATH_BYTES_MAX // 2) + "x"),
    "a reason too long": changed(PAUSE, reason=LONG * (TEXT_BYTES_MAX // 2) + "x"),
    "somebody's name too long": changed(PAUSE, changed_by="x" * (TEXT_BYTES_MAX + 1)),
    "a reason that is no text": changed(PAUSE, reason="\ud800"),
    "a reason that is missing": changed(PAUSE, reason=None),
    "an event of no kind": changed(FALL, kind="fell"),
    "an event of nobody": changed(FALL, path=""),
    "an event of a path too long": changed(FALL, path="x" * (PATH_BYTES_MAX + 1)),
    "an event of a path that is no text": changed(FALL, path="\udfff"),
    "an event of an incarnation before the first": changed(FALL, incarnation=-1),
    "an event of an incarnation past 64 bits": changed(FALL, incarnation=2**63),
    "an event at no time": changed(FALL, at=float("nan")),
    "an event of no boot": changed(FALL, boot_id=99),
    "an event that says too much": changed(FALL, detail=b"x" * (DETAIL_BYTES_MAX + 1)),
    "an event whose detail is text": changed(FALL, detail="x"),
}
"""Records that break one rule of the tables each."""


class Noting:
    """What a store keeps of supervision."""

    # ------------------------------------------------------------ what is wanted

    async def test_of_a_new_store_nothing_is_wanted_and_nothing_is_noted(self, store: Store) -> None:
        """What has no row is to run."""
        assert await store.desired() == []
        assert await store.child_events() == []
        assert await store.child_events(BILLING) == []

    @pytest.mark.parametrize("verb", Verb)
    async def test_a_verb_and_its_event_stand_together(self, verb: Verb, store: Store, stores: Stores) -> None:
        """With who said it and why, for whom; now and after the store is opened again."""
        point = verb_noted(
            BILLING, BEFORE.get(verb, Desired.RUNNING), verb, Note("why", by="ann"), at=110.5, boot_id=1
        )[1]
        kind, after = SAID[verb]
        assert await store.apply([point]) == {}
        async with again(stores, store) as reopened:
            (row,), (one,) = await reopened.desired(), await reopened.child_events()

            assert row == DesiredRow(BILLING, after, "why", 110.5, "ann", point[0].digest)
            assert one == ChildEvent(1, 110.5, 1, BILLING, kind, 0, point[1].detail, point[1].digest)
            assert (type(row.desired), type(one.kind)) == (Desired, ChildEventKind)
            assert (decode_note(one).reason, decode_note(one).by) == ("why", "ann")
            assert await reopened.look(lambda rows: (list(rows.desired()), list(rows.child_events()))) == ([row], [one])
            assert await reopened.look(lambda rows: list(check_noted(rows))) == []

    async def test_the_last_word_counts_in_the_order_of_commits(self, store: Store) -> None:
        """Whatever its time says, in one batch and in many; another path's word changes nothing."""
        words = [Verb.PAUSE, Verb.RESUME, Verb.STOP, Verb.RESUME, Verb.QUARANTINE]
        points = [said(BILLING, verb, 200.0 - number) for number, verb in enumerate(words)]
        assert await store.apply([*points[:3], said(PRICES, Verb.PAUSE)]) == {}
        first = {row.path: row.desired for row in await store.desired()}
        assert await store.apply(points[3:]) == {}
        second = {row.path: (row.desired, row.at) for row in await store.desired()}
        events = await store.child_events(BILLING)

        assert first == {BILLING: Desired.STOPPED, PRICES: Desired.PAUSED}
        assert second == {BILLING: (Desired.QUARANTINED, 196.0), PRICES: (Desired.PAUSED, 110.0)}
        assert [one.kind for one in events] == [SAID[verb][0] for verb in words]

    async def test_what_is_wanted_is_listed_by_path(self, store: Store) -> None:
        """In the order of the paths' letters, whoever was spoken to first."""
        paths = ["b", "a/b", "\u00e9", "\U0001f9ea", "B", "a", "a\0b", "\uffff"]
        assert await store.apply([said(path, Verb.STOP) for path in paths]) == {}

        assert [row.path for row in await store.desired()] == sorted(paths)

    # ------------------------------------------------------------ what is noted

    async def test_events_are_numbered_without_a_gap_in_the_order_of_commits(
        self, store: Store, stores: Stores
    ) -> None:
        """A refused one takes no number, and a store opened again goes on counting."""
        refused = [event(PRICES), *GUILTY["an edge where one stands"][0]]
        points: list[Sequence[Record]] = [
            [event(BILLING)],
            refused,
            [event(PRICES), event(BILLING)],
            said("x", Verb.STOP),
        ]
        assert list(await store.apply(points)) == [1]
        async with again(stores, store) as reopened:
            assert await reopened.apply([[event(REVIEWER, ChildEventKind.DIED, 7)]]) == {}
            events = await reopened.child_events()

            assert [(one.event_id, one.path) for one in events] == list(
                enumerate([BILLING, PRICES, BILLING, "x", REVIEWER], 1)
            )
            assert (events[-1].kind, events[-1].incarnation) == (ChildEventKind.DIED, 7)

    @pytest.mark.parametrize("kind", [kind for kind in ChildEventKind if kind not in dict(SAID.values())])
    async def test_an_event_comes_back_as_it_was_noted(self, kind: ChildEventKind, store: Store) -> None:
        """Every kind, with all that can be said of it."""
        note = Note("it fell", "ValueError", 3, 9, 2, 30.5, 4242, "")
        record = noted(PRICES, kind, note, incarnation=2**62, at=110.25, boot_id=1)
        assert await store.apply([[record]]) == {}
        (one,) = await store.child_events(PRICES)

        assert one == ChildEvent(1, 110.25, 1, PRICES, kind, 2**62, record.detail, record.digest)
        assert decode_note(one) == note

    async def test_texts_that_are_too_long_are_cut_so_that_they_are_noted(self, store: Store) -> None:
        """The longest note fits, in whatever script; what is no valid text is made one."""
        note = Note("\U0001f9ea" * 9_000, "\ud800" * 9_000, -(2**63), 2**63, 2**63, 1e300, 2**63, "\u00e9" * 9_000)
        path = "agents/" + "\U0001f9ea" * 512
        _, point = verb_noted(path, Desired.RUNNING, Verb.QUARANTINE, note, at=110.0, boot_id=1)
        assert await store.apply([point]) == {}
        (row,), (one,) = await store.desired(), await store.child_events(path)

        assert row.reason == decode_note(one).reason == "\U0001f9ea" * (TEXT_BYTES_MAX // 4)
        assert row.changed_by == decode_note(one).by == "\u00e9" * (TEXT_BYTES_MAX // 2)
        assert decode_note(one).error == "?" * TEXT_BYTES_MAX

    @pytest.mark.parametrize("limit", [1, 2, 5, 7])
    async def test_pages_of_events_neither_skip_nor_repeat(self, limit: int, store: Store) -> None:
        """Of all, and of one path; behind the last there is nothing."""
        paths = [BILLING, PRICES, BILLING, BILLING, REVIEWER, BILLING, BILLING]
        assert await store.apply([[event(path)] for path in paths]) == {}
        for path in (None, BILLING):
            expected, seen = await store.child_events(path), list[ChildEvent]()
            while page := await store.child_events(path, seen[-1].event_id if seen else 0, limit):
                assert len(page) <= limit
                seen += page

            assert seen == expected
            assert len(seen) == (7 if path is None else 5)
        assert await store.child_events("agents/bill") == []
        assert await store.child_events("\ud800") == []
        assert await store.child_events(after=2**63) == []

    # ------------------------------------------------------------ together with others

    async def test_what_is_noted_stands_or_falls_with_the_rest_of_its_point(self, store: Store) -> None:
        """With a turn's end, with an inbound: one commit point, all or nothing."""
        ended = lifecycle.end(RUNNING.row, EdgeKind.TURN_COMPLETED, b"\x2a", 102.0)
        before = await everything(store)
        fallen = [*said(BILLING, Verb.QUARANTINE), *ended.records, event(BILLING), ReceiptRetired(99)]
        assert facts(await store.apply([fallen])) == facts({0: VersionConflict(99, 0)})
        assert await everything(store) == before

        assert await store.apply([[*ended.records, event(BILLING), *said(BILLING, Verb.QUARANTINE)]]) == {}
        assert await store.turn(1) == ended.row
        assert [row.desired for row in await store.desired()] == [Desired.QUARANTINED]
        assert await numbers(store) == [1, 2]

    @pytest.mark.parametrize("refused", ["the event", "the verb"])
    async def test_a_verb_whose_event_is_refused_was_not_said(self, refused: str, store: Store, stores: Stores) -> None:
        """And the other way round: what was wanted before is wanted still."""
        assert await store.apply([said(BILLING, Verb.PAUSE)]) == {}
        row, one = said(BILLING, Verb.STOP)
        point = [row, changed(one, boot_id=99)] if refused == "the event" else [changed(row, desired="gone"), one]
        assert isinstance(await check_alone(store, stores, point), StorageFailed)
        async with again(stores, store) as reopened:
            assert [row.desired for row in await reopened.desired()] == [Desired.PAUSED]
            assert [one.kind for one in await reopened.child_events()] == [ChildEventKind.PAUSED]

    async def test_a_guilty_neighbour_changes_nothing(self, store: Store) -> None:
        """In a batch that is gone through point by point it comes to the same."""
        guilty, error = GUILTY["an edge where one stands"]
        points = [said(BILLING, Verb.PAUSE), guilty, [event(PRICES)], said(BILLING, Verb.RESUME), accepted(5)]

        assert facts(await store.apply(points)) == facts({1: error})
        assert [row.desired for row in await store.desired()] == [Desired.RUNNING]
        assert [one.path for one in await store.child_events()] == [BILLING, PRICES, BILLING]

    @pytest.mark.parametrize("unfit", UNFIT)
    async def test_what_breaks_a_rule_of_the_tables_is_refused_alone(
        self, unfit: str, store: Store, stores: Stores
    ) -> None:
        """Closed words, bounded texts, boots that have started."""
        refusal: TurnkeeperError = await check_alone(store, stores, [event(PRICES), UNFIT[unfit]])

        assert isinstance(refusal, StorageFailed)

    async def test_what_just_fits_is_taken(self, store: Store) -> None:
        """The bounds are counted in bytes, and are themselves within."""
        path = LONG * (PATH_BYTES_MAX // 2)
        row = changed(PAUSE, path=path, reason=LONG * (TEXT_BYTES_MAX // 2), changed_by="x" * TEXT_BYTES_MAX)
        one = changed(FALL, path=path, detail=b"x" * DETAIL_BYTES_MAX, incarnation=0)
        assert await store.apply([[row, one]]) == {}

        assert [found.reason for found in await store.desired()] == [row.reason]
        assert [found.detail for found in await store.child_events(path)] == [one.detail]

    # ------------------------------------------------------------ what goes

    async def test_of_a_child_that_falls_again_and_again_the_newest_events_are_kept(
        self, store: Store, stores: Stores
    ) -> None:
        """In one batch and in many; another child's stay, and no number comes twice."""
        assert await store.apply([[event(PRICES)]]) == {}
        many = EVENTS_PER_PATH_MAX + 20
        assert await store.apply([[event(BILLING, incarnation=number)] for number in range(many)]) == {}
        newest = [one.incarnation for one in await store.child_events(BILLING, limit=EVENTS_MAX)]
        async with again(stores, store) as reopened:
            assert await reopened.apply([[event(BILLING), event(BILLING)], [event(REVIEWER)]]) == {}
            kept = await numbers(reopened, BILLING)

            assert newest == list(range(20, many))
            assert kept == list(range(many + 4 - EVENTS_PER_PATH_MAX, many + 4))
            assert await numbers(reopened) == [1, *kept, many + 4]
            assert await reopened.look(lambda rows: list(check_noted(rows))) == []

    async def test_an_event_that_is_refused_takes_none_away(self, store: Store) -> None:
        """What it would have pushed out is there as before."""
        assert await store.apply([[event(BILLING)] for _ in range(EVENTS_PER_PATH_MAX)]) == {}
        before = await store.child_events(limit=EVENTS_MAX)
        stale = lifecycle.acquire(changed(QUEUED.row, epoch=7), LEASE, 102.0).records
        refused = await store.apply([[event(BILLING), event(PRICES), *stale], *neighbours(1)])

        assert facts(refused) == facts({0: StaleEpoch(2, 7)})
        assert await store.child_events(limit=EVENTS_MAX) == before

    async def test_of_many_children_the_newest_events_are_kept_in_all(self, store: Store) -> None:
        """However many there are; what is wanted of them stands, though the verb's event has gone."""
        assert await store.apply([said(BILLING, Verb.QUARANTINE)]) == {}
        events: list[Record] = [event(f"tree/{number % 99}") for number in range(EVENTS_MAX + 5)]
        assert await store.apply([events]) == {}
        kept = await numbers(store)

        assert kept == list(range(7, EVENTS_MAX + 7))
        assert await store.child_events(BILLING) == []
        assert [(row.path, row.desired) for row in await store.desired()] == [(BILLING, Desired.QUARANTINED)]
        assert await store.look(lambda rows: list(check_noted(rows))) == []

    async def test_pruning_turns_takes_nothing_of_it(self, store: Store) -> None:
        """It is no turn's."""
        assert await store.apply([said(BILLING, Verb.STOP), [event(PRICES)], accepted(900)]) == {}
        before = await store.desired(), await store.child_events()

        assert await store.prune(1e12, 1e12, 10) == 1
        assert (await store.desired(), await store.child_events()) == before
