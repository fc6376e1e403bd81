"""The seeded loop: asyncio in virtual time, where who runs next is a seed's choice.

    loop = SeededLoop(SeededSchedule(17))
    loop.run_until_complete(main())

Sleeping costs nothing: when nothing is ready, time jumps to the next timer. Everything that happens follows from the
schedule, so a seed that fails fails again. No thread and no socket: `asyncio.to_thread` runs its function in line.
"""

import asyncio
import heapq
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import count
from pathlib import Path
from typing import Any, Final
from warnings import catch_warnings, simplefilter

from turnkeeper.testing.schedule import Schedule
from turnkeeper.testing.violated import Deadlocked, Killed, Stalled

__all__ = ["SeededLoop", "waiting_tasks"]

_STEPS_WITHOUT_TIME_MAX: Final = 1_000_000
_CANCELLED_TIMERS_MAX: Final = 100
_HELD_ROOM: Final = 256
_SHOWN_MAX: Final = 20
_LAST_WORDS_MAX: Final = 100
"""How many coroutines, and awaits in their `finally` blocks, a killed task is closed over."""


_ASYNCIO: Final = Path(asyncio.__file__).parent


class _Task(asyncio.Task[Any]):
    """A task whose place in a set follows from its number, not from its address: sets of tasks are walked alike."""

    def __init__(self, coroutine: Any, *, loop: "SeededLoop", **options: Any) -> None:
        self._number = loop.next_number()
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """A future that hashes by the number it gets when it first goes into a set."""

    _number = 0

    def __hash__(self) -> int:
        if not self._number:
            loop: Any = self.get_loop()
            self._number = loop.next_number()
        return self._number

    def set_exception(self, exception: Any, /) -> None:
        super().set_exception(exception)
        loop: Any = self.get_loop()
        loop.keep(self)


class SeededLoop(asyncio.BaseEventLoop):
    """An event loop with virtual time and a schedule.

    Exceptions that nobody retrieves, and callbacks that raise, are kept in `mishaps`. `before_time_passes` are called
    whenever nothing is ready and time is about to go on: what they raise ends the run.

    Raises (from `run_until_complete`):
        Deadlocked: nothing is ready, no timer is set, and somebody waits; names who and where.
        Stalled: `limit_s` of virtual time are over, or a million steps went by without time passing.
        Killed: `kill` was called.
    """

    def __init__(self, schedule: Schedule, *, start_s: float = 0.0, limit_s: float = 86_400.0) -> None:
        """Make a loop whose time begins at `start_s` and may last `limit_s`."""
        super().__init__()
        self.set_debug(False)
        self._ready: Any = []  # a list, because any of it may be taken
        self._scheduled: list[Any] = []
        self._timer_cancelled_count = 0
        self._stopping = False
        self._choose = schedule.choose
        self._now_s = start_s
        self._end_s = start_s + limit_s
        self._limit_s = limit_s
        self._numbers = count(1)
        self._steps_end = _STEPS_WITHOUT_TIME_MAX
        self._killed = self._abandoned = False
        self.steps = 0
        self._made_in = threading.get_ident()
        self._held: list[asyncio.Future[Any]] = []
        self._held_room = _HELD_ROOM
        self.mishaps: list[str] = []
        self.before_time_passes: list[Callable[[], None]] = []
        self.set_exception_handler(_keep_mishap)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    def tasks(self) -> "list[asyncio.Task[Any]]":
        """Return the tasks that are not done, in the order in which they were created."""
        return [held for held in self._held if isinstance(held, asyncio.Task) and not held.done()]

    def unheard(self) -> list[str]:
        """Return the exceptions of tasks and futures of which nobody has taken notice."""
        unheard = [held for held in self._held if held.done() and _is_unheard(held)]
        return [f"{_name(held)} raised {held.exception()!r}" for held in unheard]  # asking is taking notice

    def keep(self, future: "asyncio.Future[Any]") -> None:
        """Hold a task, or a future that has failed, until it is done and heard: no garbage collector decides that."""
        if len(self._held) >= self._held_room:
            self._held = [kept for kept in self._held if not kept.done() or _is_unheard(kept)]
            self._held_room = max(_HELD_ROOM, 2 * len(self._held))
        self._held.append(future)

    def next_number(self) -> int:
        """Return a number that no task or future of this loop has yet."""
        return next(self._numbers)

    def kill(self) -> None:
        """End the run after the step that is under way, as if the process had been killed in it."""
        self._killed = True

    def abandon(self) -> None:
        """Drop all that was going on, as a kill does: nothing of it is resumed, and nobody is told."""
        self._abandoned = True
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)  # for whoever asks for it with his last words
        try:
            with catch_warnings():
                simplefilter("ignore", RuntimeWarning)  # what was about to be awaited never is
                for task in self.tasks():
                    task._log_destroy_pending = False  # type: ignore[attr-defined] # asyncio's own switch
                    copy_context().run(_silence, task.get_coro())  # what it still sets is nobody else's
                self._held.clear()
        finally:
            asyncio._set_running_loop(before)
            self._ready.clear()
            self._scheduled.clear()
            self.close()

    # ------------------------------------------------------------ what asyncio asks of a loop

    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> Any:
        """Create a task; one without a name is named by its coroutine and its number."""
        if self._abandoned:  # a killed coroutine's last words
            coro.close()
            raise Killed
        task = _Task(coro, loop=self, context=context)
        task.set_name(name if name is not None else f"{getattr(coro, '__qualname__', 'task')}-{hash(task)}")
        self.keep(task)
        return task

    def create_future(self) -> Any:
        """Create a future."""
        return _Future(loop=self)

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002 - asyncio's
        func: Callable[..., Any],
        *args: Any,
    ) -> Any:
        """Run a function in line, at a moment of the schedule's choice: a thread's moment would be nobody's."""
        future = self.create_future()

        def run() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except StopIteration as error:  # which no future takes
                future.set_exception(RuntimeError(f"{func!r} raised {error!r}"))
            except Exception as error:  # noqa: BLE001 - it is the awaiting task's
                future.set_exception(error)

        self.call_soon(run)
        return future

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """Call soon, from this thread; from another one it is refused: its moment would be nobody's choice.

        Raises:
            RuntimeError: another thread asks.
        """
        if threading.get_ident() != self._made_in:
            msg = "a thread of its own has no place on a seeded loop: give the code under test a stand-in"
            raise RuntimeError(msg)
        return self.call_soon(callback, *args, context=context)

    def _run_once(self) -> None:
        """Run one callback; when none is ready, let time pass first."""
        ready, timers = self._ready, self._scheduled
        if not ready or (timers and timers[0]._when <= self._now_s):
            self._ring()
        waiting = len(ready)
        if not waiting:
            return
        handle = ready.pop(self._choose(ready) if waiting > 1 else 0)
        self.steps += 1
        if not handle._cancelled:
            handle._run()
        if self._killed:
            raise Killed
        if self.steps > self._steps_end:
            raise Stalled(f"{_STEPS_WITHOUT_TIME_MAX:,} steps without time passing", waiting_tasks(self))

    def _ring(self) -> None:
        """Make ready what is due; where nothing is, go to the next timer first."""
        timers = self._scheduled
        if self._timer_cancelled_count > max(_CANCELLED_TIMERS_MAX, len(timers) // 2):
            timers[:] = [timer for timer in timers if not timer._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready:
            self._let_time_pass()
        while timers and timers[0]._when <= self._now_s:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)

    def _let_time_pass(self) -> None:
        if self._stopping:
            return
        for look in self.before_time_passes:
            look()
        if self._ready:  # whoever looked has said something
            return
        if not self._scheduled:
            raise Deadlocked(waiting_tasks(self))
        if self._scheduled[0]._when > self._now_s:
            self._steps_end = self.steps + _STEPS_WITHOUT_TIME_MAX
            self._now_s = self._scheduled[0]._when
        if self._now_s > self._end_s:
            raise Stalled(f"not over after {self._limit_s:,g} virtual seconds", waiting_tasks(self))

    def _process_events(self, event_list: Any) -> None:
        """Do nothing: no event comes from outside."""

    def _write_to_self(self) -> None:
        """Do nothing: nobody else can wake the loop."""


_undead: Final[list[Any]] = []
"""Coroutines that would not end: let go of, they would go on in the garbage collector's hands."""


def _silence(coroutine: Any) -> None:
    """Close a killed coroutine from the inside out, over every await of its last words: nobody hears them."""
    for _ in range(_LAST_WORDS_MAX):
        innermost = coroutine
        while getattr(getattr(innermost, "cr_await", None), "cr_frame", None) is not None:
            innermost = innermost.cr_await
        with suppress(BaseException):
            innermost.close()
        if getattr(coroutine, "cr_frame", None) is None:
            return
    _undead.append(coroutine)


def _name(held: "asyncio.Future[Any]") -> str:
    return held.get_name() if isinstance(held, asyncio.Task) else "a future"


def _is_unheard(held: Any) -> bool:
    """Say whether it has raised and nobody has asked for it: what asyncio would log once it is collected."""
    return bool(held._log_traceback)


def _keep_mishap(loop: Any, context: dict[str, Any]) -> None:
    error = context.get("exception")
    loop.mishaps.append(f"{context['message']}: {error!r}" if error is not None else context["message"])


def waiting_tasks(loop: SeededLoop) -> str:
    """Return who waits and where, a line each."""
    tasks = loop.tasks()
    if not tasks:
        return "no task waits"
    lines = [f"  {task.get_name()} waits {_place(task.get_coro())}" for task in tasks[:_SHOWN_MAX]]
    if len(tasks) > _SHOWN_MAX:
        lines.append(f"  and {len(tasks) - _SHOWN_MAX} more")
    return "\n".join(["waiting:", *lines])


def _place(coroutine: Any) -> str:
    """Return the innermost place at which a suspended coroutine stands, outside of asyncio itself."""
    place = "before its first step"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None and Path(frame.f_code.co_filename).parent != _ASYNCIO:
            place = f"in {frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return place
