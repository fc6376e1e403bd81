"""The runtime: the root that owns a store, its writer and its session agents."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec

from turnkeeper.actors.agent import Agent, newest_of
from turnkeeper.actors.node import Node, SystemChance, SystemClock
from turnkeeper.actors.persistence import Persistence, PersistenceStatistics
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.actors.values import encode
from turnkeeper.kernel.address import address, check_key
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed, TurnkeeperError
from turnkeeper.kernel.ports import Chance, Clock, Points, Store
from turnkeeper.kernel.records import NodeBeat, NodeStarted, NodeStopped
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.child import ChildSpec, Exit, Staff
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.verdict import Stop
from turnkeeper.supervisors.chronicle import Chronicle, Recorded, Unrecorded
from turnkeeper.supervisors.door import Door
from turnkeeper.supervisors.inspection import Inspection
from turnkeeper.supervisors.lag import LagProbe
from turnkeeper.supervisors.operation import Operation
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.recovery import recover
from turnkeeper.supervisors.supervisor import Exceeded, Supervisor
from turnkeeper.supervisors.tending import AGENTS, PROCESSES, TREE, Tending
from turnkeeper.supervisors.verbs import verbs

__all__ = ["Runtime", "RuntimeStatistics"]

_LAST_WORDS_S = 1.0
"""How long a cancelled handler may take to clean up before the runtime closes without it."""

_RETAIN_EVERY_S = 3_600.0
"""How often, at least, what is past `retention_s` is looked for."""

_BEAT_AGAIN_S = 1.0
"""When a heartbeat that failed is tried again: at the next beat, two short troubles could cost the lease."""


class RuntimeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime holds now, and has done since it started."""

    boot_id: int
    agents: int
    running: int
    queued: int
    suspended: int
    accepted: int
    duplicates: int
    recovered: int
    retried: int
    completed: int
    failed: int
    cancelled: int
    steps: int
    persistence: PersistenceStatistics


class Runtime(Inspection, Operation, Tending):
    """Durable turns for agents, on one SQLite file.

    An async context manager: entering takes the file, recovers what an earlier process left, and starts; leaving
    refuses new work, gives running turns `shutdown_s` to end, takes the others back to their queues for the next
    runtime, and closes. Works inside a FastAPI or Starlette lifespan.

    Promises: `tell` returns after the commit. One turn of an actor runs at a time, in the order of acceptance.
    What was accepted ends in exactly one deliverable, in this process or in a later one. A key that comes again
    is answered, not run. Cancelling a caller stops its waiting and nothing else.
    """

    def __init__(  # noqa: PLR0913 - each is said by its name
        self,
        store: str | Path | Store,
        agents: Sequence[Agent],
        *,
        children: Sequence[ChildSpec] = (),
        intensity: Intensity | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        chance: Chance | None = None,
        points: Points | None = None,
    ) -> None:
        """Describe a runtime; nothing is touched before it is entered.

        Args:
            store: the database file, made where it does not exist; or a store of your own.
            agents: what `@agent` made; of an agent given in several versions, the newest last. Live turns of agents not
                given here stay queued.
            children: actors, services and trees of yours, started last and stopped first. One that falls more often
                than is borne is put away; its path is `tree/` and its name.
            intensity: how many restarts of each child are borne.
            settings: limits and durations.
            clock: wall time, for tests and simulations.
            chance: randomness, for tests and simulations.
            points: told of each effect before and after its call, for tests that stop the world there.

        Raises:
            ValueError: two agents have one name and one version.
            InvalidName: two children have one name, or it cannot be one.
        """
        self._settings = settings or Settings()
        self._clock = clock or SystemClock()
        self._chance = chance or SystemChance()
        self._points = points
        self._store = self._file(store) if isinstance(store, str | Path) else store
        self._agents = newest_of(agents)
        self._reception = Reception(self._agents)
        self._chronicle: Chronicle = Unrecorded()
        self._tree = Supervisor(children, intensity=intensity, exceeded=Exceeded.QUARANTINE, chance=self._chance.random)
        self._processes = Supervisor()
        self._door: Door | None = None
        self._node: Node | None = None
        self._root: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def _file(self, path: str | Path) -> Store:
        store_id, created_at = self._chance.token(), self._clock.time()
        return SqliteStore(path, synchronous=self._settings.synchronous, store_id=store_id, created_at=created_at)

    @property
    def path(self) -> str:
        """Return where the store is."""
        return self._store.path

    async def __aenter__(self) -> Self:
        """Take the file, recover, start.

        Raises:
            StoreInUse: another runtime owns the file.
            SchemaTooNew: a newer version wrote it.
            StorageFailed: it is no store, or cannot be read or written.
            Exception: whatever a child raised that could not be started; nothing runs then.
        """
        marks = await self._store.open()
        self._reception = Reception(self._agents)
        self._processes = Supervisor()
        self._closing = None
        settings = self._settings
        persistence = Persistence(self._store, batch_max=settings.batch_max, waiting_max=settings.commits_waiting_max)
        rest, staff = self._reception.rest, self._staff
        node = Node(self._store, persistence, marks, settings, self._clock, self._chance, rest, staff, self._points)
        self._reception.serve(node)
        self._node = node
        self._root = asyncio.create_task(self._supervise(node), name="turnkeeper")
        try:
            now = self._clock.time()
            await persistence.commit([NodeStarted(node.lease.boot_id, os.getpid(), now, node.lease.until)])
            await self._take_up(node)
            self._processes.start(self._tree_fell)
            await recover(node, self._reception)
            if (starting := self._tree.start(self._tree_fell)) is not None:
                await starting
            if isinstance(self._store, SqliteStore):
                self._door = Door(Path(self._store.path), verbs(self))
                await self._door.open()
        except BaseException:
            await self.aclose()
            raise
        node.log.info("runtime.started", path=self._store.path, boot_id=node.lease.boot_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def tell(
        self, session_id: str, agent_id: str, payload: Any, *, key: str | None = None, tenant: str = ""
    ) -> Receipt:
        """Accept an inbound for an actor and return its receipt, after the commit.

        Idempotent under `key` for `idempotency_s`, within (tenant, session, agent): the same key with the same
        payload is answered with the same receipt, and with the deliverable, byte for byte, once there is one.
        Without a key every call is a new turn. If this raises or is cancelled, send again under the same key.

        Raises:
            IdempotencyConflict: the key stands for another payload.
            MailboxFull: too many turns wait for this actor, or for the disk.
            ContractViolation, PayloadTooLarge, InvalidName, UnknownAgent: the inbound cannot be accepted.
            ShuttingDown: the runtime is closing.
            StorageFailed: it could not be made durable (disk full, say).
        """
        node = self._open_node()
        to = address(tenant, session_id, agent_id)
        if key is not None:
            check_key(key)
        encoded = encode(payload, "the payload", node.settings.payload_bytes_max)
        return await self._reception.admit(to, key, encoded)

    async def ask(
        self, session_id: str, agent_id: str, payload: Any, *, key: str | None = None, tenant: str = ""
    ) -> Result:
        """Accept an inbound and wait for its deliverable. Cancelling stops the waiting, never the turn.

        Raises:
            As `tell`, and `Receipt.deliverable`.
        """
        receipt = await self.tell(session_id, agent_id, payload, key=key, tenant=tenant)
        return await receipt.deliverable()

    async def receipt(self, session_id: str, agent_id: str, key: str, *, tenant: str = "") -> Receipt | None:
        """Return the receipt a key stands for, None where it stands for none. Changes nothing.

        Raises:
            ShuttingDown, StorageFailed: it cannot be read.
        """
        self._open_node()
        return await self._reception.receipt(address(tenant, session_id, agent_id), key)

    def statistics(self) -> RuntimeStatistics:
        """Return what the runtime holds now, and has done since it started.

        Raises:
            ShuttingDown: it has not been entered.
        """
        if self._node is None:
            raise ShuttingDown
        agents, counters = self._reception.agents(), self._node.counters
        current = [agent.current for agent in agents if agent.current is not None]
        live = sum(len(agent.open_turns()) for agent in agents)
        return RuntimeStatistics(
            boot_id=self._node.lease.boot_id,
            agents=len(agents),
            running=len(current) - len(self._node.suspended),
            queued=live - len(current),
            suspended=len(self._node.suspended),
            persistence=self._node.persistence.statistics(),
            **{name: getattr(counters, name) for name in counters.__slots__},
        )

    async def aclose(self) -> None:
        """Close in good order: bounded by `shutdown_s` and a few seconds for last words. Safe to call twice.

        Cancelling it does not leave the file half closed: it closes first, and is cancelled then.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not self._closing.done():
                try:
                    await asyncio.shield(self._closing)
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled
        self._closing.result()

    async def _close(self) -> None:
        node, root = self._node, self._root
        if node is not None and root is not None:
            node.closing = True
            if self._door is not None:
                await self._door.close()
            if (stopping := self._tree.stop(0.0)) is not None:
                await stopping
            await self._stop_turns(node)
            for task in list(node.tasks):
                task.cancel()
            if node.tasks:
                await asyncio.wait(list(node.tasks), timeout=_LAST_WORDS_S)
            if (stopping := self._processes.stop(0.0)) is not None:
                await stopping
            node.persistence.submit([NodeStopped(self._clock.time(), node.lease.boot_id)], _unheard)
            node.persistence.close()
            await asyncio.wait([root])
            await self._reception.settle()
            node.closed = True
            for agent in self._reception.agents():
                for turn in agent.open_turns():
                    turn.disarm()
                    turn.abandon(ShuttingDown())
            node.log.info("runtime.stopped", path=self._store.path, boot_id=node.lease.boot_id)
        await self._store.close()

    async def _take_up(self, node: Node) -> None:
        """Want again what was wanted when the last runtime ended."""
        desired = {row.path: Desired(row.desired) for row in await self._store.desired()}
        self._chronicle = Recorded(node, desired)
        for agent_id in self._reception.names():
            if desired.get(f"{AGENTS}/{agent_id}", Desired.RUNNING) is not Desired.RUNNING:
                node.resting.add(agent_id)
        self._tree.adopt(TREE, self._chronicle)
        self._processes.adopt(PROCESSES, self._chronicle)

    def _staff(self, agent_id: str, intensity: Intensity) -> Staff:
        """Return the supervisor of an agent's worker processes; one that falls too often is put away by itself."""
        staff = Supervisor(intensity=intensity, exceeded=Exceeded.QUARANTINE, chance=self._chance.random)
        self._processes.add(ChildSpec(name=agent_id, child=staff))
        return staff

    def _tree_fell(self, ended: Exit) -> None:
        """Hear that the tree has given up: it puts its children away instead, so this is a bug, and said."""
        self._open_node().log.error("tree.gave_up", child=ended.error)

    async def _stop_turns(self, node: Node) -> None:
        running = [turn for agent in self._reception.agents() if (turn := agent.current) and turn.task]
        tasks = [turn.task for turn in running if turn.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=node.settings.shutdown_s)
        for turn in running:
            if turn.task is not None:
                turn.halt(Stop.SHUTDOWN)
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
        for turn in running:
            if turn.run is not None:
                turn.run.give_up()

    async def _supervise(self, node: Node) -> None:
        """Own the writer and the heartbeat; a writer that crashes stops the runtime with a clear error."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat, node)
            if isinstance(self._clock, SystemClock):  # in virtual time nothing is late
                group.start_soon(LagProbe(node.settings.lag_s, node.log, self._turn_of).run)
            if node.settings.retention_s:
                group.start_soon(self._retain, node)
            try:
                await node.persistence.run()
            except Exception as error:  # noqa: BLE001 - the supervisor's place: whatever it is, callers must be told
                self._fail(node, error)
            group.cancel_scope.cancel()

    def _turn_of(self, task: asyncio.Task[Any]) -> dict[str, Any]:
        """Return whose turn a task belongs to, for logs: as its handler's own, or as one in which its step runs."""
        for agent in self._reception.agents():
            turn = agent.current
            if turn is not None and turn.run is not None and turn.run.has(task):
                return {"turn_id": turn.row.turn_id, "address": str(agent.address)}
        return {}

    def _fail(self, node: Node, error: Exception) -> None:
        """Stop serving: nothing becomes durable any more, and everyone who waits is told why."""
        node.log.error("writer.crashed", path=self._store.path, exc_info=error)
        reason = f"the writer has crashed ({type(error).__name__}: {error}); restart the runtime"
        node.closing, node.failed = True, StorageFailed(self._store.path, reason)
        node.persistence.stop(node.failed)
        for agent in self._reception.agents():
            for turn in agent.open_turns():
                turn.abandon(node.failed)

    async def _beat(self, node: Node) -> None:
        pause_s = node.settings.beat_s
        while True:
            await anyio.sleep(pause_s)
            pause_s = node.settings.beat_s
            node.lease = node.lease.renewed(self._clock.time(), node.settings.lease_s)
            try:
                await node.persistence.commit([NodeBeat(node.lease.until, node.lease.boot_id)])
            except TurnkeeperError as error:
                pause_s = min(_BEAT_AGAIN_S, pause_s)
                node.log.warning("node.beat_failed", error=str(error))

    async def _retain(self, node: Node) -> None:
        """Prune what is older than the setting says, again and again."""
        while not node.closing:
            try:
                if pruned := await self.prune(older_than_s=node.settings.retention_s):
                    node.log.info("store.pruned", turns=pruned)
            except ShuttingDown:
                return
            except TurnkeeperError as error:
                node.log.warning("store.prune_failed", error=str(error))
            await anyio.sleep(min(max(node.settings.retention_s / 10, 1.0), _RETAIN_EVERY_S))

    def _open_node(self) -> Node:
        if self._node is not None and self._node.failed is not None:
            raise self._node.failed
        if self._node is None or self._node.closing:
            raise ShuttingDown
        return self._node


def _unheard(_: TurnkeeperError | None) -> None:
    """Nobody is left to be told whether the closing was recorded; the lease runs out either way."""
