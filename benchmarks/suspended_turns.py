"""What do 100,000 turns cost that wait, how soon does a runtime with them start, and do they all wake on time?

Each turn of a session of its own sleeps until a moment of the next day. They are suspended by one process and taken up
by another, on one file. Counted are the file's size, Python's memory that is left in a runtime which has them
(tracemalloc; SQLite's page cache, 64 MB at most, is not in it), and the time from entering a runtime to its first
receipt. Then time passes in a loop of its own: virtual, on the real file, as fast as the turns can be run. Each one
tells how late it woke.

    python -m benchmarks.suspended_turns                 # 100,000, some three minutes
    python -m benchmarks.suspended_turns --turns 2000    # a few seconds
    python -m benchmarks.suspended_turns --check         # exit code 1 where a target is missed
    python -m benchmarks.suspended_turns --json          # one JSON object as the last line
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import selectors
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.actors.store.batch import BatchConnection
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.ports import Marks
from turnkeeper.kernel.rows import Rows
from turnkeeper.testing.virtual import VirtualClock

FILE_MB_MAX = 200.0
START_S_MAX = 1.0
MEMORY_MB_MAX = 1.0
LATE_S_MAX = 1.0
"""As promised; of memory, what is left to anything but the turns."""

T = TypeVar("T")

_DAY_S = 86_400.0
_SAME_S = 0.001
"""Within this, seconds since the epoch are the same moment."""
_AT_ONCE = 500
_SETTINGS = Settings(synchronous="OFF", lag_s=0, sweep_s=0, lease_s=300)
"""A sweep each second and a beat each 15 s would be most of what a virtual day does."""


class _Selector(selectors.DefaultSelector):
    """Lets time jump to the next timer instead of waiting for it, but not while the store is at work."""

    jumped_s = 0.0
    busy = 0

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready; with nothing ready, and nobody at work, move time on."""
        ready = super().select(0)
        if ready or timeout is None or timeout <= 0:
            return ready or super().select(timeout)
        if self.busy:
            return super().select(0.001)
        self.jumped_s += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """A loop in virtual time: what it waits for comes at once."""

    def __init__(self) -> None:
        self.at_work = _Selector()
        super().__init__(self.at_work)

    def time(self) -> float:
        """Return s; only jumps move it."""
        return self.at_work.jumped_s


class _WatchedStore(SqliteStore):
    """A store whose loop knows that it is at work."""

    async def _busy(self, work: Callable[..., Any], *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, _Loop):
            return await work(*args)
        loop.at_work.busy += 1
        try:
            return await work(*args)
        finally:
            loop.at_work.busy -= 1

    async def open(self) -> Marks:
        """See `Store.open`."""
        return await self._busy(super().open)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """See `Store.close`."""
        await self._busy(super().close)

    async def look(self, question: Callable[[Rows], T]) -> T:
        """See `Store.look`."""
        return await self._busy(super().look, question)  # type: ignore[no-any-return]

    async def _do(self, work: Callable[[BatchConnection], None]) -> BatchConnection:
        return await self._busy(super()._do, work)  # type: ignore[no-any-return]

    async def _read(self, name: str, *parameters: object) -> list[Any]:
        return await self._busy(super()._read, name, *parameters)  # type: ignore[no-any-return]


def _in(path: Path, since_s: float, work: "Work") -> dict[str, float]:
    """Do something with a runtime on the file, in virtual time that begins so late; the last of it is `until_s`."""
    loop = _Loop()
    clock = VirtualClock(lambda: since_s + loop.time())
    late: list[float] = []

    @agent("patient")
    async def patient(turn: Turn) -> None:
        due_at = await turn.step("due", lambda: clock.time() + turn.input)
        await turn.sleep(turn.input)
        late.append(clock.time() - due_at)

    async def main() -> dict[str, float]:
        store = _WatchedStore(path, synchronous="OFF", store_id="waiting", created_at=0.0)
        runtime = Runtime(store, [patient], settings=_SETTINGS, clock=clock)
        return await work(runtime, late) | {"until_s": clock.now_s}

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


Work = Callable[[Runtime, list[float]], Coroutine[Any, Any, dict[str, float]]]


def _suspend(path: Path, turns: int) -> dict[str, float]:
    """Let so many turns begin to wait."""
    draw = Random(turns)

    async def work(runtime: Runtime, _late: list[float]) -> dict[str, float]:
        began = time.perf_counter()
        async with runtime:
            for first in range(0, turns, _AT_ONCE):
                some = range(first, min(first + _AT_ONCE, turns))
                seconds = {f"session-{number:012}": draw.uniform(0.5, 1.0) * _DAY_S for number in some}
                told = (runtime.tell(session, "patient", asleep_s) for session, asleep_s in seconds.items())
                await asyncio.gather(*told)
            while runtime.statistics().suspended < turns:  # noqa: ASYNC110 - nothing else says so
                await asyncio.sleep(0.05)
            agents = runtime.statistics().agents
        return {"suspended a second": turns / (time.perf_counter() - began), "agents in memory": agents}

    return _in(path, 0.0, work)


def _start(path: Path, since_s: float) -> dict[str, float]:
    """Start with them: how soon is a receipt given, and what is held?"""

    async def work(runtime: Runtime, _late: list[float]) -> dict[str, float]:
        gc.collect()
        tracemalloc.start()
        before, began = tracemalloc.get_traced_memory()[0], time.perf_counter()
        async with runtime:
            await runtime.tell("new", "patient", _DAY_S)
            started_s = time.perf_counter() - began
            gc.collect()
            left = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return {"start s": started_s, "memory MB": left / 1e6}

    return _in(path, since_s, work)


def _wake(path: Path, since_s: float, turns: int) -> dict[str, float]:
    """Let a day pass."""

    async def work(runtime: Runtime, late: list[float]) -> dict[str, float]:
        began = time.perf_counter()
        async with runtime:
            while len(late) < turns:  # noqa: ASYNC110 - as above
                await asyncio.sleep(60.0)
        woken_s = time.perf_counter() - began
        return {"woken": len(late), "latest s": max(late), "earliest s": min(late), "woken a second": turns / woken_s}

    return _in(path, since_s, work)


def _apart(work: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """Do it in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def measure(turns: int) -> dict[str, float]:
    """Return what so many waiting turns cost."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "waiting.db"
        suspended = _apart(_suspend, path, turns)
        file_mb = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        started = _apart(_start, path, suspended["until_s"])
        woken = _apart(_wake, path, started["until_s"], turns + 1)
    return {"turns": turns, "file MB": file_mb, **suspended, **started, **woken}


def missed(found: dict[str, float]) -> list[str]:
    """Return which targets were missed, in words."""
    targets = {"file MB": FILE_MB_MAX, "start s": START_S_MAX, "memory MB": MEMORY_MB_MAX, "latest s": LATE_S_MAX}
    said = [f"{name}: {found[name]:.3f}, promised {most:g}" for name, most in targets.items() if found[name] > most]
    return said + ([f"a turn woke {-found['earliest s']:.3f} s early"] if found["earliest s"] < -_SAME_S else [])


def main() -> None:
    """Measure, print one table, check the targets where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.turns)
    for name, value in found.items():
        print(f"{name:>20}  {value:,.3f}")
    if asked.json:
        print(json.dumps(found))
    if asked.check and (said := missed(found)):
        sys.exit("; ".join(said))


if __name__ == "__main__":
    main()
