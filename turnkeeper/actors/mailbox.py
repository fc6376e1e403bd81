"""The mailbox: the live turns of one actor as its runtime holds them, at most one of them current."""

import asyncio
from collections import deque
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from turnkeeper.actors.agent import UNSERVED, Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.kernel.names import Address

__all__ = ["Mailbox"]

# An idle actor's mailbox, which nothing can be put into: one of its own would be most of what such an actor costs.
_EMPTY: Final[tuple[Any, Any]] = (), MappingProxyType({})


class Mailbox:
    """The turns of the actor at one address.

    `_current` is the one turn that may run, from before its lease is submitted until its end is committed;
    `_queue` holds the others in the order of their receipts.
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
        return self.definition is UNSERVED or self.address.agent_id in self._node.resting

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
        if known is None or key is None:
            return None
        if known.committed or known.arrival_of(key).digest == digest:
            return self.reread(known)
        return self.settled(known)

    def reread(self, turn: OpenTurn) -> "asyncio.Future[None] | None":
        """Return what to wait for where a turn is being read again: nothing is written for it meanwhile."""
        return self.settled(turn) if turn.rereading else None

    def settled(self, turn: OpenTurn) -> "asyncio.Future[None]":
        """Return what is done once it is known how a turn stands."""
        settled: asyncio.Future[None] = self._node.loop.create_future()
        turn.settling.append(settled)
        return settled

    def open_turns(self) -> list[OpenTurn]:
        """Return every live turn of the actor, in order."""
        return [*([self._current] if self._current is not None else []), *self._queue]

    def live(self, turn_id: int) -> OpenTurn | None:
        """Return a live turn by its number, also one whose lease is being committed with the end of the one before."""
        held = chain(self.open_turns(), self._by_key.values())
        return next((turn for turn in held if turn.row.turn_id == turn_id), None)

    @property
    def waiting_len(self) -> int:
        """Return how many messages wait: as turns in the queue, or beside the one that opened their turn."""
        waiting = len(self._queue)
        if self._node.joined:  # else each of a flood's messages would walk through all before it
            waiting += sum(turn.beside_len for turn in self.open_turns() if turn.joined or turn.unread)
        return waiting

    @property
    def still(self) -> bool:
        """Say whether all there is to know of its turns is in the store, so that a copy read there lacks nothing."""
        return all(turn.steady and not turn.noting for turn in self.open_turns())

    @property
    def awaited(self) -> bool:
        """Say whether somebody in this process waits for a turn of the actor, so that it stays in memory."""
        return any(not one.done() for turn in self.open_turns() for one in turn.listeners)

    def leave(self) -> None:
        """Take note that the actor leaves memory; its turns come back, as others, when it does."""
        for turn in self.open_turns():
            turn.parked = True
            turn.disarm()

    def waits_for(self) -> list[Address] | None:
        """Return the actors at which live turns of this one have asked for turns; None where that is not known."""
        found: list[Address] = []
        for turn in self.open_turns():
            if turn.children is None:
                return None
            found.extend(turn.children.values())
        return found

    async def learn_children(self) -> None:
        """Read where the child turns are of those turns of which that is not known.

        Raises:
            StorageFailed: the store cannot be read.
        """
        for turn in self.open_turns():
            if turn.children is None:
                children = await self._node.store.waiting.live_children(turn.row.turn_id)
                turn.children = dict(children) if turn.children is None else turn.children

    def _wake(self) -> None:
        """Give the actor a mailbox of its own, where it was idle."""
        if self._queue is _EMPTY[0]:
            self._queue, self._by_key = deque(), {}

    def _clear(self) -> None:
        """Let go of the mailbox of an actor that has no live turn."""
        self._queue, self._by_key = _EMPTY

    def _count(self, turn: OpenTurn, *, suspended: bool) -> None:
        """Count a turn among those that are suspended, or no more."""
        self._node.suspended += suspended - turn.counted
        turn.counted = suspended

    def _forget(self, turn: OpenTurn) -> None:
        self._count(turn, suspended=False)
        for key in (turn.arrival.key, *(one.key for one in turn.joined.values())):
            if self._by_key.get(key) is turn:
                del self._by_key[key]
        if turn in self._queue:
            self._queue.remove(turn)
