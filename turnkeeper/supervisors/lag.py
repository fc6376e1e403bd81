"""The lag probe: it finds what blocks the event loop, and names it."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from turnkeeper.actors.places import place

__all__ = ["LagProbe", "stood_still"]

_FRAMES_MAX = 8
"""Frames of a blocked stack that are shown, the innermost first."""

_BEATS = 4
"""Beats, and looks at them, within `lag_s`."""


class LagProbe:
    """Watches one event loop from a thread of its own.

    The loop beats; the thread looks. A loop that has not beaten for `lag_s` is blocked by whatever its thread is
    doing, and that is logged at once, as `loop.blocked`: for how long, where, and in which turn, where the loop is in a
    turn's own task or in one of its steps. When the loop is back, `loop.resumed` says how long it was. Nothing is
    stopped or started again: a thread cannot be, and what blocks is a bug to be seen.
    """

    def __init__(
        self,
        lag_s: float,
        log: Any,
        named: Callable[["asyncio.Task[Any]"], dict[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to watch the running loop, from its own thread.

        Args:
            lag_s: how long it may be blocked; 0 watches nothing.
            log: where it is said.
            named: what is said of the task that blocks; empty for one that is no turn's. Called in the probe's thread.
            clock: seconds of a clock that is never put back.
        """
        self._lag_s = lag_s
        self._log = log
        self._named = named
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._beaten_s = clock()
        self._blocked = False
        self._ended = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled; the thread ends with it."""
        if not self._lag_s:
            return
        watching = threading.Thread(target=self._watch, name="turnkeeper-lag", daemon=True)
        self.beat()
        watching.start()
        try:
            while True:
                await asyncio.sleep(self._lag_s / _BEATS)
                self.beat()
        finally:
            self._ended.set()

    def beat(self) -> None:
        """Say that the loop goes round; where it was found to be blocked, say for how long."""
        now_s = self._clock()
        blocked_s, self._beaten_s = now_s - self._beaten_s, now_s
        if self._blocked:
            self._blocked = False
            self._log.warning("loop.resumed", blocked_s=round(blocked_s, 3))

    def look(self) -> None:
        """See whether the loop is blocked, and say so, once for each time. Called in the probe's thread."""
        beaten_s = self._beaten_s
        blocked_s = self._clock() - beaten_s
        if self._blocked or blocked_s < self._lag_s or not self._loop.is_running():
            return
        fields = {**self._stack(), **self._turn()}
        if self._beaten_s == beaten_s:  # or what was seen is not what blocked
            self._blocked = True
            self._log.error("loop.blocked", blocked_s=round(blocked_s, 3), **fields)

    def _watch(self) -> None:
        while True:
            due_s, used_s = self._clock() + self._lag_s / _BEATS, time.process_time()
            if self._ended.wait(self._lag_s / _BEATS):
                return
            if not stood_still(self._clock() - due_s, time.process_time() - used_s, self._lag_s):
                self.look()

    def _stack(self) -> dict[str, str]:
        """Return where the loop's thread is, and how it came there."""
        frames: list[str] = []
        frame: FrameType | None = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the public name of it
        while frame is not None and len(frames) < _FRAMES_MAX:
            frames.append(place(frame))
            frame = frame.f_back
        return {"at": frames[0] if frames else "", "through": " < ".join(frames[1:])}

    def _turn(self) -> dict[str, Any]:
        task = asyncio.current_task(self._loop)
        try:
            return self._named(task) if task is not None else {}
        except RuntimeError:  # what it looked through has changed: the loop is back
            return {}


def stood_still(late_s: float, used_s: float, lag_s: float) -> bool:
    """Say whether the whole process stood still, by a signal or with its machine, and not its loop alone.

    The probe's own thread was late then, and nothing was computed meanwhile. What holds the interpreter, a long regular
    expression say, makes the thread late, too, but computes all the time: that is what the probe is for.
    """
    return late_s >= lag_s / 2 and used_s < late_s / 2
