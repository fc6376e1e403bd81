"""The runtime: the root that owns a store, its writer and its session agents."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
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
from turnkeeper.kernel.arrival import policy_of
from turnkeeper.kernel.errors import ChildNotStarted, ShuttingDown, StorageFailed, StoreInUse
from turnkeeper.kernel.ports import Chance, Clock, Marks, Points, Store
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.child import ChildSpec, Exit
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.intensity import Exceeded, Intensity
from turnkeeper.kernel.supervision.liveness import Limits
from turnkeeper.kernel.supervision.strategy import Strategy
from turnkeeper.kernel.turn import TurnState
from turnkeeper.supervisors.agents import Agents
from turnkeeper.supervisors.alarm import Alarm
from turnkeeper.supervisors.answering import Answering
from turnkeeper.supervisors.chronicle import Chronicle, Own, Recorded, Unrecorded
from turnkeeper.supervisors.door import Door
from turnkeeper.supervisors.inspection import Inspection
from turnkeeper.supervisors.lag import LagProbe
from turnkeeper.supervisors.operation import Operation
from turnkeeper.supervisors.participant_verbs import participant_verbs
from turnkeeper.supervisors.participants import PARTICIPANTS, Participants
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.service import Service
from turnkeeper.supervisors.staffs import Staffs
from turnkeeper.supervisors.storms import Storms
from turnkeeper.supervisors.supervisor import Supervisor
from turnkeeper.supervisors.sweep import Sweep
from turnkeeper.supervisors.tending import AGENTS, PROCESSES, TREE, Tending
from turnkeeper.supervisors.upkeep import retain
from turnkeeper.supervisors.verbs import verbs
from turnkeeper.supervisors.writer import Writer

__all__ = ["Runtime", "RuntimeStatistics"]


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


class Runtime(Answering, Inspection, Operation, Tending):
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
            children: actors, services and trees of yours, started after the agents and stopped before them. One that
                falls more often than is borne is put away; its path is `tree/` and its name.
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
        self._own = Own()
        self._processes = Staffs(chance=self._chance.random)
        self._tree = Supervisor(children, intensity=intensity, exceeded=Exceeded.QUARANTINE, chance=self._chance.random)
        silence = Limits(silent_s=self._settings.participant_silent_s, grace_s=self._settings.participant_grace_s)
        self.participants = Participants(silence)
        self._writer = Writer(self._store, self._settings, self._boot, self._reception.abandon)
        self._root = Supervisor(self._parts(), strategy=Strategy.REST_FOR_ONE, chance=self._chance.random)
        self._root.adopt("", self._own)
        self._node: Node | None = None
        self._entered = False
        self._closing: asyncio.Task[None] | None = None

    def _parts(self) -> list[ChildSpec]:
        """Return what a runtime consists of: each part stands on those before it, and falls and comes up with them."""
        agents = Agents(self._reception, self._present_node, self._take_up)
        parts = [
            ChildSpec(name="writer", child=self._writer, shutdown_s=math.inf),
            ChildSpec(name=PROCESSES, child=self._processes),  # before the agents, whose last turns they still run
            ChildSpec(name=AGENTS, child=agents, shutdown_s=math.inf),
            ChildSpec(name=TREE, child=self._tree),
            ChildSpec(name=PARTICIPANTS, child=self.participants),
        ]
        if isinstance(self._store, SqliteStore):
            may_be_asked = verbs(self) | participant_verbs(self.participants)
            parts.append(ChildSpec(name="door", child=Door(Path(self._store.path), may_be_asked), shutdown_s=math.inf))
        upkeep = Supervisor(self._upkeep(), chance=self._chance.random)
        return [*parts, ChildSpec(name="upkeep", child=upkeep)]  # last: nothing stands on it

    def _upkeep(self) -> list[ChildSpec]:
        settings = self._settings
        late = isinstance(self._clock, SystemClock)  # virtual time never is
        wanted: list[tuple[str, bool, Callable[[Node], Coroutine[Any, Any, object]]]] = [
            ("lag", late and settings.lag_s > 0, self._watch_lag),
            ("alarm", True, lambda node: Alarm(node).run()),
            ("sweep", settings.sweep_s > 0, lambda node: Sweep(node, self._reception).run()),
            ("retention", settings.retention_s > 0, lambda node: retain(node, self.prune)),
        ]

        def service(work: Callable[[Node], Coroutine[Any, Any, object]]) -> Service:
            return Service(lambda: work(self._present_node()))

        return [ChildSpec(name=name, child=service(work)) for name, needed, work in wanted if needed]

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
            StoreInUse: another runtime owns the file, or this one has been entered already.
            SchemaTooNew: a newer version wrote it.
            StorageFailed: it is no store, or cannot be read or written.
            Exception: whatever a child raised that could not be started; nothing runs then.
        """
        if self._entered:
            raise StoreInUse(self._store.path, "this very runtime")
        self._entered = True
        self._node = self._closing = None
        self._tree.forget()
        try:
            if (starting := self._root.start(self._given_up)) is not None:
                await starting
            node = self._open_node()
        except BaseException as error:
            await self.aclose()
            if isinstance(error, ChildNotStarted):
                raise _cause(error) from None
            raise
        node.log.info("runtime.started", path=self._store.path, boot_id=node.lease.boot_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def tell(
        self,
        session_id: str,
        agent_id: str,
        payload: Any,
        *,
        key: str | None = None,
        tenant: str = "",
        arrival: str | None = None,
    ) -> Receipt:
        """Accept an inbound for an actor and return its receipt, after the commit.

        Idempotent under `key` for `idempotency_s`, within (tenant, session, agent): the same key with the same
        payload is answered with the same receipt, and with the deliverable, byte for byte, once there is one.
        Without a key every call is a new turn. If this raises or is cancelled, send again under the same key.

        `arrival` says what becomes of it while a turn of the actor is live: queue, reject, coalesce, interrupt or steer
        (see docs/arriving.md); None means the agent's own. The receipt says what it came to. A key that is known is
        answered first, whatever it says.

        Raises:
            ActorBusy: a turn of the actor is live, and the message is to be refused then.
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
        policy = self._reception.definition(agent_id).arrival if arrival is None else policy_of(arrival)
        return await self._reception.admit(to, key, encoded, policy=policy)

    async def ask(
        self,
        session_id: str,
        agent_id: str,
        payload: Any,
        *,
        key: str | None = None,
        tenant: str = "",
        arrival: str | None = None,
    ) -> Result:
        """Accept an inbound and wait for its deliverable. Cancelling stops the waiting, never the turn.

        Raises:
            As `tell`, and `Receipt.deliverable`.
        """
        receipt = await self.tell(session_id, agent_id, payload, key=key, tenant=tenant, arrival=arrival)
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
            running=sum(turn.moving or turn.row.state is not TurnState.SUSPENDED for turn in current),
            queued=live - len(current),
            suspended=self._node.suspended,
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
        node = self._node
        if node is not None:
            node.closing = True
        if (stopping := self._root.stop(0.0)) is not None:
            await stopping
        await self._writer.clear()  # what it has left, where it crashed once too often
        self._entered = False
        if node is not None:
            node.log.info("runtime.stopped", path=self._store.path, boot_id=node.lease.boot_id)

    def _boot(self, marks: Marks, persistence: Persistence) -> Node:
        """Make the node of a boot; after a writer that has crashed it goes on with what that one's counted."""
        self._node = Node(
            self._store,
            persistence,
            marks,
            self._settings,
            self._clock,
            self._chance,
            self._reception.rest,
            self._reception.agent,
            self._reception.hold,
            self._processes.staff,
            self._points,
            before=self._node,
        )
        return self._node

    async def _take_up(self, node: Node) -> None:
        """Want again what was wanted when the last runtime ended."""
        desired = {row.path: Desired(row.desired) for row in await self._store.desired()}
        self._chronicle = recorded = Recorded(node, desired, self._chronicle.unkept)
        for agent_id in self._reception.names():
            if recorded.desired(f"{AGENTS}/{agent_id}") is not Desired.RUNNING:
                node.resting.add(agent_id)
        node.on_storm = Storms(node, self._reception, recorded).pause
        self._tree.adopt(TREE, recorded)
        self._processes.adopt(PROCESSES, recorded)
        self.participants.adopt(PARTICIPANTS, recorded)
        self._own.serve(recorded)

    def _given_up(self, ended: Exit) -> None:
        """Serve no more: a part of the runtime itself fell more often than is borne."""
        if self._node is not None:
            reason = f"the runtime has given up: its {ended.error} crashed too often; restart it"
            self._node.fail(StorageFailed(self._store.path, reason))
            self._node.log.error("runtime.gave_up", path=self._store.path, part=ended.error)

    async def _watch_lag(self, node: Node) -> None:
        await LagProbe(node.settings.lag_s, node.log, self._turn_of).run()

    def _turn_of(self, task: asyncio.Task[Any]) -> dict[str, Any]:
        """Return whose turn a task belongs to, for logs: as its handler's own, or as one in which its step runs."""
        for agent in self._reception.agents():
            turn = agent.current
            if turn is not None and turn.run is not None and turn.run.has(task):
                return {"turn_id": turn.row.turn_id, "address": str(agent.address)}
        return {}

    def _open_node(self) -> Node:
        if self._closing is not None:
            raise ShuttingDown
        node = self._present_node()
        node.check_open()
        return node

    def _present_node(self) -> Node:
        """Return the node of this boot, open or not."""
        if self._node is None:
            raise ShuttingDown
        return self._node


def _cause(error: ChildNotStarted) -> BaseException:
    """Return what was raised where a runtime could not be started, out of however many supervisors."""
    cause: BaseException = error
    while isinstance(cause, ChildNotStarted) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause
