"""Services: a coroutine function that goes on until it is cancelled, as a supervisor's child."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from turnkeeper.actors.node import logger
from turnkeeper.kernel.supervision.child import Exit, Exited

__all__ = ["Service"]


class Service:
    """Runs `work()` in a task of its own; each incarnation calls it anew, so nothing half-changed stays in use."""

    __slots__ = ("_name", "_task", "_work")

    def __init__(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Describe it; nothing runs before it is started."""
        self._work = work
        self._name: str = getattr(work, "__qualname__", type(work).__qualname__)
        self._task: asyncio.Task[object] | None = None

    def start(self, exited: Exited) -> None:
        """Start the task. Returning is a normal end; raising, or cancelling itself, is a crash."""
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._work())
        self._task = task

        def done(_: object) -> None:
            if self._task is not task:
                task.cancelled() or task.exception()  # it was stopped: what it says now is nobody's
                return
            self._task = None
            if task.cancelled():
                exited(Exit("crashed", normal=False, error="CancelledError"))
            elif (error := task.exception()) is not None:
                logger().error("service.crashed", work=self._name, exc_info=error)
                exited(Exit("crashed", normal=False, error=type(error).__name__))
            else:
                exited(Exit("normal", normal=True))

        task.add_done_callback(done)

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:
        """Cancel the task and wait for its last words, for `shutdown_s`; one that will not end is left and named."""
        task, self._task = self._task, None
        return None if task is None or task.done() else self._stopping(task, shutdown_s)

    async def _stopping(self, task: "asyncio.Task[object]", shutdown_s: float) -> None:
        task.cancel()
        await asyncio.wait([task], timeout=shutdown_s)
        if not task.done():
            logger().error("service.would_not_stop", work=self._name)
