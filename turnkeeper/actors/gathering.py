"""Gathering: calls side by side that are cut short at a limit or by the first failure, with one end in all runs."""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Sequence
from typing import Any

from turnkeeper.actors.asked import Asked
from turnkeeper.kernel.errors import TurnUnsuccessful, WaitExpired
from turnkeeper.kernel.step import Effect
from turnkeeper.kernel.turn import TurnState

__all__ = ["Limit", "first_failure", "gathered", "results"]


class Limit:
    """The time that a gathering may take: a wait of its turn, whose record alone says whether that was over in time.

    It elapses, or is given up before any call's result is looked at: by that record it is so in every later run,
    whatever the calls have come to by then.
    """

    __slots__ = ("_asked", "_call", "_limit_s", "timer")

    def __init__(self, asked: Asked, limit_s: float) -> None:
        """Issue it here; it counts from its first call."""
        self._asked = asked
        self._limit_s = limit_s
        self._call = asked.steps.issue_wait("turn.sleep", {"duration_s": limit_s}, None)
        self.timer = asyncio.ensure_future(asked.until(self._call, limit_s))

    async def settle(self) -> None:
        """Give the time up if it is not over.

        Raises:
            WaitExpired: it is over.
            StepLimitExceeded, ...: it could not be waited for.
        """
        self.timer.cancel()
        await asyncio.wait([self.timer])
        if self._asked.has_answer(self._call):  # also where that is being committed
            raise WaitExpired("the gathering", self._limit_s)
        if not self.timer.cancelled():
            self.timer.result()  # or what became of it: it is a step like others


async def gathered(asked: Asked, calls: Sequence[Awaitable[Any]], limit: Limit | None, *, fail_fast: bool) -> list[Any]:
    """Return what calls have come to, results and errors, once all of them have ended.

    Raises:
        WaitExpired, ...: as `Limit.settle`; all have ended then, too.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await _until_decided(tasks, limit, fail_fast=fail_fast)
        if limit is not None:
            await limit.settle()
    finally:
        if limit is not None:
            limit.timer.cancel()
        for task in tasks:
            if asked.steps.beside.get(task, Effect.PURE) is Effect.PURE:
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    return ended


async def _until_decided(tasks: Sequence[asyncio.Future[Any]], limit: Limit | None, *, fail_fast: bool) -> None:
    """Wait until all have ended, one of them has failed where that counts, or the time is over."""
    timers = set() if limit is None else {limit.timer}
    ahead = set(tasks)
    while ahead:
        ended, _ = await asyncio.wait(ahead | timers, return_when=FIRST_COMPLETED)
        ahead -= ended
        failed = any(task.cancelled() or task.exception() is not None for task in ended)
        if ended & timers or (fail_fast and failed):
            return


def first_failure(ended: Sequence[Any]) -> int | None:
    """Return which failure is raised: the first one in the order of the calls; one of being cancelled comes last."""
    failed = [place for place, one in enumerate(ended) if isinstance(one, BaseException)]
    return min(failed, key=lambda place: (_is_cancelled(ended[place]), place), default=None)


def results(ended: list[Any], first: int | None = None) -> list[Any]:
    """Return results; raise a failure instead: the `first` one, where that is known and still one."""
    if first is None or not isinstance(ended[first], BaseException):
        first = first_failure(ended)
    if first is not None:
        raise ended[first]
    return ended


def _is_cancelled(error: BaseException) -> bool:
    outcome = error.outcome if isinstance(error, TurnUnsuccessful) else ""
    return isinstance(error, asyncio.CancelledError) or outcome == TurnState.CANCELLED
