"""What does a message in memory cost, measured against the least an actor can be (`_bare.py`)?

    python -m benchmarks.messages            # half a minute
    python -m benchmarks.messages --quick    # under 5 s, and coarser
    python -m benchmarks.messages --check    # exit code 1 where a target is missed
    python -m benchmarks.messages --json     # one JSON object as the last line

CPU time of the process; both sides take turns in every round, with the same handlers. The ratio is the median of the
rounds' ratios, the spread their least and greatest. Only ratios travel from machine to machine. Every workload counts
what its handlers did and fails on a wrong count. Nothing is durable here. Indented rows have no target: they show the
same where the dispatcher has least to win.
"""

import argparse
import asyncio
import gc
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import msgspec

from benchmarks._bare import BareActors
from turnkeeper.actors.volatile import Actors

ACTORS: Final = 1_000
CONCURRENT_ASKS: Final = 64
IDLE_ACTORS: Final = 100_000
IDLE_BYTES_MAX: Final = 500


class Address(Protocol):
    """What both sides offer to a sender."""

    def tell(self, message: int, /) -> None:
        """Send a message."""

    def ask(self, message: int, /) -> Awaitable[int]:
        """Send a message, and return what awaits the reply."""


class System(Protocol):
    """What both sides offer to a workload."""

    def spawn(self, handler: Callable[[int], Coroutine[Any, Any, Any]], /) -> Address:
        """Return a new actor."""


class Count:
    """Counts letters, and has a future for the last of them."""

    def __init__(self, letters: int) -> None:
        """Expect so many letters."""
        self.left = letters
        self.all_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handle(self, _message: int) -> None:
        """Count one letter."""
        self.left -= 1
        if not self.left:
            self.all_done.set_result(None)


class Result(msgspec.Struct, kw_only=True):
    """One row of the table."""

    workload: str
    bare: float
    turnkeeper: float
    unit: str
    ratio: float
    ratio_min: float
    ratio_max: float
    target: str
    met: bool


async def _echo(message: int) -> int:
    return message


def _check(done: int, sent: int) -> None:
    if done != sent:
        msg = f"{done} of {sent} letters were handled"
        raise RuntimeError(msg)


async def tell_burst(system: System, letters: int) -> float:
    """Send everything to one actor, then let it run."""
    count = Count(letters)
    tell = system.spawn(count.handle).tell
    await asyncio.sleep(0)
    start = time.process_time()
    for message in range(letters):
        tell(message)
    await count.all_done
    elapsed = time.process_time() - start
    _check(letters - count.left, letters)
    return elapsed


async def ask_sequential(system: System, letters: int) -> float:
    """Ask, await the reply, ask again."""
    ask = system.spawn(_echo).ask
    await asyncio.sleep(0)
    replies = 0
    start = time.process_time()
    for message in range(letters):
        replies += await ask(message) == message
    elapsed = time.process_time() - start
    _check(replies, letters)
    return elapsed


async def ask_rarely(system: System, letters: int) -> float:
    """Ask when nothing has happened for three turns of the loop, whose cost is in the figure of both sides."""
    ask = system.spawn(_echo).ask
    replies = 0
    start = time.process_time()
    for message in range(letters):
        for _ in range(3):
            await asyncio.sleep(0)
        replies += await ask(message) == message
    elapsed = time.process_time() - start
    _check(replies, letters)
    return elapsed


async def ask_concurrent(system: System, letters: int) -> float:
    """Keep 64 asks of one actor waiting at once."""
    ask = system.spawn(_echo).ask
    await asyncio.sleep(0)
    replies = 0
    start = time.process_time()
    for _ in range(letters // CONCURRENT_ASKS):
        for reply in [ask(1) for _ in range(CONCURRENT_ASKS)]:
            replies += await reply
    elapsed = time.process_time() - start
    _check(replies, letters // CONCURRENT_ASKS * CONCURRENT_ASKS)
    return elapsed


async def fan_out(system: System, letters: int) -> float:
    """Send one letter to each of 1,000 actors, wait until all are handled, and again."""
    count = Count(0)
    actors = [system.spawn(count.handle) for _ in range(ACTORS)]
    await asyncio.sleep(0)
    start = time.process_time()
    for message in range(letters // ACTORS):
        count.left = ACTORS
        count.all_done = asyncio.get_running_loop().create_future()
        for actor in actors:
            actor.tell(message)
        await count.all_done
        _check(ACTORS - count.left, ACTORS)
    return time.process_time() - start


async def fan_out_at_once(system: System, letters: int) -> float:
    """Send everything to 1,000 actors before the first letter is handled: no wake-up is left to save."""
    count = Count(letters)
    actors = [system.spawn(count.handle) for _ in range(ACTORS)]
    await asyncio.sleep(0)
    start = time.process_time()
    for message in range(letters // ACTORS):
        for actor in actors:
            actor.tell(message)
    await count.all_done
    elapsed = time.process_time() - start
    _check(letters - count.left, letters)
    return elapsed


async def ring(system: System, letters: int) -> float:
    """Send one letter round and round a ring of 1,000 actors."""
    count = Count(letters)
    actors: list[Address] = []

    def link(place: int) -> Callable[[int], Coroutine[Any, Any, None]]:
        async def pass_on(hops_left: int) -> None:
            await count.handle(hops_left)
            if hops_left:
                actors[(place + 1) % ACTORS].tell(hops_left - 1)

        return pass_on

    actors += [system.spawn(link(place)) for place in range(ACTORS)]
    await asyncio.sleep(0)
    start = time.process_time()
    actors[0].tell(letters - 1)
    await count.all_done
    elapsed = time.process_time() - start
    _check(letters - count.left, letters)
    return elapsed


class Workload(msgspec.Struct, frozen=True):
    """A row to measure: `ratio_max` is the target, or None for a row that only informs."""

    name: str
    run: Callable[[System, int], Coroutine[Any, Any, float]]
    letters: int
    ratio_max: float | None


WORKLOADS: Final = (
    Workload("tell burst", tell_burst, 100_000, 2.5),
    Workload("sequential ask", ask_sequential, 20_000, 1.2),
    Workload("  the same, after a pause", ask_rarely, 10_000, None),
    Workload("64 concurrent asks", ask_concurrent, 64_000, 1.2),
    Workload("fan-out, 1,000 actors x 100", fan_out, 100_000, 0.5),
    Workload("  the same, all sent first", fan_out_at_once, 100_000, None),
    Workload("ring of 1,000 actors", ring, 100_000, 0.5),
)


def _measure(side: Callable[[], AbstractAsyncContextManager[System]], workload: Workload, letters: int) -> float:
    """Return the CPU time per letter, in microseconds."""

    async def main() -> float:
        async with side() as system:
            return await workload.run(system, letters)

    gc.collect()
    return asyncio.run(main()) / letters * 1e6


def compare(workload: Workload, rounds: int, letters: int) -> Result:
    """Measure both sides in turn, swapping who goes first."""
    bare: list[float] = []
    ours: list[float] = []
    for number in range(rounds):
        sides: list[tuple[list[float], Callable[[], Any]]] = [(bare, BareActors), (ours, Actors)]
        for times, side in sides if number % 2 else reversed(sides):
            times.append(_measure(side, workload, letters))
    ratios = [mine / limit for mine, limit in zip(ours, bare, strict=True)]
    ratio = statistics.median(ratios)
    return Result(
        workload=workload.name,
        bare=statistics.median(bare),
        turnkeeper=statistics.median(ours),
        unit="us",
        ratio=ratio,
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        target="" if workload.ratio_max is None else f"{workload.ratio_max}x",
        met=workload.ratio_max is None or ratio <= workload.ratio_max,
    )


def _idle_bytes(side: Callable[[], AbstractAsyncContextManager[System]], actors: int) -> float:
    """Return the traced memory of an actor that has handled a letter and waits for the next."""

    async def main() -> float:
        async with side() as system:
            count = Count(actors)
            gc.collect()
            tracemalloc.start()
            refs = [system.spawn(count.handle) for _ in range(actors)]
            for ref in refs:
                ref.tell(1)
            await count.all_done
            await asyncio.sleep(0)
            gc.collect()
            traced, _peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            _check(actors - count.left, len(refs))
            return traced / actors

    return asyncio.run(main())


def compare_idle(actors: int) -> Result:
    """Measure the memory of an idle actor; bare ones are ten times fewer, since each holds a task."""
    bare = _idle_bytes(BareActors, actors // 10)
    ours = _idle_bytes(Actors, actors)
    ratio = ours / bare
    return Result(
        workload="idle actor",
        bare=bare,
        turnkeeper=ours,
        unit="B",
        ratio=ratio,
        ratio_min=ratio,
        ratio_max=ratio,
        target=f"{IDLE_BYTES_MAX} B",
        met=ours <= IDLE_BYTES_MAX,
    )


def _show(result: Result) -> None:
    digits = 0 if result.unit == "B" else 2
    verdict = "" if not result.target else "met" if result.met else "MISSED"
    print(
        f"{result.workload:28} {result.bare:8.{digits}f} {result.unit:2} {result.turnkeeper:8.{digits}f} "
        f"{result.unit:2} {result.ratio:6.2f}x  {result.ratio_min:5.2f} - {result.ratio_max:4.2f}  "
        f"{result.target:>6} {verdict}",
        flush=True,
    )


def main() -> int:
    """Print the table; return 1 if a target was missed and that was to be checked."""
    parser = argparse.ArgumentParser(description="What does a message in memory cost?")
    parser.add_argument("--quick", action="store_true", help="fewer letters and rounds, under 5 s")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    rounds, share = (7, 10) if options.quick else (15, 1)
    print(f"{'CPU per letter':28} {'bare':>11} {'turnkeeper':>11} {'ratio':>7}  {'spread':>12}  {'target':>6}")
    results = []
    for workload in WORKLOADS:
        results.append(compare(workload, rounds, workload.letters // share))
        _show(results[-1])
    results.append(compare_idle(IDLE_ACTORS // share))
    _show(results[-1])
    if options.json:
        facts = {"benchmark": "messages", "python": platform.python_version(), "rounds": rounds, "results": results}
        print(msgspec.json.encode(facts).decode())
    return int(options.check and not all(result.met for result in results))


if __name__ == "__main__":
    sys.exit(main())
