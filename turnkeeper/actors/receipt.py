"""Receipts and results as users hold them."""

import asyncio
from typing import Any, Final

import msgspec

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.values import decode
from turnkeeper.kernel.arrival import Arrived
from turnkeeper.kernel.edge import Failure
from turnkeeper.kernel.errors import TurnNotFound, TurnUnsuccessful
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.turn import TurnState

__all__ = ["Receipt", "Result", "result_of"]

_failures: Final = msgspec.msgpack.Decoder(Failure)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The one deliverable of a turn. `outcome` is completed, failed or cancelled; `at` is wall time, s.

    `body` is the deliverable as stored: the same bytes every time it is asked for.
    """

    turn_id: int
    outcome: str
    body: bytes
    at: float

    @property
    def value(self) -> Any:
        """Return what the handler returned.

        Raises:
            TurnUnsuccessful: the turn did not complete; the reason is the recorded failure.
        """
        if self.failure is not None:
            raise TurnUnsuccessful(self.turn_id, self.outcome, f"{self.failure.type}: {self.failure.message}")
        return decode(self.body, "the deliverable")

    @property
    def failure(self) -> Failure | None:
        """Return why the turn did not complete, None if it did."""
        return None if self.outcome == TurnState.COMPLETED else _failures.decode(self.body)


class Receipt:
    """The durable answer to an inbound: it was committed before you got this, and its turn will end.

    `duplicate` says that the key had been accepted before; the receipt is that earlier one. `arrived` is what the
    arrival came to: started, queued, coalesced, steered or interrupted; see docs/arriving.md. `turn_id` is the turn
    that answers it; a steered message that its turn does not take gets one of its own, with the receipt's number.
    """

    __slots__ = ("_node", "_turn", "address", "arrived", "duplicate", "key", "receipt_id", "turn_id")

    def __init__(  # noqa: PLR0913, PLR0917 - what a receipt says; made by the runtime
        self,
        node: Node,
        address: Address,
        key: str,
        turn_id: int,
        turn: OpenTurn | None,
        receipt_id: int | None = None,
        arrived: str = "",
        *,
        duplicate: bool,
    ) -> None:
        """Hold a receipt; made by the runtime. `turn` is None where the turn is not open in this runtime."""
        self._node = node
        self._turn = turn
        self.address = address
        self.key = key
        self.turn_id = turn_id
        self.receipt_id = turn_id if receipt_id is None else receipt_id
        self.arrived = arrived
        self.duplicate = duplicate

    def __repr__(self) -> str:
        """Return the receipt's address, key and turn."""
        return f"Receipt({self.address}, key={self.key!r}, turn_id={self.turn_id}, duplicate={self.duplicate})"

    async def deliverable(self) -> Result:
        """Wait for the turn's deliverable. Cancelling stops the waiting, never the turn.

        A steered message has that of the turn that took it or, where none did, of its own.

        Raises:
            ShuttingDown: the runtime closed first; the turn goes on in the next one, ask there again.
            TurnNotFound: the store does not hold the turn any more.
            UnknownAgent: the turn waits for an agent that this runtime was not given.
            StorageFailed: the store cannot be read, or its writer has crashed; ask again.
        """
        found = await self._ended()
        steered = self.arrived == Arrived.STEERED and self.turn_id != self.receipt_id
        if steered and await self._node.store.turn(self.receipt_id) is not None:
            self.turn_id, self._turn = self.receipt_id, None  # nobody took it there
            found = await self._ended()
        return found

    async def _ended(self) -> Result:
        while True:
            turn = self._held()
            if (self._node.closed or self._node.failed) and (turn is None or turn.deliverable is None):
                raise self._node.gone
            if turn is not None and turn.deliverable is None:
                return result_of(await self._awaited(turn))
            found = turn.deliverable if turn is not None else None
            found = found or await self._node.store.deliverable(self.turn_id)
            if found is not None:
                return result_of(found)
            if await self._node.store.turn(self.turn_id) is None:
                raise TurnNotFound(self.turn_id)
            async with self._node.hold(self.address) as agent:  # it had left memory: it is suspended, or behind one
                if (turn := agent.live(self.turn_id)) is not None:
                    self._turn = turn
                    return result_of(await self._awaited(turn))

    async def _awaited(self, turn: OpenTurn) -> Deliverable:
        if turn.lost is not None:
            raise turn.lost.anew()
        done: asyncio.Future[Deliverable] = self._node.loop.create_future()
        turn.listeners.append(done)
        try:
            return await done
        except asyncio.CancelledError:
            turn.listeners = [one for one in turn.listeners if one is not done]
            if (agent := self._node.agent_at(self.address)) is not None:
                agent.proceed()  # it may leave memory now
            raise

    def _held(self) -> OpenTurn | None:
        """Return the turn as it is held now: by the boot that took over, where the writer of an earlier one crashed.

        Raises:
            StorageFailed: that boot is on its way up.
        """
        last = self._node.line.last
        if last is not self._node and (last.open or last.failed):
            self._node = last
            if self._turn is not None and self._turn.deliverable is None:
                self._turn = None
        if self._turn is not None and self._turn.parked:
            self._turn = None
        if self._turn is None and not self._node.closing:
            self._node.check_open()
            agent = self._node.agent_at(self.address)
            self._turn = agent.live(self.turn_id) if agent is not None else None
        return self._turn


def result_of(found: Deliverable) -> Result:
    """Return a deliverable as users hold it."""
    return Result(turn_id=found.turn_id, outcome=found.outcome, body=found.body, at=found.at)
