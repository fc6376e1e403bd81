"""An open turn: a live turn as the runtime that runs it holds it in memory."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from turnkeeper.kernel.arrival import Arrived
from turnkeeper.kernel.edge import Answer, Edge, PolicyResolved, Suspended
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.fork import is_fork
from turnkeeper.kernel.joining import coalesced_of, handed_of, joined_of
from turnkeeper.kernel.lifecycle import Arrival
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.records import Deliverable, Record
from turnkeeper.kernel.step import StepRecord
from turnkeeper.kernel.supervision.storm import Storm
from turnkeeper.kernel.turn import TurnRow, TurnState
from turnkeeper.kernel.verdict import Stop
from turnkeeper.kernel.wait import OpenWait

if TYPE_CHECKING:
    from turnkeeper.actors.run import Run

__all__ = ["Child", "OpenTurn", "Parent"]


class Parent(NamedTuple):
    """The turn that a child turn tells its end; where it is, if that is known."""

    turn_id: int
    address: Address | None


class Child(NamedTuple):
    """Who asks for a child turn: the turns it descends from, the last of them, and its record of that.

    `begin` returns what is to be committed with the child, given its number; `told` hears what came of that.
    """

    chain: list[int]
    parent: Parent
    begin: Callable[[int], list[Record]]
    told: Callable[[TurnkeeperError | None], None]


class OpenTurn:
    """A live turn in memory: its row as last submitted, its run if it has one, and `listeners` who wait for its end.

    `row` runs ahead of the store by what is submitted and not yet committed; when the store refuses, the row is read
    again (`SessionAgent`, resync), and until then `broken` says why it is not to be trusted. While it is `resyncing`
    that goes on, again and again where the store fails; while it is `rereading` nobody writes for it, or the row would
    be out of date as it comes. `steps` is the record that a rerun is answered
    from. `uncalled` are steps whose intent was written and whose tool has not been called: a run that ends there
    leaves no doubt about them. `progress_s` is when its run last got on, by the loop's clock; a pause that it was told
    to make counts as progress until its end. `fruitless` says that it has not got on at all, and `storm` hears when it
    does.

    What it waits for: `open_waits` are the waits of its record that have no answer yet, by their place among its steps,
    once that is loaded; `standing` those of them that its run awaits at this moment; `stands` what it stood on when it
    was suspended. `chain` are the turns that it descends from, `children` its live child turns and where they are, None
    where that has to be read first; `parent` is whom its end is told to. `request` says that somebody wants it to end;
    `handed` how a turn ended that it was handed to. While its way out of running is being committed it is `moving`;
    once its actor has left memory it is `parked`; `roused`, where an answer came while its run was being stopped.

    What `joined` it, by the numbers of the receipts, with those that its handler has `taken`; where the store has
    `unread` ones, that is not all, and what was taken is not known. `parted` are those that go on as turns of their own
    where its end is being committed. `noting` counts edges of it that are being committed beside its moves. `forked`
    says whether it is to repeat another turn; None where that has to be read first.
    """

    __slots__ = (
        "arrival",
        "broken",
        "chain",
        "children",
        "coalesced",
        "committed",
        "counted",
        "deliverable",
        "doubt",
        "dropped",
        "failures",
        "forked",
        "fruitless",
        "handed",
        "joined",
        "listeners",
        "loaded",
        "lost",
        "moving",
        "noting",
        "open_waits",
        "parent",
        "parked",
        "parted",
        "payload",
        "progress_s",
        "recoveries",
        "request",
        "rereading",
        "resyncing",
        "roused",
        "row",
        "run",
        "settling",
        "standing",
        "stands",
        "started_s",
        "steps",
        "stop",
        "storm",
        "stumbles",
        "suspension",
        "taken",
        "taking",
        "task",
        "timer",
        "uncalled",
        "unread",
    )

    def __init__(self, row: TurnRow, arrival: Arrival, *, committed: bool) -> None:
        """Hold a turn. One restored from the store has no payload here before its first run loads it."""
        self.row = row
        self.arrival = arrival
        self.committed = committed
        self.loaded = not committed
        self.payload = arrival.payload
        self.steps: dict[StepName, StepRecord] = {}
        self.failures = 0
        self.recoveries = 0
        self.stumbles = 0
        self.lost: TurnkeeperError | None = None
        self.settling: list[asyncio.Future[None]] = []
        self.rereading = self.resyncing = False
        self.counted = False  # among those that are suspended
        self.uncalled: dict[StepName, None] = {}  # in their order: it goes into edges
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.run: Run | None = None
        self.storm: Storm  # its agent's, from its first run on
        self.started_s = self.progress_s = 0.0
        self.deliverable: Deliverable | None = None
        self.listeners: list[asyncio.Future[Deliverable]] = []
        self.open_waits: dict[int, StepRecord] = {}
        self.standing: dict[int, asyncio.Future[Answer]] = {}
        self.stands: list[OpenWait] = []
        self.chain: Sequence[int] = arrival.chain
        self.children: dict[int, Address] | None = {} if row.epoch <= 1 and not committed else None
        self.parent: Parent | None = None
        self.request: PolicyResolved | None = None
        self.moving = self.parked = False
        self.joined: dict[int, Arrival] = {}
        self.taken: set[int] = set()
        self.taking: asyncio.Lock | None = None  # or two of its waits could be given the same signal
        self.unread = 0
        self.coalesced: list[bytes] | None = None
        self.parted: list[OpenTurn] = []
        self.noting = 0
        self.forked: bool | None = None if committed else arrival.fork is not None
        self.reset()

    def reset(self) -> None:
        """Forget the last run's end: a new run begins."""
        self.stop: Stop | None = None
        self.suspension: Suspended | None = None
        self.doubt: OpenWait | None = None
        self.handed: Answer | None = None
        self.dropped: list[str] = []
        self.roused = False
        self.standing.clear()
        self.broken: TurnkeeperError | None = None
        self.fruitless = True
        self.uncalled.clear()

    @property
    def ending(self) -> bool:
        """Say whether its run is about to end, so that no step of it starts any more."""
        return self.suspension is not None or self.request is not None

    @property
    def steady(self) -> bool:
        """Say whether what is held of it is all there is to know: no move of it, and no reading, is under way."""
        if not self.committed or self.moving or self.rereading or self.broken is not None:
            return False
        runs = self.loaded and self.task is not None and self.suspension is None
        return runs or self.row.state is not TurnState.RUNNING

    def park(self) -> None:
        """Let go of its record, which is read again before it is needed."""
        self.loaded = False
        self.payload, self.steps, self.open_waits = b"", {}, {}
        self.unread = max(self.unread, len(self.joined))

    def read(self, edges: Sequence[Edge]) -> None:
        """Take note of what joined it, and of what was taken, as its stored edges have it."""
        joined = joined_of(self.row.actor_id, edges) | self.joined
        self.joined = dict(sorted(joined.items()))
        self.taken, self.unread, self.forked = set(handed_of(edges)), 0, is_fork(edges)
        self.coalesced = coalesced_of(edges)

    def arrival_of(self, key: str) -> Arrival:
        """Return the inbound with this key: its own, or the last one of those that joined it."""
        joined = (one for one in reversed(self.joined.values()) if one.key == key)
        return self.arrival if key == self.arrival.key else next(joined, self.arrival)

    @property
    def steered(self) -> list[Arrival]:
        """Return what was steered to it and not taken, in the order of acceptance."""
        steered = (one for one in self.joined.values() if one.arrived == Arrived.STEERED)
        return [one for one in steered if one.turn_id not in self.taken]

    @property
    def untouched(self) -> bool:
        """Say whether a message may join it as if it had come with the turn's own: no run of it has begun.

        Neither a fork, which is to repeat another turn, nor a child turn, whose answer is its parent's, takes any in.
        """
        asked = self.forked is not False or self.parent is not None or self.request is not None
        return self.row.epoch == 0 and not asked and not self.moving and not self.rereading and self.broken is None

    @property
    def beside_len(self) -> int:
        """Return how many messages have joined it that no run of it has had."""
        if self.row.epoch == 0:
            return max(self.unread, len(self.joined))
        return max(self.unread, len(self.steered)) if self.joined else self.unread

    def halt(self, why: Stop) -> None:
        """Tell the running handler to stop, by cancelling its task, again and again; the first reason counts."""
        if self.stop is None:
            self.stop = why
            if self.run is not None:
                self.run.insist()
        if self.task is not None:
            self.task.cancel()

    def put_off(self, at_s: float) -> None:
        """Let the limit on being without progress count from a moment; what is known of a later one stands."""
        self.progress_s = max(self.progress_s, at_s)

    def break_off(self, error: TurnkeeperError) -> None:
        """Take note that its record has a hole, and wake who stands: no answer would ever come."""
        self.broken = self.broken or error
        for answered in self.standing.values():
            if not answered.done():
                answered.set_exception(error.anew())

    def get_on(self, at_s: float) -> None:
        """Take note of progress."""
        self.put_off(at_s)
        self.fruitless = False
        self.storm.get_on()

    def settled(self) -> None:
        """Let those go on who waited to see how the turn stands."""
        settling, self.settling = self.settling, []
        for waiting in settling:
            if not waiting.done():
                waiting.set_result(None)

    def disarm(self) -> None:
        """Cancel the turn's timer, if it has one."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def finish(self, deliverable: Deliverable) -> None:
        """Hand the committed deliverable to everyone who waits for it."""
        self.deliverable = deliverable
        listeners, self.listeners = self.listeners, []
        for future in listeners:
            if not future.done():
                future.set_result(deliverable)

    def abandon(self, error: TurnkeeperError) -> None:
        """Tell everyone who waits, or asks later, that this runtime will not deliver."""
        self.lost = error
        listeners, self.listeners = self.listeners, []
        for future in listeners:
            if not future.done():
                future.set_exception(error.anew())
        settling, self.settling = self.settling, []
        for settled in settling:
            if not settled.done():
                settled.set_exception(error.anew())
