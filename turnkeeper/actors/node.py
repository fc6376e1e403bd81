"""The node: what every session agent of one running runtime shares."""

import asyncio
import logging
import random
import secrets
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
import structlog

from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.persistence import Persistence
from turnkeeper.kernel.edge import Failure
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed, TurnkeeperError
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Chance, Clock, Marks, Points, Store
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.supervision.child import Staff
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.storm import Storm
from turnkeeper.kernel.turn import TurnState

if TYPE_CHECKING:
    from turnkeeper.actors.mailbox import Mailbox
    from turnkeeper.actors.session import SessionAgent

_ENDED = {"completed": "turn.completed", "failed": "turn.failed", "cancelled": "turn.cancelled"}

__all__ = ["Counters", "Node", "SystemChance", "SystemClock"]

T = TypeVar("T")


class SystemClock:
    """The machine's wall clock."""

    time = staticmethod(time.time)


class SystemChance:
    """The machine's randomness."""

    random = staticmethod(random.random)

    def token(self) -> str:
        """Return 16 hexadecimal digits."""
        return secrets.token_hex(8)


class Counters:
    """What has happened since the runtime started; `Runtime.statistics` reads them."""

    __slots__ = ("accepted", "cancelled", "completed", "duplicates", "failed", "recovered", "retried", "steps")

    def __init__(self) -> None:
        """Start from zero."""
        self.accepted = self.duplicates = self.recovered = self.retried = 0
        self.completed = self.failed = self.cancelled = self.steps = 0


class Line:
    """The nodes that one runtime has had since it was entered: who holds an old one is led to the last."""

    __slots__ = ("last",)

    last: "Node"


class Node:
    """A running runtime as its session agents see it: store, writer, lease, clock, limits."""

    __slots__ = (
        "_actor_ids",
        "_ids",
        "_signal_ids",
        "agent_at",
        "chance",
        "clock",
        "closed",
        "closing",
        "counters",
        "deaf",
        "failed",
        "handing_on",
        "hold",
        "joined",
        "late",
        "lease",
        "line",
        "log",
        "loop",
        "on_due",
        "on_idle",
        "on_storm",
        "open",
        "persistence",
        "points",
        "resting",
        "retry",
        "sending",
        "settings",
        "staff",
        "store",
        "store_id",
        "storms",
        "suspended",
        "tasks",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - one constructor call, in Runtime
        self,
        store: Store,
        persistence: Persistence,
        marks: Marks,
        settings: Settings,
        clock: Clock,
        chance: Chance,
        on_idle: "Callable[[Mailbox], None]",
        agent_at: "Callable[[Address], SessionAgent | None]",
        hold: "Callable[..., AbstractAsyncContextManager[SessionAgent]]",
        staff: Callable[[str, Intensity], Staff],
        points: Points | None,
        before: "Node | None" = None,
    ) -> None:
        """Begin a boot: the next boot id, and a lease from now on.

        `hold` keeps the session agent at an address in memory, brought there where it is not; with `unserved` also one
        of an agent that was not given to this runtime. `staff` returns the supervisor of an agent's processes, by the
        agent's name; it is made on its first call.
        `before` is the node whose writer has crashed: its counts go on, what would not stop is still held, and whoever
        asks it for a deliverable is led here.
        """
        self.store = store
        self.store_id = marks.store_id
        self.persistence = persistence
        self.settings = settings
        self.retry = settings.retry  # of agents that declare none
        self.clock = clock
        self.chance = chance
        self.on_idle = on_idle
        self.agent_at = agent_at
        self.hold = hold
        self.handing_on: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()  # while it is used
        self.sending: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # by actor, while it is used
        self.staff = staff
        self.points = points
        self.loop = asyncio.get_running_loop()
        self.lease = Lease(marks.boot_id + 1, clock.time() + settings.lease_s)
        self.open = False  # until what the store holds has been taken up
        self.closing = False
        self.closed = False
        self.failed: StorageFailed | None = None
        self.line: Line = before.line if before else Line()
        self.line.last = self
        self.counters: Counters = before.counters if before else Counters()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.deaf: set[asyncio.Task[Any]] = before.deaf if before else set()
        self.late: dict[str, asyncio.Future[None]] = before.late if before else {}
        self.suspended = 0
        self.joined = False  # no message has joined a turn: what waits for an actor is its queue, and nothing beside
        self.on_due: Callable[[float], None] = lambda _due_at: None  # the alarm is told of a deadline, wall time, s
        self.resting: set[str] = set()  # agents that start no turn: paused, stopped or quarantined
        self.storms: defaultdict[str, Storm] = defaultdict(Storm)  # by agent
        self.on_storm: Callable[[str, str], None] = lambda _agent_id, _error: None  # the runtime pauses the agent
        self.log = logger()
        self._ids = count(marks.receipt_id + 1)
        self._actor_ids = count(marks.actor_id + 1)
        self._signal_ids = count(marks.signal_id + 1)

    def next_id(self) -> int:
        """Return the number of the next inbound: its receipt's and, if it opens one, its turn's."""
        return next(self._ids)

    def next_actor_id(self) -> int:
        """Return the number of an actor that is spoken to for the first time."""
        return next(self._actor_ids)

    def next_signal_id(self) -> int:
        """Return the number of the next signal."""
        return next(self._signal_ids)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run something beside the turns. Closing the runtime cancels it, and starts nothing more."""
        if self.closing:
            work.close()
            return None
        task = self._begin(work)
        task.add_done_callback(self._hear)
        return task

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _hear(self, task: asyncio.Task[None]) -> None:
        """Say what a task has failed of that nobody waits for."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ShuttingDown):
            self.log.error("task.failed", error=type(error).__name__, exc_info=error)

    async def see_through(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, also where whoever waits for it goes away; return what it returns.

        Raises:
            ShuttingDown, StorageFailed: the runtime closes first.
            Exception: whatever it raises.
        """
        if self.closing:
            work.close()
            raise self.gone
        task = self._begin(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller is not None and caller.cancelling()):
                raise self.gone from None
            raise

    def fail(self, error: StorageFailed) -> None:
        """Serve no more: nothing becomes durable from now on, and everyone who waits for that is told why."""
        self.closing, self.failed = True, error
        self.persistence.stop(error)

    def check_open(self) -> None:
        """Refuse whoever comes too early or too late.

        Raises:
            ShuttingDown: the runtime closes.
            StorageFailed: its writer has crashed, or what the store holds has not been taken up yet: send again.
        """
        if self.closing:
            raise self.gone
        if not self.open:
            raise StorageFailed(self.store.path, "the runtime is on its way up; send again then")

    @property
    def gone(self) -> TurnkeeperError:
        """Return what to tell whoever comes too late."""
        return self.failed.anew() if self.failed is not None else ShuttingDown()

    def let_go(self, task: asyncio.Task[Any]) -> None:
        """Hold a task that would not stop until it ends: let go of, it would be collected in the middle of its work."""
        if not task.done():
            self.deaf.add(task)
            task.add_done_callback(self._deaf_ended)

    async def no_longer_late(self, key: str) -> None:
        """Wait until a call under this idempotency key that would not stop has ended: its effect may still come."""
        while (call := self.late.get(key)) is not None:
            await asyncio.wait({call})

    def _deaf_ended(self, task: asyncio.Task[Any]) -> None:
        self.deaf.discard(task)
        if not task.cancelled():
            task.exception()  # taking notice of it: nobody waits for it any more

    def ended(self, address: Address, turn: OpenTurn, deliverable: Deliverable) -> None:
        """Count a turn that has its deliverable, and say so in one line; failures as warnings."""
        counters = self.counters
        setattr(counters, deliverable.outcome, getattr(counters, deliverable.outcome) + 1)
        level = logging.INFO if deliverable.outcome == TurnState.COMPLETED else logging.WARNING
        if not self.log.isEnabledFor(level):
            return
        self.log.log(
            level,
            _ENDED[deliverable.outcome],
            turn_id=turn.row.turn_id,
            address=str(address),
            attempt=turn.row.attempt,
            edges=turn.row.edges,
            **_why(deliverable),
            run_s=round(self.loop.time() - turn.started_s, 6) if turn.started_s else 0.0,
        )


def _why(deliverable: Deliverable) -> dict[str, str]:
    """Return the type of a recorded failure: its message may hold what belongs into no log."""
    if deliverable.outcome == TurnState.COMPLETED:
        return {}
    return {"error": msgspec.msgpack.decode(deliverable.body, type=Failure).type}


class _Unfailing(structlog.stdlib.BoundLogger):
    """A logger whose handlers may fail: an application's bug in one must not stop its turns."""

    def _proxy_to_logger(self, method_name: str, event: str | None = None, *args: Any, **fields: Any) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, *args, **fields)
        except Exception:  # noqa: BLE001 - shown as the standard library shows a failing handler
            if logging.raiseExceptions:
                traceback.print_exc()


def logger() -> Any:
    """Return the library's logger: structlog's face on the standard logger `turnkeeper`.

    The library configures no logging. Events reach whatever handlers the application has given the standard
    library's root, with the event's fields in the message and as the record's `fields`.
    """
    return structlog.wrap_logger(
        logging.getLogger("turnkeeper"),
        processors=[structlog.stdlib.filter_by_level, _render],
        wrapper_class=_Unfailing,
        cache_logger_on_first_use=True,
    )


def _render(_logger: Any, _method: str, event: Any) -> tuple[tuple[str], dict[str, Any]]:
    fields = dict(event)
    name, exc_info = fields.pop("event"), fields.pop("exc_info", None)
    said = " ".join([name, *(f"{key}={_printable(value)}" for key, value in fields.items())])
    return (said,), {"extra": {"event": name, "fields": fields}, "exc_info": exc_info}


def _printable(value: object) -> str:
    """Return a field on one line that cannot steer a terminal, whoever wrote it."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(value))
