"""A seat: one worker's place in an agent's pool, filled once however many ask, and again after a pause."""

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from functools import partial
from typing import Any

import msgspec

from turnkeeper.actors.process.life import Command, Life
from turnkeeper.actors.process.spawned import Guard
from turnkeeper.kernel.errors import ChildQuarantined, ProcessDied, ShuttingDown, TurnkeeperError
from turnkeeper.kernel.ports import Chance
from turnkeeper.kernel.supervision.child import Exit, Exited
from turnkeeper.kernel.supervision.intensity import Intensity, Window
from turnkeeper.kernel.supervision.slot import Action, Event, Slot, SlotState

__all__ = ["Seat", "SeatStatistics", "Worker"]


class Worker:
    """A worker process as a `Child`: what is started and stopped. It outlives its incarnations."""

    __slots__ = ("_command", "_guard", "_log", "incarnation", "life")

    def __init__(self, command: Command, guard: Guard, log: Any) -> None:
        """Describe it; nothing runs before `start`."""
        self._command = command
        self._guard = guard
        self._log = log
        self.incarnation = 0
        self.life: Life | None = None

    def start(self, exited: Exited) -> Awaitable[None]:
        """Start an incarnation; what is returned is done when it takes turns.

        Raises:
            OSError: it cannot be started.
            ProcessDied: from the awaitable: it ended, or was too slow, before it was ready.
        """
        self.incarnation += 1
        life = self.life = Life(self._command, self.incarnation, self._guard, self._log)

        async def ready() -> None:
            try:
                await asyncio.shield(life.ready)
            except asyncio.CancelledError:
                life.end_now()
                raise
            life.over.add_done_callback(ended)

        def ended(over: "asyncio.Future[Exit]") -> None:
            if not life.stopping:
                exited(over.result())

        return ready()

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:
        """Bring it down within `shutdown_s`, by force then; None where it is down."""
        life = self.life
        return None if life is None or life.over.done() else life.stop(shutdown_s)


class SeatStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as it stands.

    Args:
        state: of its slot: idle, spawning, running, stopping.
        incarnation: how often it has been started.
        pid: its process id, None while there is no process.
        started: its start time, in clock ticks since the machine's boot: with the pid, who it is.
        health: alive, suspect or dead; empty while there is no process.
        busy: whether it runs a turn.
        refused: lines of this incarnation that were not understood.
        restarts: within the window of its intensity.
        last_exit: how the incarnation before it ended, None where none has.
        quarantined: why it is not started any more, empty where it is.
    """

    state: SlotState
    incarnation: int
    pid: int | None
    started: int | None
    health: str
    busy: bool
    refused: int
    restarts: int
    last_exit: Exit | None
    quarantined: str


class Seat:
    """One slot with its worker: starts coalesce, ends are counted, and too many of them put it away."""

    __slots__ = (
        "_chance",
        "_intensity",
        "_last",
        "_log",
        "_loop",
        "_name",
        "_not_before_s",
        "_quarantined",
        "_timer",
        "_under_way",
        "_waiting",
        "_window",
        "closed",
        "slot",
        "worker",
    )

    def __init__(self, name: str, worker: Worker, intensity: Intensity, chance: Chance, log: Any) -> None:
        """Begin empty."""
        self._name = name
        self.worker = worker
        self._intensity = intensity
        self._chance = chance
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.slot = Slot()
        self.closed = False
        self._window = Window()
        self._not_before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._quarantined = ""
        self._last: Exit | None = None
        self._waiting: list[asyncio.Future[Life]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def ensure(self) -> Life:
        """Return the worker's running incarnation, started if there is none; however many ask, one is started.

        One that dies before it is ready is started again, after the pauses of its intensity. Cancelling this stops
        the waiting and nothing else.

        Raises:
            ChildQuarantined: it fell too often.
            ShuttingDown: the pool is closed.
        """
        if self._quarantined:
            raise ChildQuarantined(self._name, self._quarantined)
        if self.closed:
            raise ShuttingDown
        life = self.worker.life
        if self.slot.state is SlotState.RUNNING and life is not None and life.up:
            return life
        waiting: asyncio.Future[Life] = self._loop.create_future()
        self._waiting.append(waiting)
        self._want()
        return await waiting

    def release(self) -> None:
        """End its quarantine, and forget how often it fell."""
        self._quarantined = ""
        self._window.clear()
        self._not_before_s = 0.0

    async def stop(self, shutdown_s: float) -> None:
        """Bring the worker down for good, and tell those who wait for it."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._tell(ShuttingDown())
        incarnation = self.slot.incarnation
        self.slot, action = self.slot.after(Event.STOP)
        stopping = self.worker.stop(shutdown_s) if action is Action.STOP else None
        try:
            if stopping is not None:
                await stopping
            if self._under_way:
                await asyncio.wait(self._under_way)
        finally:
            self.slot, _ = self.slot.after(Event.EXITED, incarnation)

    def statistics(self) -> SeatStatistics:
        """Return how it stands."""
        life = self.worker.life
        identity = None if life is None else life.identity
        return SeatStatistics(
            state=self.slot.state,
            incarnation=self.slot.incarnation,
            pid=None if identity is None else identity.pid,
            started=None if identity is None else identity.started,
            health="" if identity is None or life is None else life.pulse.health.value,
            busy=life is not None and life.listener is not None,
            refused=0 if life is None else life.refused,
            restarts=self._window.count(self._intensity, self._loop.time()),
            last_exit=self._last,
            quarantined=self._quarantined,
        )

    # ------------------------------------------------------------ starts

    def _want(self) -> None:
        """Have it run: now, or when the pause after its last end is over."""
        now = self._loop.time()
        if self.slot.state is SlotState.IDLE and now < self._not_before_s:
            if self._timer is None:
                self._timer = self._loop.call_at(self._not_before_s, self._paused)
            return
        self.slot, action = self.slot.after(Event.ENSURE)
        if action is Action.START:
            task = self._loop.create_task(self._bring_up(self.slot.incarnation), context=Context())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _paused(self) -> None:
        self._timer = None
        if self._waiting:
            self._not_before_s = 0.0
            self._want()

    async def _bring_up(self, incarnation: int) -> None:
        if self.closed:
            return
        try:
            await self.worker.start(partial(self._exited, incarnation))
        except ProcessDied as error:
            life = self.worker.life
            ended = Exit("crashed", normal=False, error=error.said) if life is None else life.over.result()
            self._exited(incarnation, ended)
        except (OSError, ValueError) as error:  # such as a null byte in the command
            self._exited(incarnation, Exit("crashed", normal=False, error=f"{type(error).__name__}: {error}"))
        else:
            self.slot, _ = self.slot.after(Event.STARTED, incarnation)
            life = self.worker.life
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if not one.done() and life is not None:
                    one.set_result(life)

    # ------------------------------------------------------------ ends

    def _exited(self, incarnation: int, ended: Exit) -> None:
        """Empty the seat, and decide when it may be filled again."""
        self.slot, _ = self.slot.after(Event.EXITED, incarnation)
        self._last = ended
        if self.closed:
            return
        if not ended.normal:
            self._fallen(ended)
        if self._waiting and not self._quarantined:
            self._want()

    def _fallen(self, ended: Exit) -> None:
        now = self._loop.time()
        restarts = self._window.restart(self._intensity, now)
        if restarts is not None:
            self._not_before_s = now + self._intensity.pause_s(restarts, self._chance.random())
            return
        intensity = self._intensity
        fell = f"more than {intensity.restarts_max} restarts within {intensity.within_s:g} s"
        self._quarantined = f"{fell}, the last end: {ended.error}"
        self._log.error("process.quarantined", path=self._name, reason=self._quarantined)
        self._tell(ChildQuarantined(self._name, self._quarantined))

    def _tell(self, error: TurnkeeperError) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_exception(error)
