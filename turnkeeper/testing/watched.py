"""A watched runtime: it tells its world what its clients are told, and lets the world look inside."""

from collections.abc import Sequence
from itertools import count
from typing import Any, Self

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.session import SessionAgent
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Chance, Store
from turnkeeper.kernel.supervision.child import Exit
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.world import World

__all__ = ["WatchedRuntime"]


class _WatchedReceipt(Receipt):
    """A receipt whose deliverable the world remembers."""

    __slots__ = ("_world",)

    def __init__(self, world: World, of: Receipt) -> None:
        joined = of.receipt_id, of.arrived
        super().__init__(of._node, of.address, of.key, of.turn_id, of._turn, *joined, duplicate=of.duplicate)
        self._world = world

    async def deliverable(self) -> Result:
        """Wait; see `Receipt.deliverable`."""
        result = await super().deliverable()
        self._world.delivered(result)
        return result


class _Tokens:
    """A world's chance whose tokens are all different: an answer to one doubt must not fit the next."""

    __slots__ = ("_chance", "_given", "random")

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._given = count(1)
        self.random = chance.random

    def token(self) -> str:
        return f"{self._chance.token()}-{next(self._given)}"


class WatchedRuntime(Runtime):
    """A runtime in a world that remembers what clients were told."""

    def __init__(self, world: World, store: Store, agents: Sequence[Agent], **options: Any) -> None:
        """Take the world, and what `Runtime` takes."""
        if "chance" in options:
            options["chance"] = _Tokens(options["chance"])
        super().__init__(store, agents, **options)
        self.world = world

    @property
    def node(self) -> Node | None:
        """Return what the session agents share, None before the runtime is entered."""
        return self._node

    def session_agent(self, address: Address) -> SessionAgent | None:
        """Return the session agent at an address, None where it is not in memory."""
        return self._reception.agent(address)

    def declares(self, agent_id: str) -> bool:
        """Say whether the runtime was given this agent."""
        return agent_id in self._agents

    async def __aenter__(self) -> Self:
        """Start; see `Runtime`. The world is told."""
        await super().__aenter__()
        self.world.started(self)
        return self

    async def aclose(self) -> None:
        """Close; see `Runtime.aclose`. The world is told."""
        await super().aclose()
        self.world.stopped(self)

    def _given_up(self, ended: Exit) -> None:
        """Give up; the process ends with it, as whoever serves agents would have it, and the next one recovers."""
        super()._given_up(ended)
        self.world.kill()

    async def tell(self, session_id: str, agent_id: str, payload: Any, **options: Any) -> Receipt:
        """Accept an inbound; see `Runtime.tell`. The world remembers the receipt."""
        receipt = await super().tell(session_id, agent_id, payload, **options)
        self.world.acknowledged(receipt)
        return _WatchedReceipt(self.world, receipt)

    async def fork(self, turn_id: int, *, from_step: int, key: str | None = None) -> Receipt:
        """Fork a turn; see `Runtime.fork`. The world remembers the receipt."""
        receipt = await super().fork(turn_id, from_step=from_step, key=key)
        self.world.acknowledged(receipt)
        return _WatchedReceipt(self.world, receipt)

    async def receipt(self, session_id: str, agent_id: str, key: str, *, tenant: str = "") -> Receipt | None:
        """Return a receipt; see `Runtime.receipt`. The world remembers what it leads to."""
        receipt = await super().receipt(session_id, agent_id, key, tenant=tenant)
        return _WatchedReceipt(self.world, receipt) if receipt is not None else None
