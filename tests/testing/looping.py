"""Shared by the loop's tests: a coroutine function run to its end in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from turnkeeper.testing import SeededLoop, SeededSchedule

Main = Callable[[], Awaitable[Any]]


def looped(main: Main, seed: int = 0, **options: float) -> Any:
    """Run a coroutine function to its end on a loop of its own."""
    loop = SeededLoop(SeededSchedule(seed), **options)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.abandon()


def now_s() -> float:
    return asyncio.get_running_loop().time()
