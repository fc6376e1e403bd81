"""Patience: what every client of a simulated runtime needs, because the disk fails and mailboxes are full."""

import asyncio
from typing import Any

from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.kernel.errors import MailboxFull, StorageFailed
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.checks import unsettled_steps
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["check_settled", "patient_ask", "patient_tell"]

_AGAIN_S = 0.5


async def patient_tell(
    runtime: Runtime, session: str, agent_id: str, payload: Any, key: str, *, tenant: str = ""
) -> Receipt:
    """Send under a key until it is accepted.

    Raises:
        TurnkeeperError: what sending again does not help against.
    """
    while True:
        try:
            return await runtime.tell(session, agent_id, payload, key=key, tenant=tenant)
        except (StorageFailed, MailboxFull):
            await asyncio.sleep(_AGAIN_S)


async def patient_ask(
    runtime: Runtime, session: str, agent_id: str, payload: Any, key: str, *, tenant: str = ""
) -> Result:
    """Send under a key until there is an answer.

    Raises:
        TurnkeeperError: what sending again does not help against.
    """
    while True:
        try:
            return await runtime.ask(session, agent_id, payload, key=key, tenant=tenant)
        except (StorageFailed, MailboxFull):
            await asyncio.sleep(_AGAIN_S)


def check_settled(world: World) -> None:
    """Report completed turns with steps that nobody knows the end of."""
    if isinstance(world, SimulatedWorld) and (unsettled := unsettled_steps(world.disk.rows())):
        world.report(Violated("the result is recorded before the turn ends", "; ".join(unsettled[:3])))
