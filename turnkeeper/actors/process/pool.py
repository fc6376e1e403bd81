"""A pool: the workers of one process agent in one runtime, a turn each at a time."""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import msgspec

from turnkeeper.actors.process.exchange import Exchange
from turnkeeper.actors.process.life import Command, Life
from turnkeeper.actors.process.spawned import Guard
from turnkeeper.actors.process.worker import Worker
from turnkeeper.actors.tool import Tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import (
    ChildNotWanted,
    ChildQuarantined,
    ProcessDied,
    ShuttingDown,
    SupervisionError,
    TurnkeeperError,
)
from turnkeeper.kernel.supervision.child import ChildSpec, Restart, Staff
from turnkeeper.kernel.supervision.intensity import Intensity

__all__ = ["Crew", "Pool"]

_AGAIN_S: Final = 1.0
"""How long a turn waits until it looks again at the workers that were not to be had: some are resumed without a start,
such as one that was paused and stayed up."""


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool is made of: one command, how many at once, and how often they may fall; by name in their path."""

    name: str
    command: Command
    steps: Mapping[str, Tool[..., Any]]
    workers_max: int
    intensity: Intensity


class Pool:
    """Gives each turn a worker: one that is up before a new one, and a new one before one that is down.

    A worker that somebody has told to rest gets none; while all of them rest, or their supervisor does, turns wait.

    Who starts workers, brings back what falls and puts away what falls too often is their supervisor. It stops them,
    too; a pool has nothing to close.
    """

    __slots__ = ("_crew", "_free", "_guard", "_log", "_staff", "_wishes", "workers")

    def __init__(self, crew: Crew, staff: Staff, log: Any) -> None:
        """Begin without workers; the first turns add them to the staff."""
        self._crew = crew
        self._staff = staff
        self._log = log
        self._guard = Guard()
        self.workers: list[Worker] = []
        self._free: list[Worker] = []
        self._wishes: dict[_Wish, None] = {}

    async def run(self, turn: Turn, idle_s: float) -> Any:
        """Run a turn on a worker and return what the worker says is its deliverable.

        Args:
            turn: the turn.
            idle_s: how long it may go without progress, which its wait for a worker is not; 0 for no limit.

        Raises:
            ChildQuarantined: every worker is put away.
            ProcessDied: the worker died under the turn.
            ChildNotWanted: from a `ProcessDied`: it was stopped under the turn.
            Exception: see `Exchange.value`.
        """
        while True:
            with _putting_off(turn, idle_s):
                worker, life = await self._worker()
            exchange = Exchange(life, turn, self._crew.steps, self._crew.command.limits)
            exchange.over.add_done_callback(partial(self._left, worker))
            try:
                return await exchange.value()
            except ProcessDied as died:
                reason = life.over.result().reason
                if reason == "stopped":  # taken back as after every death, but its end is nothing that it did
                    raise ChildNotWanted(f"worker {worker.name} of {self._crew.name}", "stopped") from died
                if reason != "normal":
                    raise  # otherwise it had ended before it read of this turn

    async def _worker(self) -> tuple[Worker, Life]:
        """Take a worker that is up; those that are put away, or are to rest, are passed over for a while."""
        wish = _Wish()
        self._wishes[wish] = None
        try:
            while True:
                worker = await self._taken(wish)
                try:
                    return worker, await self._up(worker)
                except (ChildQuarantined, ChildNotWanted, ShuttingDown) as error:
                    wish.away[worker] = error
                    self._leave(worker, away=True)
                    if isinstance(error, ChildQuarantined) and self._all_put_away(wish):
                        raise _with_its_end(error, worker) from error
                except BaseException:
                    self._leave(worker)
                    raise
        finally:
            del self._wishes[wish]

    def _all_put_away(self, wish: "_Wish") -> bool:
        put_away = sum(isinstance(error, ChildQuarantined) for error in wish.away.values())
        return put_away == self._crew.workers_max

    async def _up(self, worker: Worker) -> Life:
        while True:
            await self._staff.ensure_running(worker.name)
            life = worker.life
            if life is not None and life.up:
                return life
            if life is not None:
                await asyncio.wait([life.over])  # the supervisor has been told by then

    async def _taken(self, wish: "_Wish") -> Worker:
        while (worker := self._choice(wish.away)) is None:
            given: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
            wish.given = given
            try:
                await asyncio.wait([given], timeout=_AGAIN_S)
            except asyncio.CancelledError:
                if given.done():  # it came together with the cancellation
                    self._leave(given.result())
                raise
            finally:
                wish.given = None
            if given.done():
                return given.result()
            wish.away.clear()
        return worker

    def _choice(self, away: Collection[Worker]) -> Worker | None:
        """Return a worker that nobody has, None where there is none but those that are away."""
        free = [worker for worker in self._free if worker not in away]
        up = [worker for worker in free if worker.up]
        if not up and len(self.workers) < self._crew.workers_max:
            return self._added()
        if not free:
            return None
        worker = (up or free)[-1]
        self._free.remove(worker)
        return worker

    def _added(self) -> Worker:
        name, command = str(len(self.workers) + 1), self._crew.command
        worker = Worker(name, command, self._guard, self._risen, self._log)
        self.workers.append(worker)
        shutdown_s = command.limits.shutdown_s
        self._staff.add(ChildSpec(name=name, child=worker, restart=Restart.TRANSIENT, shutdown_s=shutdown_s))
        return worker

    def _left(self, worker: Worker, _: "asyncio.Future[None]") -> None:
        self._leave(worker)

    def _leave(self, worker: Worker, *, away: bool = False) -> None:
        """Give a worker to whoever has waited longest; one that is away, to who does not know so yet."""
        for wish in self._wishes:
            if wish.given is not None and not wish.given.done() and not (away and worker in wish.away):
                wish.given.set_result(worker)
                return
        self._free.append(worker)

    def _risen(self, worker: Worker) -> None:
        """Give a worker that nobody has, such as one that was released, to who waits for another."""
        if worker in self._free:
            self._free.remove(worker)
            self._leave(worker)


class _Wish:
    """A turn that wants a worker, in the order in which they came: what it waits for, and whom it need not ask now."""

    __slots__ = ("away", "given")

    def __init__(self) -> None:
        self.away: dict[Worker, SupervisionError | ShuttingDown] = {}
        self.given: asyncio.Future[Worker] | None = None


def _with_its_end(error: ChildQuarantined, worker: Worker) -> ChildQuarantined:
    ended = worker.ended
    if ended is None or ended.normal:
        return error
    return ChildQuarantined(error.path, f"{error.reason}, the last end: {ended.error}")


@contextmanager
def _putting_off(turn: Turn, idle_s: float) -> Iterator[None]:
    """Let a wait for a worker, who may be busy with other turns, not count as being stuck."""
    if not idle_s:
        yield
        return
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def beat() -> None:
        timers[:] = [loop.call_later(idle_s / 2, beat)]
        with suppress(TurnkeeperError):  # its run is over; its cancellation is on its way
            turn.put_off()

    beat()
    try:
        yield
    finally:
        timers[0].cancel()
        with suppress(TurnkeeperError):
            turn.put_off()
