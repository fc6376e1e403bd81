"""Carried out: work that goes on to its end, also where whoever waits for it goes away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["carried_out", "left_to_itself"]

T = TypeVar("T")

_under_way: set[asyncio.Future[Any]] = set()
"""Held here, because an event loop does not hold its tasks."""


async def carried_out(work: Coroutine[Any, Any, T]) -> T:
    """Wait for work. Cancelling stops the waiting alone: half done, memory and store would say different things."""
    task = asyncio.get_running_loop().create_task(work)
    left_to_itself(task)
    return await asyncio.shield(task)


def left_to_itself(task: asyncio.Future[Any]) -> None:
    """Hold a task until it ends, and take notice of how."""
    _under_way.add(task)
    task.add_done_callback(_over)


def _over(task: asyncio.Future[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # taking notice of it: nobody may wait for it any more
