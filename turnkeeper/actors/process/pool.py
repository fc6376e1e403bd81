"""A pool: the workers of one process agent in one runtime, a turn each at a time."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import msgspec

from turnkeeper.actors.process.exchange import Exchange
from turnkeeper.actors.process.life import Command, Life
from turnkeeper.actors.process.seat import Seat, SeatStatistics, Worker
from turnkeeper.actors.process.spawned import Guard
from turnkeeper.actors.tool import Tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import ProcessDied, TurnkeeperError
from turnkeeper.kernel.ports import Chance
from turnkeeper.kernel.supervision.intensity import Intensity

__all__ = ["Crew", "Pool"]


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool is made of: one command, how many at once, and how often they may fall."""

    command: Command
    steps: Mapping[str, Tool[..., Any]]
    workers_max: int
    intensity: Intensity


class Pool:
    """Gives each turn a worker: a running one before a new one, and whoever has waited longest first."""

    __slots__ = ("_crew", "_free", "_guard", "_waiting", "seats")

    def __init__(self, crew: Crew, chance: Chance, log: Any) -> None:
        """Begin with empty seats; the first turns fill them."""
        self._crew = crew
        self._guard = Guard()
        name = crew.command.agent_id
        workers = [Worker(crew.command, self._guard, log) for _ in range(crew.workers_max)]
        self.seats = [
            Seat(f"{name}/{nth}", worker, crew.intensity, chance, log) for nth, worker in enumerate(workers, 1)
        ]
        self._free = list(reversed(self.seats))
        self._waiting: deque[asyncio.Future[Seat]] = deque()

    async def run(self, turn: Turn, idle_s: float) -> Any:
        """Run a turn on a worker and return what the worker says is its deliverable.

        Args:
            turn: the turn.
            idle_s: how long it may go without progress, which its wait for a worker is not; 0 for no limit.

        Raises:
            ChildQuarantined: the workers fall too often.
            ProcessDied: the worker died under the turn.
            Exception: see `Exchange.value`.
        """
        while True:
            with _putting_off(turn, idle_s):
                seat, life = await self._worker()
            exchange = Exchange(life, turn, self._crew.steps, self._crew.command.limits)
            exchange.over.add_done_callback(partial(self._left, seat))
            try:
                return await exchange.value()
            except ProcessDied:
                if not life.over.result().normal:
                    raise  # otherwise it had ended before it read of this turn

    async def _worker(self) -> tuple[Seat, Life]:
        seat = await self._seat()
        try:
            life = await seat.ensure()
            while not life.up:  # it fell between its start and this moment
                life = await seat.ensure()
        except BaseException:
            self._leave(seat)
            raise
        return seat, life

    async def _seat(self) -> Seat:
        running = [seat for seat in self._free if seat.worker.life is not None and seat.worker.life.up]
        if self._free:
            seat = running[-1] if running else self._free[-1]
            self._free.remove(seat)
            return seat
        waiting: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():  # it came together with the cancellation
                self._leave(waiting.result())
            raise

    def _left(self, seat: Seat, _: "asyncio.Future[None]") -> None:
        self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(seat)
                return
        self._free.append(seat)

    def release(self) -> None:
        """End the quarantine of every seat."""
        for seat in self.seats:
            seat.release()

    async def stop(self) -> None:
        """Bring every worker down, the last one first; nothing of them is left when this is over."""
        shutdown_s = self._crew.command.limits.shutdown_s
        try:
            await asyncio.gather(*(seat.stop(shutdown_s) for seat in reversed(self.seats)))
        finally:
            for seat in self.seats:
                if seat.worker.life is not None:
                    seat.worker.life.end_now()
            self._guard.close()

    def statistics(self) -> list[SeatStatistics]:
        """Return how each worker stands."""
        return [seat.statistics() for seat in self.seats]


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
            turn.heartbeat()

    beat()
    try:
        yield
    finally:
        timers[0].cancel()
        with suppress(TurnkeeperError):
            turn.heartbeat()
