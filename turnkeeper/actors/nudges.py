"""Nudges: what one turn's life owes another turn, told beside both: ends, answers, signals, deadlines.

A nudge creates no work, and given twice it does nothing the second time: all that it is about stands in the store.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from turnkeeper.kernel.edge import Answer, PolicyResolved
from turnkeeper.kernel.errors import LeaseHeld, ShuttingDown, StaleEpoch, StorageError, UnknownAgent, VersionConflict
from turnkeeper.kernel.names import Address

if TYPE_CHECKING:
    from turnkeeper.actors.node import Node

__all__ = [
    "cancel_turn",
    "drop_child",
    "drop_children",
    "end_as_asked",
    "expire_waits",
    "tell_of_child",
    "tell_of_signals",
]

_NOBODY_WAITS: Final = PolicyResolved("turn", "", "cancel", reason="nobody waits for it any more")
"""Why a child turn ends whose parent has ended, or does not want its answer any more."""


_PASSING: Final = (StorageError, StaleEpoch, VersionConflict, LeaseHeld)
"""What is different the next time: the store is back, or what is held in memory has been read again."""


async def tell_of_child(node: "Node", child_id: int, parent_id: int, at: Address | None) -> None:
    """Tell a turn that a child turn of its has ended, if it has.

    Telling it again does nothing: the wait has its answer. After a crash the next runtime does it.
    """

    async def tell() -> None:
        ended = await node.store.deliverable(child_id)
        address = at or await node.store.waiting.address_of(parent_id)
        if ended is not None and address is not None:
            answer = Answer(ended.outcome, node.clock.time(), body=msgspec.Raw(ended.body))
            async with node.hold(address) as agent:
                await agent.child_ended(parent_id, child_id, answer)

    await _insist(node, tell, parent_id)


async def drop_child(node: "Node", child_id: int) -> None:
    """Cancel a child turn that nobody waits for any more, with its own children."""
    await _insist(node, partial(cancel_turn, node, child_id, _NOBODY_WAITS), child_id)


async def drop_children(node: "Node", parent_id: int) -> None:
    """Cancel the child turns of a turn that has ended."""

    async def drop() -> None:
        for child_id, _ in await node.store.waiting.live_children(parent_id):
            node.start(drop_child(node, child_id))

    await _insist(node, drop, parent_id)


async def expire_waits(node: "Node", turn_id: int, at: Address) -> None:
    """Let the waits of a turn end whose time is over."""

    async def expire() -> None:
        async with node.hold(at) as agent:
            await agent.expire(turn_id)

    await _insist(node, expire, turn_id)


async def end_as_asked(node: "Node", turn_id: int) -> None:
    """End a suspended turn of which an earlier runtime has recorded that it is to end."""

    async def end() -> None:
        address = await node.store.waiting.address_of(turn_id)
        if address is not None:
            async with node.hold(address) as agent:
                await agent.end_as_asked(turn_id)

    await _insist(node, end, turn_id)


async def tell_of_signals(node: "Node", turn_id: int, at: Address | None) -> None:
    """Give a turn the signals that it waits for, and that have come."""

    async def tell() -> None:
        address = at or await node.store.waiting.address_of(turn_id)
        if address is not None:
            async with node.hold(address) as agent:
                await agent.signalled(turn_id)

    await _insist(node, tell, turn_id)


async def _insist(node: "Node", act: Callable[[], Awaitable[None]], turn_id: int) -> None:
    """Do something for as long as it fails of the store, or of who was faster; then the next process does it.

    Raises:
        TurnkeeperError: it cannot be done, however often it is tried.
    """
    pause_s = 0.0
    while True:
        await asyncio.sleep(pause_s)
        pause_s = min(node.settings.retry_cap_s, 2 * pause_s + node.settings.retry_base_s)
        try:
            await act()
        except (ShuttingDown, UnknownAgent):
            return
        except _PASSING as error:
            node.log.warning("turn.untold", turn_id=turn_id, error=type(error).__name__)
        else:
            return


async def cancel_turn(node: "Node", turn_id: int, request: PolicyResolved) -> None:
    """End a turn as cancelled, its children first; returns once that is durable, or at once if it has ended.

    Its agent need not be among those that this runtime was given. Whoever goes away meanwhile does not leave it half
    done.

    Raises:
        StorageFailed: it may go on.
    """
    address = await node.store.waiting.address_of(turn_id)
    if address is None:
        return

    async def cancel() -> None:
        async with node.hold(address, unserved=True) as agent:
            await agent.cancel(turn_id, request)

    await node.see_through(cancel())
