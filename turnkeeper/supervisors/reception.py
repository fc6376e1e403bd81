"""The reception: every inbound comes in here, finds its session agent, and leaves with a receipt."""

import asyncio
from collections.abc import Mapping

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.receipt import Receipt
from turnkeeper.actors.session import SessionAgent
from turnkeeper.kernel.errors import (
    KeyTaken,
    ShuttingDown,
    StaleEpoch,
    TurnkeeperError,
    TurnNotFound,
    UnknownAgent,
    VersionConflict,
)
from turnkeeper.kernel.lifecycle import Fork, drop_duplicate
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import Admission, ReceiptRow, admit, payload_digest
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.verdict import Stop

__all__ = ["Reception"]

_TRIES_MAX = 16
"""Rounds an admission may lose against others for the same key; each round, some other one wins."""


class Reception:
    """The session agents of a runtime by address: live ones, and a bounded number of idle ones."""

    __slots__ = ("_agents", "_callers", "_definitions", "_idle", "_node", "_opening")

    def __init__(self, definitions: Mapping[str, Agent]) -> None:
        """Know which agents there are; `serve` before anything is admitted."""
        self._definitions = definitions
        self._agents: dict[Address, SessionAgent] = {}
        self._callers: dict[Address, int] = {}
        self._idle: dict[Address, SessionAgent] = {}
        self._opening: dict[Address, asyncio.Task[None]] = {}
        self._node: Node

    def serve(self, node: Node) -> None:
        """Work for this node from now on, with session agents of its own."""
        self._node = node
        self._agents.clear()
        self._idle.clear()

    def abandon(self, error: TurnkeeperError) -> None:
        """Tell everyone who waits for a turn that this node will not deliver it."""
        for agent in self.agents():
            for turn in agent.open_turns():
                if turn.task is None:
                    turn.disarm()
                turn.abandon(error)

    def agents(self) -> list[SessionAgent]:
        """Return the session agents in memory, idle ones included."""
        return list(self._agents.values())

    def names(self) -> list[str]:
        """Return the agents that the runtime was given."""
        return sorted(self._definitions)

    def want(self, agent_id: str, desired: Desired) -> None:
        """Let an agent go on, or start nothing more; what it must not go on with is taken back to its queue."""
        if desired is Desired.RUNNING:
            self._node.resting.discard(agent_id)
        else:
            self._node.resting.add(agent_id)
        if desired is Desired.PAUSED:
            return
        for agent in [agent for agent in self.agents() if agent.address.agent_id == agent_id]:
            if desired is Desired.RUNNING:
                agent.proceed()
            elif agent.current is not None and agent.current.task is not None:
                agent.current.halt(Stop.SHUTDOWN)

    def agent(self, address: Address) -> SessionAgent | None:
        """Return the session agent at an address, None where it is not in memory."""
        return self._agents.get(address)

    def definition(self, agent_id: str) -> Agent:
        """Return a declared agent.

        Raises:
            UnknownAgent: the runtime was not given it.
        """
        found = self._definitions.get(agent_id)
        if found is None:
            raise UnknownAgent(agent_id, ", ".join(sorted(self._definitions)) or "none")
        return found

    def serves(self, agent_id: str) -> bool:
        """Say whether the runtime was given an agent."""
        return agent_id in self._definitions

    async def admit(self, address: Address, key: str | None, payload: bytes, *, fork: Fork | None = None) -> Receipt:
        """Answer an inbound with its receipt, once that is durable. Cancelling stops only the waiting.

        The unique index on keys is the judge: a key that is not live in memory is tried as new, and only where
        the store refuses it is the stored receipt read.

        Raises:
            IdempotencyConflict, MailboxFull, StorageFailed: nothing was accepted.
        """
        self.definition(address.agent_id)
        self._node.check_open()
        self._callers[address] = self._callers.get(address, 0) + 1  # or it could leave memory under a caller's hands
        self._idle.pop(address, None)
        node = self._node
        try:
            return await self._admit(node, address, key, payload, fork)
        except ShuttingDown:
            raise node.gone from None
        finally:
            self._callers[address] -= 1
            if not self._callers[address]:
                del self._callers[address]
                if (agent := self._agents.get(address)) is not None:
                    agent.proceed()  # idle, if nothing came of it

    async def _admit(self, node: Node, address: Address, key: str | None, payload: bytes, fork: Fork | None) -> Receipt:
        digest = payload_digest(payload)
        retired: int | None = None
        lost: TurnkeeperError | None = None
        for _ in range(_TRIES_MAX):
            agent = self._held(node, address)
            if agent is None:
                await self._open(address)
                continue
            if unsettled := agent.unsettled(key, digest):
                await unsettled
                continue
            try:
                turn, duplicate = await agent.admit(key, payload, digest, retired=retired, fork=fork)
                return Receipt(node, address, turn.arrival.key, turn.row.turn_id, turn, duplicate=duplicate)
            except (KeyTaken, VersionConflict, StaleEpoch) as error:
                lost = error
            known = await node.store.receipt(agent.actor_id, key or "")
            if known is None or agent.open_turn(known.key) is not None:
                retired = None
                continue
            match admit(known, digest, node.clock.time()):
                case Admission.RENEWED:
                    retired = known.receipt_id
                case Admission.DUPLICATE:
                    try:
                        return await self._drop(address, known)
                    except (VersionConflict, TurnNotFound) as error:  # pruned meanwhile: its time was over
                        lost, retired = error, None
                case Admission.NEW:
                    retired = None
        raise lost or KeyTaken(key or "")

    def _held(self, node: Node, address: Address) -> SessionAgent | None:
        """Return the session agent at an address, for a caller who came while this node was served.

        Raises:
            ShuttingDown: another is served now; its agents are taken up in the order of acceptance first.
        """
        if self._node is not node:
            raise ShuttingDown
        return self._agents.get(address)

    async def receipt(self, address: Address, key: str) -> Receipt | None:
        """Return the receipt a key stands for now, None where it stands for none."""
        actor_id = await self._node.store.actor_id(address)
        known = await self._node.store.receipt(actor_id, key) if actor_id is not None else None
        return self.receipt_of(address, known) if known is not None else None

    def restored(self, address: Address, actor_id: int) -> SessionAgent:
        """Return the session agent of an actor that the store has already."""
        agent = self._agents.get(address)
        if agent is None:
            definition = self.definition(address.agent_id)
            agent = self._agents[address] = SessionAgent(self._node, address, definition, actor_id, opened=True)
        self._idle.pop(address, None)
        return agent

    def rest(self, agent: SessionAgent) -> None:
        """Keep an idle agent for a while: the longest idle leaves first, and comes back on its next inbound."""
        if agent.address in self._callers:
            return
        self._idle[agent.address] = agent
        if len(self._idle) > self._node.settings.idle_agents_max:
            longest = next(iter(self._idle))
            del self._idle[longest], self._agents[longest]

    async def settle(self) -> None:
        """Give up bringing agents into memory: closing leaves no task behind, and waits for no read."""
        while self._opening:
            for opening in self._opening.values():
                opening.cancel()
            await asyncio.wait(list(self._opening.values()))

    async def _open(self, address: Address) -> None:
        """Bring a session agent into memory, once however many ask for it at the same time.

        Raises:
            ShuttingDown: the runtime closes meanwhile.
        """
        opening = self._opening.get(address)
        if opening is None:
            opening = self._opening[address] = asyncio.create_task(self._load(address))
            opening.add_done_callback(lambda _: self._opening.pop(address))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if opening.cancelled() and not (caller is not None and caller.cancelling()):
                raise ShuttingDown from None
            raise

    async def _load(self, address: Address) -> None:
        actor_id = await self._node.store.actor_id(address)
        if actor_id is None:
            definition = self.definition(address.agent_id)
            fresh = SessionAgent(self._node, address, definition, self._node.next_actor_id(), opened=False)
            agent = self._agents.setdefault(address, fresh)
        else:
            agent = self.restored(address, actor_id)
        agent.proceed()  # idle until whoever asked for it speaks: they may be gone

    async def _drop(self, address: Address, known: ReceiptRow) -> Receipt:
        """Count a duplicate of a turn that has ended, and answer with its receipt."""
        _, records = drop_duplicate(None, known.receipt_id, known.turn_id, self._node.clock.time())
        await self._node.persistence.commit(records)
        self._node.counters.duplicates += 1
        return self.receipt_of(address, known)

    def receipt_of(self, address: Address, known: ReceiptRow) -> Receipt:
        """Return a stored receipt, with its turn where that is in memory."""
        agent = self._agents.get(address)
        turn = agent.open_turn(known.key) if agent is not None else None
        if turn is not None and turn.row.turn_id != known.turn_id:
            turn = None  # the key stands for something newer
        return Receipt(self._node, address, known.key, known.turn_id, turn, duplicate=True)
