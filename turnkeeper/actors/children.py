"""Children: who waits for whom, so that none wait for each other in a ring."""

from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from turnkeeper.actors.tool import step_context
from turnkeeper.kernel.edge import Inbound, decode_detail
from turnkeeper.kernel.errors import Deadlock, UnknownAgent
from turnkeeper.kernel.names import Address

if TYPE_CHECKING:
    from turnkeeper.actors.node import Node

__all__ = ["check_no_cycle", "check_not_within"]


async def check_no_cycle(node: "Node", held: AsyncExitStack, asker: Address, asked: Address) -> None:
    """Refuse what would let actors wait for each other in a ring; what it returns holds until control is given up.

    An actor waits for those at which a live turn of it has asked for a turn that has not ended. Where that is not in
    memory it is read first, and `held` there; also that of an agent that this runtime was not given.

    Raises:
        Deadlock: names the ring.
    """
    unserved: set[Address] = set()
    while True:
        ring, unknown = _ring(node, asker, asked, unserved)
        if ring:
            raise Deadlock(" -> ".join(map(str, (asker, *ring))))
        if unknown is None:
            return
        try:
            agent = await held.enter_async_context(node.hold(unknown, unserved=True))
        except UnknownAgent:
            unserved.add(unknown)
        else:
            await agent.learn_children()


def _ring(
    node: "Node", asker: Address, asked: Address, unserved: Collection[Address]
) -> tuple[list[Address], Address | None]:
    """Return the way back from whom is asked to who asks; or an actor that has to be known first."""
    came_from: dict[Address, Address] = {}
    ahead = [asked]
    while ahead:
        at = ahead.pop()
        if at == asker:
            ring = [at]
            while ring[-1] != asked:
                ring.append(came_from[ring[-1]])
            return ring[::-1], None
        if at in unserved:
            continue
        agent = node.agent_at(at)
        awaited = agent.waits_for() if agent is not None else None
        if awaited is None:
            return [], at
        for child in awaited:
            if child != asked and child not in came_from:
                came_from[child] = at
                ahead.append(child)
    return [], None


async def check_not_within(node: "Node", turn_ids: Collection[int]) -> None:
    """Refuse to wait for the end of turns that cannot end before the step in which this is asked.

    They are the step's own turn, and those above it. A step with an intent is waited for; others are cut.

    Raises:
        Deadlock: names the step and the turn.
        StorageFailed: the store cannot be read.
    """
    try:
        step = step_context()
    except LookupError:
        return
    if not step.idempotency_key.startswith(f"{node.store_id}/"):  # it has no intent, or is of another store's turn
        return
    inbound = decode_detail((await node.store.edges(step.turn_id))[0])
    above = inbound.chain if isinstance(inbound, Inbound) else []
    for turn_id in turn_ids:
        if turn_id in {step.turn_id, *above}:
            raise Deadlock(f"step {step.step} of turn {step.turn_id} -> turn {turn_id}")
