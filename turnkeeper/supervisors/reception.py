"""The reception: every inbound comes in here, finds its session agent, and leaves with a receipt."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from turnkeeper.actors.agent import UNSERVED, Agent
from turnkeeper.actors.mailbox import Mailbox
from turnkeeper.actors.node import Node
from turnkeeper.actors.receipt import Receipt
from turnkeeper.actors.session import Admitted, SessionAgent
from turnkeeper.kernel.arrival import Policy
from turnkeeper.kernel.errors import (
    KeyTaken,
    ShuttingDown,
    StaleEpoch,
    TurnkeeperError,
    TurnNotFound,
    UnknownAgent,
    VersionConflict,
)
from turnkeeper.kernel.lifecycle import Arrival, Fork, drop_duplicate
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import Admission, ReceiptRow, admit, payload_digest
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.turn import TurnState
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

    async def admit(
        self,
        address: Address,
        key: str | None,
        payload: bytes,
        *,
        fork: Fork | None = None,
        policy: Policy = Policy.QUEUE,
    ) -> Receipt:
        """Answer an inbound with its receipt, once that is durable. Cancelling stops only the waiting.

        The unique index on keys is the judge: a key that is not live in memory is tried as new, and only where
        the store refuses it is the stored receipt read. What may be refused, or join a live turn, is looked up first.

        Raises:
            IdempotencyConflict, ActorBusy, MailboxFull, StorageFailed: nothing was accepted.
        """
        self.definition(address.agent_id)
        self._node.check_open()
        node = self._node
        self._called(address)
        try:
            return await self._admit(node, address, key, payload, fork, policy)
        except ShuttingDown:
            raise node.gone from None
        finally:
            self._left(address)

    @asynccontextmanager
    async def hold(self, address: Address, *, unserved: bool = False) -> AsyncIterator[SessionAgent]:
        """Keep a session agent in memory, brought there where it is not.

        With `unserved` also one that the runtime was not given, if the store has its actor: it starts nothing.

        Raises:
            UnknownAgent: the runtime was not given it.
            ShuttingDown: the runtime closes.
            StorageFailed: the store cannot be read, or what it holds is being taken up: brought here meanwhile, a turn
                that is to be taken back would be started.
        """
        if not unserved:
            self.definition(address.agent_id)
        node = self._node
        node.check_open()
        self._called(address)
        try:
            try:
                agent = await self._brought(node, address)
            except ShuttingDown:
                raise node.gone from None
            yield agent
        finally:
            self._left(address)

    def _called(self, address: Address) -> None:
        """Count a caller, or the agent could leave memory under its hands."""
        self._callers[address] = self._callers.get(address, 0) + 1
        self._idle.pop(address, None)

    def _left(self, address: Address) -> None:
        """Take note that a caller has gone; nudge the agent when the last one has."""
        self._callers[address] -= 1
        if self._callers[address]:
            return
        del self._callers[address]
        if (agent := self._agents.get(address)) is not None:
            agent.proceed()  # idle, if nothing came of it
        if agent is not None and agent.definition is UNSERVED and self._agents.get(address) is agent:
            self._leave_unserved(address, agent)

    async def _admit(
        self, node: Node, address: Address, key: str | None, payload: bytes, fork: Fork | None, policy: Policy
    ) -> Receipt:
        digest = payload_digest(payload)
        retired: int | None = None
        lost: TurnkeeperError | None = None
        looked = policy is Policy.QUEUE or key is None
        for _ in range(_TRIES_MAX):
            agent = await self._brought(node, address)
            if not await _ready(agent, key, digest, policy):
                continue
            try:
                if looked:
                    admitted = await agent.admit(key, payload, digest, retired=retired, fork=fork, policy=policy)
                    return _receipt(node, address, admitted)
                looked = True
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
                        return await self._drop(node, address, agent, known)
                    except (VersionConflict, TurnNotFound) as error:  # pruned meanwhile: its time was over
                        lost, retired = error, None
                case Admission.NEW:
                    retired = None
        raise lost or KeyTaken(key or "")

    async def _brought(self, node: Node, address: Address) -> SessionAgent:
        """Return the session agent at an address, brought into memory where it is not."""
        while (agent := self._held(node, address)) is None:
            await self._open(address)
        return agent

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

    def restored(self, address: Address, actor_id: int, *, unserved: bool = False) -> SessionAgent:
        """Return the session agent of an actor that the store has already.

        Raises:
            UnknownAgent: the runtime was not given it, and `unserved` is not said.
        """
        agent = self._agents.get(address)
        if agent is None:
            known = self.serves(address.agent_id) or not unserved
            definition = self.definition(address.agent_id) if known else UNSERVED
            agent = self._agents[address] = SessionAgent(self._node, address, definition, actor_id, opened=True)
        self._idle.pop(address, None)
        return agent

    def rest(self, idle: Mailbox) -> None:
        """Keep an idle agent for a while: the longest idle leaves first, and comes back on its next inbound.

        One that stands on a wait leaves at once, with those behind it: they are in the store, and may be many.
        """
        address, agent = idle.address, self._agents.get(idle.address)
        if agent is not idle or address in self._callers or agent.awaited:
            return
        if not agent.idle:
            del self._agents[address]
            agent.leave()
            return
        self._idle[address] = agent
        if len(self._idle) > self._node.settings.idle_agents_max:
            longest = next(iter(self._idle))
            self._idle.pop(longest).leave()
            del self._agents[longest]

    def _leave_unserved(self, address: Address, agent: SessionAgent) -> None:
        """Let the turns of an agent that the runtime was not given be the store's again."""
        if agent.still:
            self._idle.pop(address, None)
            del self._agents[address]
            agent.leave()

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
        if opening is None or opening.done():  # what it brought may have left again
            opening = self._opening[address] = asyncio.create_task(self._load(address))
            opening.add_done_callback(partial(self._no_longer_opening, address))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if opening.cancelled() and not (caller is not None and caller.cancelling()):
                raise ShuttingDown from None
            raise

    def _no_longer_opening(self, address: Address, opened: "asyncio.Task[None]") -> None:
        if self._opening.get(address) is opened:
            del self._opening[address]

    async def _load(self, address: Address) -> None:
        actor_id = await self._node.store.actor_id(address)
        if actor_id is None:
            definition = self.definition(address.agent_id)
            fresh = SessionAgent(self._node, address, definition, self._node.next_actor_id(), opened=False)
            agent = self._agents.setdefault(address, fresh)
        else:
            agent = await self._brought_back(address, actor_id)
        agent.proceed()  # idle until whoever asked for it speaks: they may be gone

    async def _brought_back(self, address: Address, actor_id: int) -> SessionAgent:
        """Return the session agent of an actor, with its live turns: where one is suspended, they had left memory."""
        store = self._node.store
        live = await store.live_turns_of(actor_id)
        suspended = [turn.row.turn_id for turn in live if turn.row.state is TurnState.SUSPENDED]
        stands = {turn_id: await store.waiting.waits(turn_id) for turn_id in suspended}
        fresh = address not in self._agents
        agent = self.restored(address, actor_id, unserved=True)
        if fresh:
            for turn in live:
                agent.restore(turn, turn.row, stands.get(turn.row.turn_id, ()))
        return agent

    async def _drop(self, node: Node, address: Address, agent: SessionAgent, known: ReceiptRow) -> Receipt:
        """Count a duplicate of what is not known in memory, and answer with its receipt.

        Mostly its turn has ended. One that is live and has taken it in holds the order of its own edges.
        """
        turn, now = agent.live(known.turn_id), node.clock.time()
        while turn is not None and (reread := agent.reread(turn)):
            await reread
            turn, now = agent.live(known.turn_id), node.clock.time()
        if turn is not None:
            return _receipt(node, address, await agent.drop(turn, _arrival(known), now))
        _, records = drop_duplicate(None, known.receipt_id, known.turn_id, now)
        await node.persistence.commit(records)
        node.counters.duplicates += 1
        return self.receipt_of(address, known)

    def receipt_of(self, address: Address, known: ReceiptRow) -> Receipt:
        """Return a stored receipt, with its turn where that is in memory."""
        agent = self._agents.get(address)
        turn = agent.live(known.turn_id) if agent is not None else None
        joined = known.receipt_id, known.arrived
        return Receipt(self._node, address, known.key, known.turn_id, turn, *joined, duplicate=True)


async def _ready(agent: SessionAgent, key: str | None, digest: bytes, policy: Policy) -> bool:
    """Say whether an agent can be spoken to; where it cannot, wait for what stood in the way, and look again then."""
    if unsettled := agent.unsettled(key, digest):
        await unsettled
        return False
    if policy is Policy.COALESCE:
        return not await agent.learn_last()
    return not (policy is Policy.INTERRUPT and await agent.learn_joined())


def _receipt(node: Node, address: Address, admitted: Admitted) -> Receipt:
    turn, arrival, duplicate = admitted
    joined = arrival.turn_id, arrival.arrived
    return Receipt(node, address, arrival.key, turn.row.turn_id, turn, *joined, duplicate=duplicate)


def _arrival(known: ReceiptRow) -> Arrival:
    times = known.first_seen, known.expires_at
    return Arrival(known.receipt_id, known.actor_id, known.key, b"", known.digest, *times, arrived=known.arrived)
