"""Places: one child's slot, driven: started once, stopped once, however ends and wishes cross."""

import asyncio
import math
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import Final, Protocol

import msgspec

from turnkeeper.actors.node import logger
from turnkeeper.kernel.errors import ChildNotStarted, ChildNotWanted, ChildQuarantined, SupervisionError
from turnkeeper.kernel.supervision.child import ChildSpec, Exit, Retired
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.intensity import Intensity, Window
from turnkeeper.kernel.supervision.slot import Action, Event, Slot, SlotState
from turnkeeper.kernel.supervision.view import ChildView, Looked, Viewed
from turnkeeper.supervisors.carried import left_to_itself

__all__ = ["Keeper", "Place", "at_once_or_later", "crash_of", "not_started"]


_LAST_WORDS_S: Final = 1.0
"""How much longer than its `shutdown_s` a child may take until it is left to itself."""


class Keeper(Protocol):
    """Whoever holds places, and is told what happens in them."""

    def up(self, place: "Place") -> None:
        """Hear that an incarnation is up."""
        ...

    def fell(self, place: "Place", exit_: Exit) -> None:
        """Hear that an incarnation has ended by itself, or could not be started."""
        ...

    def down(self, place: "Place") -> None:
        """Hear that an incarnation was stopped."""
        ...

    def wanted(self, place: "Place") -> Desired:
        """Return what is wanted of its child."""
        ...


class Place:
    """A child's place. Idle, it holds no task and no timer."""

    __slots__ = ("ended", "keeper", "slot", "spec", "timer", "waiting", "window", "work")

    def __init__(self, spec: ChildSpec, keeper: Keeper) -> None:
        """Make an empty place."""
        self.spec = spec
        self.keeper = keeper
        self.slot = Slot()
        self.ended: Exit | None = None
        self.window: Window | None = None
        self.work: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: list[asyncio.Future[None]] | None = None

    @property
    def desired(self) -> Desired:
        """Return what is wanted of the child, as it was last said."""
        return self.keeper.wanted(self)

    # ------------------------------------------------------------ up

    def begin(self) -> "asyncio.Future[None] | None":
        """Start the child unless it is up or on its way; return the start to wait for, None where it is up at once.

        Raises:
            Exception: what the child raised; the keeper is told only of a failure that comes later.
        """
        self.slot, action = self.slot.after(Event.ENSURE)
        if action is not Action.START:
            return self.work
        number = self.slot.incarnation
        try:
            starting = self.spec.child.start(partial(self._exited, number))
        except Exception as error:
            self.slot, _ = self.slot.after(Event.EXITED, number)
            self.ended = crash_of(error)
            raise
        if starting is None:
            self._started(number)
            return None
        self.work = asyncio.ensure_future(starting)
        self.work.add_done_callback(partial(self._start_over, number))
        return self.work

    def _start_over(self, number: int, start: "asyncio.Future[None]") -> None:
        """Hear of a start's end. One that was taken back belongs to a child that is being stopped."""
        if start.cancelled():
            self._exited(number, Exit("stopped", normal=True))
        elif (error := start.exception()) is not None:
            self._exited(number, crash_of(error))
        else:
            self._started(number)

    def _started(self, number: int) -> None:
        self.slot, _ = self.slot.after(Event.STARTED, number)
        if self.slot.incarnation == number and self.slot.state is SlotState.RUNNING:
            self.work = None
            self.keeper.up(self)
            self.settle()

    def _exited(self, number: int, exit_: Exit) -> None:
        """Hear of an end; what a stop brings about, and what is of an incarnation that is gone, counts for nothing."""
        if number == self.slot.incarnation and self.slot.state in {SlotState.SPAWNING, SlotState.RUNNING}:
            self.slot, _ = self.slot.after(Event.EXITED, number)
            self.work, self.ended = None, exit_
            self.keeper.fell(self, exit_)

    # ------------------------------------------------------------ down

    def end(self) -> "asyncio.Future[None] | None":
        """Stop the child unless it is down or on its way; return what to wait for, None where it is down already."""
        self.disarm()
        starting = self.work
        self.slot, action = self.slot.after(Event.STOP)
        if action is not Action.STOP:
            return self.work
        number = self.slot.incarnation
        stopping = None
        if starting is None:
            try:
                stopping = self.spec.child.stop(self.spec.shutdown_s)
            except Exception as error:  # noqa: BLE001 - see `_ending`
                logger().error("child.stop_failed", child=self.spec.name, exc_info=error)
            if stopping is None:
                self._ended(number)
                return None
        stop = None if stopping is None else asyncio.ensure_future(stopping)
        self.work = asyncio.get_running_loop().create_task(self._ending(number, starting, stop))
        return self.work

    async def _ending(
        self, number: int, starting: "asyncio.Future[None] | None", stop: "asyncio.Future[None] | None"
    ) -> None:
        try:
            if starting is not None:
                starting.cancel()
                await self._bounded(starting)
                stopping = self.spec.child.stop(self.spec.shutdown_s)
                stop = None if stopping is None else asyncio.ensure_future(stopping)
            if stop is not None:
                await self._bounded(stop)
        except Exception as error:  # noqa: BLE001 - a child that cannot even be stopped must not keep the others up
            logger().error("child.stop_failed", child=self.spec.name, exc_info=error)
        finally:
            self.work = None
            self._ended(number)

    async def _bounded(self, work: "asyncio.Future[None]") -> None:
        """Wait for a start that was taken back, or a stop; a child that keeps no time must not hold the others up."""
        endless = isinstance(self.spec.child, Viewed) or self.spec.shutdown_s == math.inf
        await asyncio.wait([work], timeout=None if endless else self.spec.shutdown_s + _LAST_WORDS_S)
        if not work.done():
            logger().error("child.would_not_stop", child=self.spec.name)
            left_to_itself(work)
        elif not work.cancelled() and (error := work.exception()) is not None:
            logger().error("child.stop_failed", child=self.spec.name, exc_info=error)

    def _ended(self, number: int) -> None:
        self.slot, _ = self.slot.after(Event.EXITED, number)
        self.keeper.down(self)

    def retire(self) -> None:
        """Tell the child that it is not started again, where it keeps something for its next incarnation."""
        if isinstance(self.spec.child, Retired):
            self.spec.child.retire()

    # ------------------------------------------------------------ who waits

    async def over(self, work: "asyncio.Future[None] | None") -> None:
        """Wait until a start or a stop is over, and the slot says so. Who is cancelled meanwhile does not cancel it."""
        while work is not None and self.work is work:
            await asyncio.wait([work])
            await asyncio.sleep(0)  # done is not yet told: the slot's own callback may come after this one

    def wait(self) -> "asyncio.Future[None]":
        """Return what is done once the child runs, or will not."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.waiting is None:
            self.waiting = []
        self.waiting.append(waiter)
        return waiter

    def settle(self, error: Exception | None = None) -> None:
        """Tell those who wait that the child runs, or why it will not."""
        waiting, self.waiting = self.waiting, None
        for waiter in waiting or ():
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def unwanted(self, path: str, why: str = "") -> SupervisionError:
        """Return why the child is not started; `path` is the place's."""
        if self.desired is Desired.RUNNING:
            return ChildNotStarted(path, f"it has ended for good ({why})")
        if self.desired is Desired.QUARANTINED:
            return ChildQuarantined(path, why or "its events say why")
        return ChildNotWanted(path, self.desired)

    def disarm(self) -> None:
        """Cancel the restart that waits for its pause, if one does."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def view(self, intensity: Intensity, now: float, children_max: int) -> ChildView:
        """Return the place as it is shown, with what is under it."""
        child, name = self.spec.child, self.spec.name
        if isinstance(child, Viewed):
            seen = child.view(name, children_max=children_max)
        else:
            restarts = self.window.count(intensity, now) if self.window is not None else 0
            look = child.look() if isinstance(child, Looked) else None
            seen = ChildView(name=name, kind=type(child).__name__.lower(), state="", restarts=restarts, look=look)
        return msgspec.structs.replace(
            seen,
            state=self.slot.state,
            desired=self.desired,
            incarnation=self.slot.incarnation,
            why=self.ended.reason if self.ended is not None else "",
            starts_in_s=max(0.0, self.timer.when() - now) if self.timer is not None else None,
        )


def crash_of(error: BaseException) -> Exit:
    """Return the end of a child that raised."""
    return Exit("crashed", normal=False, error=type(error).__name__)


def not_started(path: str, ended: Exit, raised: BaseException | None) -> ChildNotStarted:
    """Return why a start has brought nothing up; what was raised is its cause."""
    error = ChildNotStarted(path, ended.error or ended.reason)
    error.__cause__ = raised
    return error


def at_once_or_later(work: "Iterator[tuple[Place, asyncio.Future[None]]]") -> Awaitable[None] | None:
    """Do work up to the first thing it must wait for; return the rest, None where it was done without waiting."""
    first = next(work, None)
    return None if first is None else _later(first, work)


async def _later(
    first: "tuple[Place, asyncio.Future[None]]", work: "Iterator[tuple[Place, asyncio.Future[None]]]"
) -> None:
    place, under_way = first
    await place.over(under_way)
    for place, under_way in work:
        await place.over(under_way)
