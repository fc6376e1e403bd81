"""Patience: what every client of a simulated runtime needs, because the disk fails and mailboxes are full."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from turnkeeper.kernel.errors import MailboxFull, StorageFailed
from turnkeeper.testing.checks import unsettled_steps
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["check_settled", "patiently"]

T = TypeVar("T")

_AGAIN_S = 0.5


async def patiently(send: Callable[[], Awaitable[T]]) -> T:
    """Send, and send again while the disk fails or the mailbox is full; under a key, or it is a new message each time.

    Raises:
        TurnkeeperError: what sending again does not help against.
    """
    while True:
        try:
            return await send()
        except (StorageFailed, MailboxFull):
            await asyncio.sleep(_AGAIN_S)


def check_settled(world: World) -> None:
    """Report completed turns with steps that nobody knows the end of."""
    if isinstance(world, SimulatedWorld) and (unsettled := unsettled_steps(world.disk.rows())):
        world.report(Violated("the result is recorded before the turn ends", "; ".join(unsettled[:3])))
