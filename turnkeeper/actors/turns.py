"""Turns of an actor, one after another: how each gets its lease, and what the end of its run means for the next."""

from abc import abstractmethod
from bisect import insort
from functools import partial

from turnkeeper.actors.mailbox import Mailbox
from turnkeeper.actors.nudges import drop_children, tell_of_child
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.persistence import Told
from turnkeeper.actors.resync import resync
from turnkeeper.actors.run import Run
from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.ending import cancelled
from turnkeeper.kernel.errors import TurnkeeperError, TurnNotFound
from turnkeeper.kernel.lifecycle import Change, acquire, part, requeue
from turnkeeper.kernel.records import Deliverable, Record
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState

__all__ = ["Turns"]


class Turns(Mailbox):
    """A mailbox whose turns run: one at a time, in the order of acceptance, each under a committed lease."""

    __slots__ = ()

    @abstractmethod
    def _stand(self, turn: OpenTurn) -> None:
        """Let a suspended turn stand on what it waits for."""

    # ------------------------------------------------------------ one turn after another

    def proceed(self) -> None:
        """Start what can be started. Calling it once more does nothing: a nudge creates no work."""
        self._next()

    def _next(self) -> None:
        if self._node.closing:
            return
        if self._current is not None:
            if self._current.row.state is TurnState.SUSPENDED and self.still:
                self._node.on_idle(self)
            return
        turn = self._ready()
        if turn is None:
            if not self._queue:
                self._clear()
                self._node.on_idle(self)
            return
        self._queue.popleft()
        self._current = turn
        change = acquire(turn.row, self._node.lease, self._node.clock.time(), self.definition.version)
        turn.row = change.row
        self._node.persistence.submit(change.records, partial(self._acquired, turn))

    def _ready(self) -> OpenTurn | None:
        """Return the head of the queue if it may start now; arm its timer if it may start later."""
        turn = self._queue[0] if self._queue else None
        if turn is None or not turn.committed or turn.moving or turn.broken is not None or self._resting:
            return None  # its own commit, or the agent's resumption, comes back here
        wait_s = (turn.row.due_at or 0.0) - self._node.clock.time()
        longest_s = max((self.definition.retry or self._node.retry).cap_s, self._node.settings.retry_cap_s)
        if 0 < wait_s <= longest_s + 1:  # a longer one comes from a clock that was put back
            turn.disarm()
            turn.timer = self._node.loop.call_later(wait_s, self._next)
            return None
        return turn

    def _acquired(self, turn: OpenTurn, error: TurnkeeperError | None) -> None:
        if error is None:
            self._start(turn)
        else:
            turn.broken = error
            self._node.start(self.resync_turn(turn))

    def _start(self, turn: OpenTurn) -> None:
        """Run a turn whose lease is committed, in a task of its own."""
        if turn.request is not None:
            self._move(turn, cancelled(turn.row, turn.request, (), self._node.clock.time()))
            return
        if self._node.closing or self._resting:
            self._move(turn, requeue(turn.row, Requeued("shutdown"), self._node.clock.time()))
            return
        Run(self._node, self.address, self.definition, turn, self._ended).start()

    # ------------------------------------------------------------ how a run ends

    def _ended(self, turn: OpenTurn, change: Change | None) -> None:
        if change is None:
            self._node.start(self.resync_turn(turn))
        else:
            self._move(turn, change)

    def _move(self, turn: OpenTurn, change: Change, told: Told | None = None) -> None:
        """Commit a turn's way out of where it stands, and with it the lease of the next, where it makes way for one.

        `told` hears of that commit.
        """
        turn.row, turn.moving = change.row, True
        ends = change.row.state in TERMINAL
        if ends and turn.unread:
            self._node.start(self._move_unread(turn, change, told))
            return
        records: list[Record] = [*change.records, *(self._part(turn) if ends and turn.joined else ())]
        successor: OpenTurn | None = None
        before: TurnRow | None = None
        if ends and turn is self._current and not self._node.closing:
            successor = self._ready()
        if successor is not None:
            self._queue.popleft()
            before = successor.row
            acquired = acquire(before, self._node.lease, self._node.clock.time(), self.definition.version)
            successor.row = acquired.row
            records = [*records, *acquired.records]
        deliverable = change.records[0]
        self._node.persistence.submit(records, partial(self._moved, turn, deliverable, successor, before, told))

    def _moved(
        self,
        turn: OpenTurn,
        deliverable: Record,
        successor: OpenTurn | None,
        before: TurnRow | None,
        told: Told | None,
        error: TurnkeeperError | None,
    ) -> None:
        turn.moving = False
        turn.settled()
        self._go_on(turn, deliverable, successor, before, error)
        if told is not None:
            told(error)

    def _go_on(
        self,
        turn: OpenTurn,
        deliverable: Record,
        successor: OpenTurn | None,
        before: TurnRow | None,
        error: TurnkeeperError | None,
    ) -> None:
        if error is not None:
            if successor is not None and before is not None:
                if before.edges < successor.row.edges:  # or a duplicate of it was refused, too, and took back more
                    successor.row = before
                self._queue.appendleft(successor)
            turn.broken = error
            for one in turn.parted:
                one.rereading = True  # whether they stand is the store's to say
            self._node.start(self.resync_turn(turn))
            return
        if isinstance(deliverable, Deliverable):
            self._finish(turn, deliverable)
            if turn is self._current:
                self._current = successor
            if successor is not None:
                self._start(successor)
                return
        else:
            self._place(turn)
        self._next()

    def _finish(self, turn: OpenTurn, deliverable: Deliverable) -> None:
        """Tell everyone that the turn has ended: its deliverable is durable."""
        self._parted(turn, stand=True)
        self._forget(turn)
        turn.finish(deliverable)
        self._node.ended(self.address, turn, deliverable)
        if turn.parent is not None:
            self._node.start(tell_of_child(self._node, turn.row.turn_id, *turn.parent))
        if turn.children is None or turn.children:
            self._node.start(drop_children(self._node, turn.row.turn_id))

    # ------------------------------------------------------------ what was steered to a turn that ends

    def _part(self, turn: OpenTurn) -> list[Record]:
        """Let what was steered to a turn that ends, and not taken, stand in the queue as turns of their own."""
        records: list[Record] = []
        for arrival in turn.steered:
            change = part(arrival)
            records.extend(change.records)
            parted = OpenTurn(change.row, arrival, committed=False)
            answers = arrival.expires_at > self._node.clock.time()
            if answers and self._by_key.get(arrival.key) in {None, turn}:  # or it stands for something newer
                self._by_key[arrival.key] = parted
            turn.parted.append(parted)
            insort(self._queue, parted, key=lambda waiting: waiting.row.turn_id)
        return records

    def _parted(self, turn: OpenTurn, *, stand: bool) -> None:
        """Take note whether those stand that were to part from a turn: they do if its end does."""
        for parted in turn.parted:
            parted.committed, parted.rereading = stand, False
            if not stand:
                self._forget(parted)
                if parted.row.turn_id in turn.joined:
                    self._by_key.setdefault(parted.arrival.key, turn)
            parted.settled()
        turn.parted = []

    async def learn_joined(self) -> bool:
        """Read what joined those turns of which that is not known; say whether there were any.

        Raises:
            StorageFailed: the store cannot be read.
        """
        unread = [turn for turn in self.open_turns() if turn.unread]
        for turn in unread:
            await self._learn(turn)
        return bool(unread)

    async def learn_last(self) -> bool:
        """Read whether the turn that waits last is a fork, which nothing joins; say whether that was not known.

        Raises:
            StorageFailed: the store cannot be read.
        """
        last = self._queue[-1] if self._queue else None
        if last is None or last.forked is not None:
            return False
        await self._learn(last)
        return True

    async def _learn(self, turn: OpenTurn) -> None:
        edges = await self._node.store.edges(turn.row.turn_id)
        if turn.unread or turn.forked is None:  # or its run has read them meanwhile, and may have taken something
            turn.read(edges)

    async def _move_unread(self, turn: OpenTurn, change: Change, told: Told | None) -> None:
        """Read what joined a turn before it ends: what nobody took must not end with it."""
        turn.rereading = True  # nothing is written for it meanwhile
        try:
            turn.read(await self._node.store.edges(turn.row.turn_id))
        except TurnkeeperError as error:
            turn.moving, turn.broken = False, error
            self._node.start(self.resync_turn(turn))
            if told is not None:
                told(error)
        else:
            self._move(turn, change, told)
        finally:
            turn.rereading = False
            turn.settled()

    def _place(self, turn: OpenTurn) -> None:
        """Put a live turn that runs no more where its row says it stands."""
        turn.park()
        self._count(turn, suspended=turn.row.state is TurnState.SUSPENDED)
        if turn.row.state is TurnState.SUSPENDED:
            self._current = turn
            self._stand(turn)
        else:
            if self._current is turn:
                self._current = None
            if turn not in self._queue:  # it is where it was read again without ever having been current
                insort(self._queue, turn, key=lambda waiting: waiting.row.turn_id)

    async def resync_turn(self, turn: OpenTurn) -> None:
        """Go on from what is stored, after the store has refused a write."""
        turn.stumbles += 1
        turn.resyncing = True
        try:
            row, deliverable = await resync(self._node, turn)
        finally:
            turn.resyncing = False
        turn.broken = None
        if deliverable is None:
            self._parted(turn, stand=False)
        if row is None:
            self._forget(turn)
            turn.abandon(TurnNotFound(turn.row.turn_id))
        else:
            turn.row = row
        if self._current is turn:
            self._current = None
        if deliverable is not None:
            self._finish(turn, deliverable)
        elif row is not None:
            self._place(turn)
        turn.settled()
        self._next()
