"""The session agent: the durable actor at one address, and its mailbox of turns, one active at a time."""

import asyncio
from bisect import insort
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from turnkeeper.actors.openturn import Child, OpenTurn, Parent
from turnkeeper.actors.persistence import Told, conclude
from turnkeeper.actors.signals import Signals
from turnkeeper.actors.steering import HANDED_BYTES
from turnkeeper.kernel.arrival import Arrived, Found, Policy, arrive
from turnkeeper.kernel.edge import EdgeKind, PolicyResolved
from turnkeeper.kernel.ending import cancelled
from turnkeeper.kernel.errors import ActorBusy, MailboxFull, StaleEpoch, StorageFailed, TurnkeeperError
from turnkeeper.kernel.lifecycle import Arrival, Change, Fork, accept, drop_duplicate, join, observe
from turnkeeper.kernel.ports import LiveTurn
from turnkeeper.kernel.receipt import FRESH_KEY, Admission, admit
from turnkeeper.kernel.records import ActorOpened, Record
from turnkeeper.kernel.step import fold_steps
from turnkeeper.kernel.turn import TurnRow, TurnState
from turnkeeper.kernel.wait import OpenWait

__all__ = ["Admitted", "SessionAgent"]


class Admitted(NamedTuple):
    """What an inbound has come to: its turn, how it came there, and whether it was there before (a duplicate)."""

    turn: OpenTurn
    arrival: Arrival
    duplicate: bool


class SessionAgent(Signals):
    """The durable actor at one address: what it is sent comes in here."""

    __slots__ = ()

    def admit(  # noqa: PLR0913 - each is said by its name
        self,
        key: str | None,
        payload: bytes,
        digest: bytes,
        *,
        retired: int | None = None,
        fork: Fork | None = None,
        child: Child | None = None,
        policy: Policy = Policy.QUEUE,
    ) -> "asyncio.Future[Admitted]":
        """Accept an inbound, or count it as a duplicate; the future is done once that is durable.

        The turn starts by itself, whatever becomes of the caller. No key means a fresh one. `retired` is the
        expired receipt of the key. A `fork` begins with another turn's record. A `child` is asked for by another turn,
        whose record of that is committed with it. The `policy` says what becomes of it where a turn is live already;
        one that may join a turn must be under a key of which the store is known to hold nothing else.

        Raises:
            IdempotencyConflict: the key stands for another payload of a live turn.
            ActorBusy: a turn is live, and the policy is to refuse then.
            MailboxFull: `mailbox_len_max` messages wait; nothing was accepted.
        """
        node, now = self._node, self._node.clock.time()
        known = self._by_key.get(key) if key is not None else None
        before = known.arrival_of(key) if known is not None and key is not None else None
        match admit(before, digest, now):
            case Admission.DUPLICATE if known is not None and before is not None:
                return self.drop(known, before, now)
            case Admission.RENEWED if before is not None:
                retired = before.turn_id
        arrived = self._arrived(policy, len(payload))
        if self.waiting_len >= node.settings.mailbox_len_max:
            raise MailboxFull(str(self.address), node.settings.mailbox_len_max)
        node.persistence.check_room()
        number = node.next_id()
        arrival = Arrival(
            number,
            self.actor_id,
            f"{FRESH_KEY}{number}" if key is None else key,
            payload,
            digest,
            now,
            now + node.settings.idempotency_s,
            fork,
            child.chain if child is not None else [],
            arrived._value_,
        )
        joins = self._joins(arrived)
        return self._open(arrival, retired, child) if joins is None else self._join(joins, arrival, retired)

    def _arrived(self, policy: Policy, payload_len: int) -> Arrived:
        """Return what a message comes to that arrives now.

        Raises:
            ActorBusy: it is refused.
        """
        last = self._queue[-1] if self._queue else None
        joinable = last is not None and last.untouched
        arrived = arrive(policy, self._standing, resting=self._resting, joinable=joinable)
        if arrived is Arrived.REFUSED:
            raise ActorBusy(str(self.address))
        if arrived is Arrived.STEERED and payload_len + HANDED_BYTES > self._node.settings.payload_bytes_max:
            return Arrived.QUEUED  # the record of the step that hands it over would be too large
        return arrived

    def _joins(self, arrived: Arrived) -> OpenTurn | None:
        """Return the turn that a message joins, if it joins one."""
        if arrived is Arrived.COALESCED:
            return self._queue[-1]
        return self._current if arrived is Arrived.STEERED else None

    @property
    def _standing(self) -> Found:
        turn = self._current
        if turn is None:
            return Found.WAITING if self._queue else Found.IDLE
        if turn.moving or turn.rereading or turn.broken is not None:
            return Found.WAITING
        if turn.row.state is TurnState.SUSPENDED:
            return Found.SUSPENDED
        return Found.RUNNING if turn.stop is None and not turn.ending else Found.STOPPING

    # ------------------------------------------------------------ a turn of its own

    def _open(self, arrival: Arrival, retired: int | None, child: Child | None) -> "asyncio.Future[Admitted]":
        node, at_once = self._node, arrival.arrived == Arrived.STARTED
        change = accept(arrival, node.lease if at_once else None, retired, self.definition.version)
        turn = OpenTurn(change.row, arrival, committed=False)
        records = change.records
        if child is not None:  # first of all: where it cannot be begun, nothing of it is to stay here
            turn.parent = child.parent
            records = [*records, *child.begin(arrival.turn_id)]
        self._wake()
        if arrival.fork is not None:
            turn.steps = fold_steps(arrival.fork.steps)
        if at_once:
            self._current = turn
        else:
            self._queue.append(turn)
        self._by_key[arrival.key] = turn
        first = not self._opened
        if first:
            self._opened = True
            records = [ActorOpened(self.actor_id, *self.address), *records]
        done: asyncio.Future[Admitted] = node.loop.create_future()
        told = partial(self._admitted, turn, done, first, child)
        if arrival.arrived == Arrived.INTERRUPTED and self._current is not None and self._current.request is None:
            self._interrupt(self._current, arrival, records, told)
        else:
            node.persistence.submit(records, told)
        return done

    def _admitted(
        self,
        turn: OpenTurn,
        done: "asyncio.Future[Admitted]",
        first: bool,
        child: Child | None,
        error: TurnkeeperError | None,
    ) -> None:
        turn.settled()
        if child is not None:
            child.told(error)
        if error is None:
            turn.committed = True
            self._node.counters.accepted += 1
        else:
            if first:
                self._opened = False
            self._forget(turn)
        conclude(done, Admitted(turn, turn.arrival, duplicate=False), error)
        if self._current is not turn:
            self._next()
        elif error is None:
            self._start(turn)
        else:
            self._current = None
            self._next()

    # ------------------------------------------------------------ what joins a live turn

    def _join(self, turn: OpenTurn, arrival: Arrival, retired: int | None) -> "asyncio.Future[Admitted]":
        before, change = turn.row, join(turn.row, arrival, retired)
        turn.row = change.row
        turn.joined[arrival.turn_id] = arrival
        self._node.joined = True
        unread = 1 if turn.unread else 0  # then those in memory are not all, and are not what is counted
        turn.unread += unread
        turn.noting += 1
        self._by_key[arrival.key] = turn
        done: asyncio.Future[Admitted] = self._node.loop.create_future()

        def told(error: TurnkeeperError | None) -> None:
            turn.noting -= 1
            if error is None:
                self._node.counters.accepted += 1
            else:
                turn.joined.pop(arrival.turn_id, None)
                turn.unread = max(0, turn.unread - unread)
                if self._by_key.get(arrival.key) is turn:
                    del self._by_key[arrival.key]
                self._take_back(turn, before, error)
            conclude(done, Admitted(turn, arrival, duplicate=False), error)
            self._next()

        self._node.persistence.submit(change.records, told)
        return done

    def _interrupt(self, turn: OpenTurn, arrival: Arrival, records: Sequence[Record], told: Told) -> None:
        """Accept a message that ends the current turn: in one commit with its end or, where it runs, with the request.

        A turn that runs ends at its next safe point, in this process or in the next.
        """
        node, now = self._node, self._node.clock.time()
        request = turn.request = PolicyResolved(
            "turn", "", Policy.INTERRUPT._value_, reason=f"interrupted by receipt {arrival.turn_id}"
        )
        if turn.row.state is TurnState.SUSPENDED:
            ended = cancelled(turn.row, request, (), now)

            def moved(error: TurnkeeperError | None) -> None:
                if error is not None:  # nobody wants its end any more: it takes answers again
                    turn.request = None
                    turn.settled()
                told(error)

            self._move(turn, Change(ended.row, [*ended.records, *records]), moved)
            return
        before, change = turn.row, observe(turn.row, EdgeKind.POLICY_RESOLVED, request, now)
        turn.row = change.row

        def noted(error: TurnkeeperError | None) -> None:
            if error is not None:
                turn.request = None
                self._take_back(turn, before, error)
                if turn.broken is None:
                    turn.broken = error
            if turn.run is not None:
                turn.run.wind_up()
            told(error)

        node.persistence.submit([*change.records, *records], noted)

    def _take_back(self, turn: OpenTurn, before: TurnRow, error: TurnkeeperError) -> None:
        """Take back an edge that was refused, or read the turn again where others stand on top of it."""
        if isinstance(error, StorageFailed):
            if before.edges < turn.row.edges:
                turn.row = before  # everything after it has failed, too: its number is free again
        elif turn.committed and turn.broken is None and self.live(turn.row.turn_id) is turn:
            turn.broken = StaleEpoch(turn.row.turn_id, turn.row.epoch)
            if turn.task is None and not turn.moving:
                self._node.start(self.resync_turn(turn))

    # ------------------------------------------------------------ duplicates, and what the store holds

    def drop(self, known: OpenTurn, arrival: Arrival, now: float) -> "asyncio.Future[Admitted]":
        """Count a duplicate of what opened or joined a live turn; it is answered once the count is durable."""
        before = known.row
        trusted = None if known.broken is not None else before  # or its next edge would leave a gap
        row, records = drop_duplicate(trusted, arrival.turn_id, before.turn_id, now)
        if row is not None:
            known.row = row
        known.noting += 1
        done: asyncio.Future[Admitted] = self._node.loop.create_future()

        def told(error: TurnkeeperError | None) -> None:
            known.noting -= 1
            if error is None:
                self._node.counters.duplicates += 1
            elif row is not None:
                self._take_back(known, before, error)
            conclude(done, Admitted(known, arrival, duplicate=True), error)
            self._next()

        self._node.persistence.submit(records, told)
        return done

    def restore(self, live: LiveTurn, row: TurnRow, stands: Sequence[OpenWait] = ()) -> None:
        """Hold a turn that is live in the store, in its place in the order of acceptance, with what it stands on."""
        times = 0.0, live.expires_at
        arrival = Arrival(row.turn_id, row.actor_id, live.key, b"", live.digest, *times, arrived=live.arrived)
        turn = OpenTurn(row, arrival, committed=True)
        self._wake()
        self._by_key[live.key] = turn
        turn.parent = Parent(live.parent_id, None) if live.parent_id is not None else None
        turn.stands = [*stands]
        turn.unread = live.joined
        self._node.joined = self._node.joined or live.joined > 0
        turn.counted = row.state is TurnState.SUSPENDED  # by the store
        if row.state is TurnState.SUSPENDED:
            self._current = turn
        else:
            insort(self._queue, turn, key=lambda waiting: waiting.row.turn_id)  # mostly behind all others
