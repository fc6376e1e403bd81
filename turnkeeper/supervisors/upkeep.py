"""Upkeep: what a runtime does again and again beside its turns: renew its lease, prune what is old."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.records import NodeBeat

__all__ = ["beat", "retain"]

_RETAIN_EVERY_S: Final = 3_600.0
"""How often, at least, what is past `retention_s` is looked for."""

_BEAT_AGAIN_S: Final = 1.0
"""When a heartbeat that failed is tried again: at the next beat, two short troubles could cost the lease."""


async def beat(node: Node) -> NoReturn:
    """Renew the node's lease every third of it: one write, however many turns run under it."""
    pause_s = node.settings.beat_s
    while True:
        await asyncio.sleep(pause_s)
        pause_s = node.settings.beat_s
        node.lease = node.lease.renewed(node.clock.time(), node.settings.lease_s)
        try:
            await node.persistence.commit([NodeBeat(node.lease.until, node.lease.boot_id)])
        except TurnkeeperError as error:
            pause_s = min(_BEAT_AGAIN_S, pause_s)
            node.log.warning("node.beat_failed", error=str(error))


async def retain(node: Node, prune: Callable[..., Awaitable[int]]) -> NoReturn:
    """Prune what is older than `retention_s`, again and again."""
    retention_s = node.settings.retention_s
    while True:
        try:
            if pruned := await prune(older_than_s=retention_s):
                node.log.info("store.pruned", turns=pruned)
        except TurnkeeperError as error:
            if not node.closing:
                node.log.warning("store.prune_failed", error=str(error))
        await asyncio.sleep(min(max(retention_s / 10, 1.0), _RETAIN_EVERY_S))
