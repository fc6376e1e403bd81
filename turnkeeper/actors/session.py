"""The session agent: the durable actor at one address, and its mailbox of turns, one active at a time."""

import asyncio
from bisect import insort
from collections import deque
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.persistence import conclude, settle
from turnkeeper.actors.resync import resync
from turnkeeper.actors.run import Run
from turnkeeper.actors.waiting import NO_DOUBT, Finding, answer, check_finding, overdue
from turnkeeper.kernel.edge import EdgeKind, Requeued, encode_failure
from turnkeeper.kernel.errors import MailboxFull, StorageFailed, TurnkeeperError, TurnNotFound, WaitTokenInvalid
from turnkeeper.kernel.lifecycle import (
    Arrival,
    Change,
    Fork,
    accept,
    acquire,
    drop_duplicate,
    end,
    failure_of,
    requeue,
    resume,
)
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import LiveTurn
from turnkeeper.kernel.receipt import FRESH_KEY, Admission, admit
from turnkeeper.kernel.records import ActorOpened, Deliverable, Record
from turnkeeper.kernel.step import fold_steps
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState

__all__ = ["Admitted", "SessionAgent"]

# An idle actor's mailbox, which nothing can be put into: one of its own would be most of what such an actor costs.
_EMPTY: Final[tuple[Any, Any]] = (), MappingProxyType({})

Admitted = tuple[OpenTurn, bool]
"""The turn an inbound has, and whether it had it before (a duplicate)."""


class SessionAgent:
    """The durable actor at one address.

    `_current` is the one turn that may run, from before its lease is submitted until its end is committed;
    `_queue` holds the others in the order of their receipts. A handler runs only under a committed lease.
    """

    __slots__ = ("_by_key", "_current", "_node", "_opened", "_queue", "actor_id", "address", "definition")

    def __init__(self, node: Node, address: Address, definition: Agent, actor_id: int, *, opened: bool) -> None:
        """Make the actor; `opened` says whether the store has its row."""
        self._node = node
        self._opened = opened
        self._current: OpenTurn | None = None
        self._queue: deque[OpenTurn] = _EMPTY[0]
        self._by_key: dict[str, OpenTurn] = _EMPTY[1]
        self.address = address
        self.definition = definition
        self.actor_id = actor_id

    @property
    def idle(self) -> bool:
        """Say whether no turn of the actor is live."""
        return self._current is None and not self._queue

    @property
    def _resting(self) -> bool:
        return self.address.agent_id in self._node.resting

    @property
    def current(self) -> OpenTurn | None:
        """Return the turn that runs, or is suspended, now."""
        return self._current

    def open_turn(self, key: str) -> OpenTurn | None:
        """Return the live turn in memory that has this key."""
        return self._by_key.get(key)

    def unsettled(self, key: str | None, digest: bytes) -> "asyncio.Future[None] | None":
        """Return what to wait for where a key's turn is being read again, or is not committed and has another payload.

        Whether that turn stands is not known: judged by it, a rightful duplicate could be refused.
        """
        known = self._by_key.get(key) if key is not None else None
        if known is None or not (known.rereading or (not known.committed and known.arrival.digest != digest)):
            return None
        settled: asyncio.Future[None] = self._node.loop.create_future()
        known.settling.append(settled)
        return settled

    def open_turns(self) -> list[OpenTurn]:
        """Return every live turn of the actor, in order."""
        return [*([self._current] if self._current is not None else []), *self._queue]

    # ------------------------------------------------------------ arrival

    def admit(
        self, key: str | None, payload: bytes, digest: bytes, *, retired: int | None = None, fork: Fork | None = None
    ) -> "asyncio.Future[Admitted]":
        """Accept an inbound, or count it as a duplicate; the future is done once that is durable.

        The turn starts by itself, whatever becomes of the caller. No key means a fresh one. `retired` is the
        expired receipt of the key. A `fork` begins with another turn's record.

        Raises:
            IdempotencyConflict: the key stands for another payload of a live turn.
            MailboxFull: `mailbox_len_max` turns wait; nothing was accepted.
        """
        node, now = self._node, self._node.clock.time()
        known = self._by_key.get(key) if key is not None else None
        match admit(known.arrival if known is not None else None, digest, now):
            case Admission.DUPLICATE if known is not None:
                return self._drop(known, now)
            case Admission.RENEWED if known is not None:
                retired = known.row.turn_id
        if len(self._queue) >= node.settings.mailbox_len_max:
            raise MailboxFull(str(self.address), node.settings.mailbox_len_max)
        node.persistence.check_room()
        expires_at = now + node.settings.idempotency_s
        turn_id = node.next_id()
        key = f"{FRESH_KEY}{turn_id}" if key is None else key
        arrival = Arrival(turn_id, self.actor_id, key, payload, digest, now, expires_at, fork)
        at_once = self.idle and not self._resting
        change = accept(arrival, node.lease if at_once else None, retired, self.definition.version)
        turn = OpenTurn(change.row, arrival, committed=False)
        self._wake()
        if fork is not None:
            turn.steps = fold_steps(fork.steps)
        if at_once:
            self._current = turn
        else:
            self._queue.append(turn)
        self._by_key[key] = turn
        records = change.records
        first = not self._opened
        if first:
            self._opened = True
            records = [ActorOpened(self.actor_id, *self.address), *records]
        done: asyncio.Future[Admitted] = node.loop.create_future()
        node.persistence.submit(records, partial(self._admitted, turn, done, first))
        return done

    def _admitted(
        self, turn: OpenTurn, done: "asyncio.Future[Admitted]", first: bool, error: TurnkeeperError | None
    ) -> None:
        turn.settled()
        if error is None:
            turn.committed = True
            self._node.counters.accepted += 1
        else:
            if first:
                self._opened = False
            self._forget(turn)
        conclude(done, (turn, False), error)
        if self._current is not turn:
            self._next()
        elif error is None:
            self._start(turn)
        else:
            self._current = None
            self._next()

    def _drop(self, known: OpenTurn, now: float) -> "asyncio.Future[Admitted]":
        """Count a duplicate of a live turn; it is answered with that turn once the count is durable."""
        before = known.row
        trusted = None if known.broken is not None else before  # or its next edge would leave a gap
        row, records = drop_duplicate(trusted, before.turn_id, before.turn_id, now)
        if row is not None:
            known.row = row
        done: asyncio.Future[Admitted] = self._node.loop.create_future()

        def told(error: TurnkeeperError | None) -> None:
            if error is None:
                self._node.counters.duplicates += 1
            elif isinstance(error, StorageFailed) and row is not None and before.edges < known.row.edges:
                known.row = before  # everything after it has failed, too: its number is free again
            conclude(done, (known, True), error)

        self._node.persistence.submit(records, told)
        return done

    def restore(self, live: LiveTurn, row: TurnRow) -> None:
        """Hold a turn that is live in the store, in its place in the order of acceptance."""
        arrival = Arrival(row.turn_id, row.actor_id, live.key, b"", live.digest, 0.0, live.expires_at)
        turn = OpenTurn(row, arrival, committed=True)
        self._wake()
        self._by_key[live.key] = turn
        if row.state is TurnState.SUSPENDED:
            self._current = turn
            self._stand(turn)
        else:
            insort(self._queue, turn, key=lambda waiting: waiting.row.turn_id)  # mostly behind all others

    def _wake(self) -> None:
        """Give the actor a mailbox of its own, where it was idle."""
        if self._queue is _EMPTY[0]:
            self._queue, self._by_key = deque(), {}

    # ------------------------------------------------------------ one turn after another

    def proceed(self) -> None:
        """Start what can be started. Calling it once more does nothing: a nudge creates no work."""
        self._next()

    def _next(self) -> None:
        if self._current is not None or self._node.closing:
            return
        turn = self._ready()
        if turn is None:
            if not self._queue:
                self._queue, self._by_key = _EMPTY
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
        if turn is None or not turn.committed or self._resting:
            return None  # its own commit, or the agent's resumption, comes back here
        wait_s = (turn.row.due_at or 0.0) - self._node.clock.time()
        longest_s = max((self.definition.retry or self._node.settings.retry).cap_s, self._node.settings.retry_cap_s)
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

    def _move(self, turn: OpenTurn, change: Change) -> None:
        """Commit a turn's way out of running; the successor's lease rides in the same commit."""
        turn.row = change.row
        records: list[Record] = change.records
        successor: OpenTurn | None = None
        before: TurnRow | None = None
        if change.row.state in TERMINAL and not self._node.closing:
            successor = self._ready()
        if successor is not None:
            self._queue.popleft()
            before = successor.row
            acquired = acquire(before, self._node.lease, self._node.clock.time(), self.definition.version)
            successor.row = acquired.row
            records = [*records, *acquired.records]
        deliverable = change.records[0]
        self._node.persistence.submit(records, partial(self._moved, turn, deliverable, successor, before))

    def _moved(
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
            self._node.start(self.resync_turn(turn))
            return
        if isinstance(deliverable, Deliverable):
            self._finish(turn, deliverable)
            self._current = successor
            if successor is not None:
                self._start(successor)
                return
        else:
            self._place(turn)
        self._next()

    def _finish(self, turn: OpenTurn, deliverable: Deliverable) -> None:
        """Tell everyone that the turn has ended: its deliverable is durable."""
        self._forget(turn)
        turn.finish(deliverable)
        self._node.ended(self.address, turn, deliverable)

    def _place(self, turn: OpenTurn) -> None:
        """Put a live turn that runs no more where its row says it stands."""
        turn.loaded = False
        if turn.row.state is TurnState.SUSPENDED:
            self._current = turn
            self._stand(turn)
        else:
            self._current = None
            self._queue.appendleft(turn)

    def _forget(self, turn: OpenTurn) -> None:
        if self._by_key.get(turn.arrival.key) is turn:
            del self._by_key[turn.arrival.key]
        if turn in self._queue:
            self._queue.remove(turn)

    async def resync_turn(self, turn: OpenTurn) -> None:
        """Go on from what is stored, after the store has refused a write."""
        turn.stumbles += 1
        row, deliverable = await resync(self._node, turn)
        turn.broken = None
        if row is None:
            self._forget(turn)
            turn.abandon(TurnNotFound(turn.row.turn_id))
        else:
            turn.row = row
        self._current = None
        if deliverable is not None:
            self._finish(turn, deliverable)
        elif row is not None:
            self._place(turn)
        self._next()

    # ------------------------------------------------------------ standing on a wait

    def _stand(self, turn: OpenTurn) -> None:
        """Let a suspended turn stand until it is resolved, or until its wait's deadline ends it."""
        self._node.suspended[turn.row.turn_id] = self
        self._node.log.warning("turn.suspended", turn_id=turn.row.turn_id, address=str(self.address))
        pause_s = self._node.settings.backoff_s(turn.stumbles, 0.0) if turn.stumbles else 0.0
        wait_s = max(pause_s, (turn.row.due_at or 0.0) - self._node.clock.time())
        turn.timer = self._node.loop.call_later(wait_s, self._give_up, turn)

    def _give_up(self, turn: OpenTurn) -> None:
        if turn.row.state is TurnState.SUSPENDED:
            self._node.start(self._time_out(turn))

    async def _time_out(self, turn: OpenTurn) -> None:
        """Fail a turn that nobody has answered; an answer that comes meanwhile wins."""
        stood_at = turn.row.version
        try:
            error = await overdue(self._node, turn.row.turn_id)
        except TurnkeeperError as unreadable:
            self._node.log.warning("turn.unreadable", turn_id=turn.row.turn_id, error=type(unreadable).__name__)
            turn.timer = self._node.loop.call_later(self._node.settings.retry_base_s, self._give_up, turn)
            return
        if turn.row.version == stood_at and not self._node.closing:
            self._node.suspended.pop(turn.row.turn_id, None)
            body = encode_failure(failure_of(error))
            self._move(turn, end(turn.row, EdgeKind.TURN_FAILED, body, self._node.clock.time()))

    async def resolve(self, turn_id: int, finding: Finding, token: str) -> None:
        """Say what became of the effect a suspended turn stands on; the turn then runs again.

        Raises:
            WaitTokenInvalid: the turn does not stand on this doubt, or has been answered.
            ContractViolation, PayloadTooLarge: the result cannot be stored.
        """
        check_finding(finding)
        turn = self._current
        if turn is None or turn.row.turn_id != turn_id or turn.row.state is not TurnState.SUSPENDED:
            raise WaitTokenInvalid(turn_id, NO_DOUBT)
        asked_at = turn.row.version
        found = await answer(self._node, turn_id, finding, token, self.definition)
        if turn.row.version != asked_at:
            raise WaitTokenInvalid(turn_id, "it has been answered already, or its time was over")
        change = resume(turn.row, self._node.lease, found, self._node.clock.time())
        turn.disarm()
        turn.row, turn.loaded = change.row, False
        self._node.suspended.pop(turn_id, None)
        done: asyncio.Future[None] = self._node.loop.create_future()
        told = settle(done)

        def resumed(error: TurnkeeperError | None) -> None:
            self._acquired(turn, error)
            told(error)

        self._node.persistence.submit(change.records, resumed)
        await done
