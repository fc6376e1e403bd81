"""The writer as a child: the store and the one who writes to it, first up and last down; all else stands on them."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from turnkeeper.actors.node import Node
from turnkeeper.actors.persistence import Persistence
from turnkeeper.kernel.errors import StorageFailed, TurnkeeperError
from turnkeeper.kernel.ports import Marks, Store
from turnkeeper.kernel.records import NodeStarted, NodeStopped
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.supervisors.place import crash_of

__all__ = ["Writer"]


class Writer:
    """Opens the store and runs its persistence actor; each incarnation is a boot, with a node of its own.

    A writer that crashes leaves nobody in doubt: whoever waits for a commit is told, and so is whoever comes before the
    next incarnation is up. What was handed over and not committed may stand or not, as after a kill; what was
    acknowledged stands.
    """

    __slots__ = ("_boot", "_crashed", "_exited", "_node", "_settings", "_store", "_writing")

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
            crashed: told when one has crashed, before anybody else.
        """
        self._store = store
        self._settings = settings
        self._boot = boot
        self._crashed = crashed
        self._node: Node | None = None
        self._exited: Exited | None = None
        self._writing: asyncio.Task[None] | None = None

    def start(self, exited: Exited) -> Awaitable[None]:
        """Take the file, write from then on, and record that the boot has begun.

        Raises:
            StoreInUse, SchemaTooNew, StorageFailed: from the awaitable; the file is given back.
        """
        return self._opening(exited)

    async def _opening(self, exited: Exited) -> None:
        await self._store.close()  # a crashed incarnation has left it open: those above it were still reading
        marks = await self._store.open()
        settings = self._settings
        persistence = Persistence(self._store, batch_max=settings.batch_max, waiting_max=settings.commits_waiting_max)
        self._node = self._boot(marks, persistence)
        self._exited = None
        self._writing = asyncio.create_task(self._write(self._node), name="turnkeeper")
        try:
            await self._record_boot(self._node)
        except Exception:
            await self._closing()
            raise
        self._exited = exited

    async def _record_boot(self, node: Node) -> None:
        started = NodeStarted(node.lease.boot_id, os.getpid(), node.clock.time(), node.lease.until)
        await node.persistence.commit([started])
        if node.failed is not None:  # right behind that commit
            raise node.gone

    async def _write(self, node: Node) -> None:
        try:
            await node.persistence.run()
        except Exception as error:
            node.log.exception("writer.crashed", path=self._store.path)
            why = f"the writer has crashed ({type(error).__name__}: {error}); send again: what was accepted goes on"
            failed = StorageFailed(self._store.path, why)
            node.fail(failed)
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
            await asyncio.wait([self._writing])
        await self._store.close()


def _unheard(_: TurnkeeperError | None) -> None:
    """Nobody is left to be told whether the end of a boot was recorded; its lease runs out either way."""
