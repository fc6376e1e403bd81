"""The writer as a child: the store and the one who writes to it, first up and last down; all else stands on them."""

import asyncio
import os
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from turnkeeper.actors.node import Node
from turnkeeper.actors.persistence import Persistence
from turnkeeper.kernel.errors import StorageFailed, TurnkeeperError
from turnkeeper.kernel.ports import Marks, Store
from turnkeeper.kernel.records import NodeStarted, NodeStopped
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.supervisors.place import crash_of
from turnkeeper.supervisors.upkeep import beat

__all__ = ["Writer"]


class Writer:
    """Opens the store, runs its persistence actor and renews the lease; each incarnation is a boot, with its own node.

    A writer that crashes leaves nobody in doubt: whoever waits for a commit is told, and so is whoever comes before the
    next incarnation is up. What was handed over and not committed may stand or not, as after a kill; what was
    acknowledged stands.
    """

    __slots__ = ("_beating", "_boot", "_crashed", "_exited", "_node", "_settings", "_store", "_writing")

    def __init__(
        self,
        store: Store,
        settings: Settings,
        boot: Callable[[Marks, Persistence], Node],
        crashed: Callable[[StorageFailed], None],
    ) -> None:
        """Describe it; nothing is touched before `start`.

        Args:
            store: opened and closed with each incarnation.
            settings: limits of the writer.
            boot: makes the node of an incarnation.
            crashed: told when one has crashed, before it is started anew.
        """
        self._store = store
        self._settings = settings
        self._boot = boot
        self._crashed = crashed
        self._node: Node | None = None
        self._exited: Exited | None = None
        self._writing: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    def start(self, exited: Exited) -> Awaitable[None]:
        """Take the file, write from then on, and record that the boot has begun.

        Raises:
            StoreInUse, SchemaTooNew, StorageFailed: from the awaitable; the file is given back.
        """
        return self._opening(exited)

    async def _opening(self, exited: Exited) -> None:
        await self.clear()
        marks = await self._store.open()
        settings = self._settings
        persistence = Persistence(self._store, batch_max=settings.batch_max, waiting_max=settings.commits_waiting_max)
        self._node = self._boot(marks, persistence)
        self._exited = None
        self._writing = self._begin(persistence.run(), self._node)
        try:
            await self._record_boot(self._node)
        except Exception:
            await self._closing()
            raise
        self._beating = self._begin(beat(self._node), self._node)
        self._exited = exited

    def _begin(self, work: Coroutine[Any, Any, None], node: Node) -> "asyncio.Task[None]":
        task = asyncio.create_task(_through(work), name="turnkeeper")
        task.add_done_callback(partial(self._over, node))
        return task

    async def _record_boot(self, node: Node) -> None:
        started = NodeStarted(node.lease.boot_id, os.getpid(), node.clock.time(), node.lease.until)
        await node.persistence.commit([started])
        if node.failed is not None:  # right behind that commit
            raise node.gone

    def _over(self, node: Node, ended: "asyncio.Task[None]") -> None:
        """Hear of the end of the writing, or the beating, whatever it was: unheard, everybody would wait for ever."""
        error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
        if error is None or node.failed is not None or (ended is self._beating and node.persistence.closing):
            return
        node.log.error("writer.crashed", path=self._store.path, exc_info=error)
        said = "".join(traceback.format_exception_only(error)).strip()
        why = f"the writer has crashed ({said}); send again: what was accepted goes on"
        failed = StorageFailed(self._store.path, why)
        node.fail(failed)
        for task in (self._writing, self._beating):
            if task is not None:
                task.cancel()
        self._crashed(failed)
        if self._exited is not None:  # else its start fails, and that is told
            self._exited(crash_of(error))

    def stop(self, shutdown_s: float) -> Awaitable[None]:  # noqa: ARG002 - what was submitted is written, as long as it takes
        """Write what was submitted, and that the boot has ended; then close the store."""
        return self._closing()

    async def _closing(self) -> None:
        node = self._node
        if node is not None and self._writing is not None:
            node.persistence.submit([NodeStopped(node.clock.time(), node.lease.boot_id)], _unheard)
            node.persistence.close()
            if self._beating is not None:
                self._beating.cancel()
        await self.clear()

    async def clear(self) -> None:
        """Wait for the end of the writing and the beating, and close the store.

        A crashed incarnation leaves that to the next one, or to who ends them all: those above it may still be reading.
        """
        if working := [task for task in (self._writing, self._beating) if task is not None]:
            await asyncio.wait(working)
        await self._store.close()


async def _through(work: Coroutine[Any, Any, None]) -> None:
    """Do work as the writer's own: whoever looks for tasks that were left behind knows them by their names."""
    await work


def _unheard(_: TurnkeeperError | None) -> None:
    """Nobody is left to be told whether the end of a boot was recorded; its lease runs out either way."""
