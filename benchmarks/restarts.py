"""What does a crash cost, measured against the least that survives one: catch it, and build the handler anew?

    python -m benchmarks.restarts            # half a minute
    python -m benchmarks.restarts --quick    # under 10 s, and coarser
    python -m benchmarks.restarts --check    # exit code 1 where a target is missed
    python -m benchmarks.restarts --json     # one JSON object as the last line

The restarts are CPU time a crash: a child in memory, started again from within the call that tells of its end, beside a
loop over a deque with `except Exception: handler = factory()`. Both sides take turns in every round; the ratio is the
median of the rounds' ratios. Logging is on, and formats what it is given, for nobody.

The storm is 10,000 crashes a second in one subtree, paced by the clock: 100 children, started again at once (a
supervisor's own intensity would end it). Its neighbours are 16 actors, each asked again 10 ms after its answer, that
wait 5 ms as for a database; then the same that do not wait, which shows the storm's own share of the loop, and has no
target. The p99 of their asks with and without the storm is taken in turns. Every workload fails on a wrong count.
"""

import argparse
import asyncio
import gc
import io
import logging
import platform
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from turnkeeper.actors.volatile import Actors, ChildRef, Poison
from turnkeeper.kernel.supervision.child import Exit

CRASHES: Final = 20_000
RESTART_RATIO_MAX: Final = 5.0
IDLE_CHILDREN: Final = 100_000
IDLE_BYTES_MAX: Final = 250
"""Half of what an idle supervised actor may cost; the other half is its slot's, in the supervisor."""
STORM_PER_S: Final = 10_000
STORM_CHILDREN: Final = 100
STORM_RATIO_MAX: Final = 1.5
STORM_LATE_MAX: Final = 0.1
"""By how much a storm may last longer than it should, for it to count as one of so many crashes a second."""
NEIGHBOURS: Final = 16
ASK_EVERY_S: Final = 0.01
WAIT_S: Final = 0.005

Handler = Callable[[int], Coroutine[Any, Any, None]]


class Result(msgspec.Struct, kw_only=True):
    """One row of the table."""

    workload: str
    floor: float
    turnkeeper: float
    unit: str
    ratio: float
    ratio_min: float
    ratio_max: float
    target: str
    met: bool


class State:
    """What is built anew: a handler that crashes on every letter."""

    __slots__ = ("letters",)

    def __init__(self) -> None:
        """Begin with none."""
        self.letters = 0

    async def handle(self, message: int) -> None:
        """Crash half-way."""
        self.letters += 1
        raise ValueError(message)


class Restarter:
    """The least supervisor: it counts ends, and starts the child again at once."""

    __slots__ = ("child", "exits")

    def __init__(self, child: ChildRef[int, None]) -> None:
        """Start the child."""
        self.child = child
        self.exits = 0
        child.start(self.exited)

    def exited(self, _exit: Exit) -> None:
        """Start it again."""
        self.exits += 1
        self.child.start(self.exited)


def _state() -> Handler:
    return State().handle


def _check(done: int, due: int) -> None:
    if done != due:
        msg = f"{done} of {due} were counted"
        raise RuntimeError(msg)


async def crash_bare(crashes: int, attempts: int) -> float:
    """Crash on each letter so many times, and build the handler anew after each."""
    letters = deque(number for number in range(crashes // attempts) for _ in range(attempts))
    handler = _state()
    crashed = 0
    start = time.process_time()
    while letters:
        letter = letters.popleft()
        try:
            await handler(letter)
        except Exception:  # noqa: BLE001 - what the floor is
            crashed += 1
            handler = _state()
    elapsed = time.process_time() - start
    _check(crashed, crashes)
    return elapsed


async def crash_supervised(crashes: int, attempts: int) -> float:
    """The same through a supervised actor; each letter is dead after its attempts."""
    async with Actors() as actors:
        restarter = Restarter(actors.child(_state, name="crashing", poison=Poison(retries_max=attempts - 1)))
        for number in range(crashes // attempts):
            restarter.child.tell(number)
        start = time.process_time()
        await actors.wait_until_idle()
        elapsed = time.process_time() - start
        _check(restarter.exits, crashes)
        _check(actors.statistics().letters_dead, crashes // attempts)
    return elapsed


def compare_restarts(attempts: int, rounds: int, crashes: int) -> Result:
    """Measure both sides in turn, swapping who goes first."""
    floor: list[float] = []
    ours: list[float] = []
    for number in range(rounds):
        sides = [(floor, crash_bare), (ours, crash_supervised)]
        for times, side in sides if number % 2 else reversed(sides):
            gc.collect()
            times.append(asyncio.run(side(crashes, attempts)) / crashes * 1e6)
    ratios = [mine / limit for mine, limit in zip(ours, floor, strict=True)]
    ratio = statistics.median(ratios)
    return Result(
        workload="crash, and running again" if attempts > 1 else "  the same, no letter tried twice",
        floor=statistics.median(floor),
        turnkeeper=statistics.median(ours),
        unit="us",
        ratio=ratio,
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        target=f"{RESTART_RATIO_MAX:g}x",
        met=ratio <= RESTART_RATIO_MAX,
    )


async def _idle_child_bytes(children: int) -> tuple[float, float]:
    """Return the traced memory of what the factory makes alone, and of a child that has handled a letter and waits."""
    handled = 0

    class Quiet:
        __slots__ = ()

        async def handle(self, _message: int) -> None:
            nonlocal handled
            handled += 1

    def build() -> Handler:
        return Quiet().handle

    def told(_exit: Exit) -> None: ...

    gc.collect()
    tracemalloc.start()
    states = [build() for _ in range(children)]
    made, _peak = tracemalloc.get_traced_memory()
    _check(len(states), children)
    states.clear()
    tracemalloc.stop()
    async with Actors() as actors:
        gc.collect()
        tracemalloc.start()
        refs = [actors.child(build, name="quiet") for _ in range(children)]
        for ref in refs:
            ref.start(told)
            ref.tell(1)
        await actors.wait_until_idle()
        await asyncio.sleep(0)
        gc.collect()
        traced, _peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        _check(handled, children)
    return made / children, traced / children


def compare_idle(children: int) -> Result:
    """Measure an idle child beside its own state; the target is for both together."""
    made, traced = asyncio.run(_idle_child_bytes(children))
    return Result(
        workload=f"idle child, of {children:,}",
        floor=made,
        turnkeeper=traced,
        unit="B",
        ratio=traced / made,
        ratio_min=traced / made,
        ratio_max=traced / made,
        target=f"{IDLE_BYTES_MAX} B",
        met=traced <= IDLE_BYTES_MAX,
    )


async def _storm(restarters: list[Restarter], seconds: float) -> None:
    """Send what crashes, every millisecond what is due; every letter crashes twice, the second time for good."""
    start = time.perf_counter()
    letters = round(STORM_PER_S * seconds / 2)
    sent = 0
    while sent < letters:
        due = min(letters, int((time.perf_counter() - start) * STORM_PER_S / 2) + 1)
        for number in range(sent, due):
            restarters[number % len(restarters)].child.tell(number)
        sent = due
        await asyncio.sleep(0.001)


async def _ask_in_a_loop(ref: ChildRef[float, None], wait_s: float, until: float, waits: list[float]) -> None:
    clock = time.perf_counter
    while (asked := clock()) < until:
        await ref.ask(wait_s)
        waits.append(clock() - asked)
        await asyncio.sleep(ASK_EVERY_S)


async def _answer(wait_s: float) -> None:
    if wait_s:
        await asyncio.sleep(wait_s)


async def neighbours_p99(wait_s: float, seconds: float, *, storm: bool) -> float:
    """Return what 99 of 100 asks wait at most, in microseconds."""
    waits: list[float] = []
    async with Actors() as actors:
        restarters = [Restarter(actors.child(_state, name=f"crashing {n}")) for n in range(STORM_CHILDREN)]
        neighbours: list[ChildRef[float, None]] = [actors.child(lambda: _answer) for _ in range(NEIGHBOURS)]
        async with asyncio.TaskGroup() as group:
            until = time.perf_counter() + seconds
            if storm:
                group.create_task(_storm(restarters, seconds))
            for neighbour in neighbours:
                neighbour.start(lambda _exit: None)
                group.create_task(_ask_in_a_loop(neighbour, wait_s, until, waits))
        late_s = time.perf_counter() - until
        await actors.wait_until_idle()
        crashes = sum(restarter.exits for restarter in restarters)
        _check(crashes, round(STORM_PER_S * seconds / 2) * 2 if storm else 0)
        _check(actors.statistics().crashes, crashes)
    if late_s > seconds * STORM_LATE_MAX:
        msg = f"a storm of {seconds:g} s took {late_s:g} s longer: it was none of {STORM_PER_S} a second"
        raise RuntimeError(msg)
    return statistics.quantiles(waits, n=100)[98] * 1e6


def compare_storm(wait_s: float, rounds: int, seconds: float) -> Result:
    """Measure with the storm and without it in turn, swapping which goes first."""
    calm: list[float] = []
    stormy: list[float] = []
    for number in range(rounds):
        sides = [(calm, False), (stormy, True)]
        for p99s, storm in sides if number % 2 else reversed(sides):
            gc.collect()
            p99s.append(asyncio.run(neighbours_p99(wait_s, seconds, storm=storm)))
    ratios = [mine / limit for mine, limit in zip(stormy, calm, strict=True)]
    ratio = statistics.median(ratios)
    return Result(
        workload=f"storm: asks of {wait_s * 1e3:g} ms, p99" if wait_s else "  the same, asks that do not wait",
        floor=statistics.median(calm),
        turnkeeper=statistics.median(stormy),
        unit="us",
        ratio=ratio,
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        target=f"{STORM_RATIO_MAX:g}x" if wait_s else "",
        met=ratio <= STORM_RATIO_MAX or not wait_s,
    )


def _show(result: Result) -> None:
    digits = 0 if result.unit == "B" else 2
    verdict = "" if not result.target else "met" if result.met else "MISSED"
    print(
        f"{result.workload:36} {result.floor:9.{digits}f} {result.unit:2} {result.turnkeeper:9.{digits}f} "
        f"{result.unit:2} {result.ratio:6.2f}x  {result.ratio_min:5.2f} - {result.ratio_max:5.2f}  "
        f"{result.target:>6} {verdict}",
        flush=True,
    )


def _log_for_nobody() -> None:
    """Format every record, as a program that keeps its log would, and drop the text."""

    class Nobody(io.TextIOBase):
        def write(self, text: str, /) -> int:
            return len(text)

    handler = logging.StreamHandler(Nobody())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger("turnkeeper").addHandler(handler)


def main() -> int:
    """Print the table; return 1 if a target was missed and that was to be checked."""
    parser = argparse.ArgumentParser(description="What does a crash in memory cost?")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 10 s")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    rounds, seconds = (7, 0.5) if options.quick else (15, 2.0)
    _log_for_nobody()
    print(f"{'':36} {'floor':>12} {'turnkeeper':>12} {'ratio':>7}  {'spread':>13}  {'target':>6}")
    measures: tuple[Callable[[], Result], ...] = (
        lambda: compare_restarts(2, rounds, CRASHES),
        lambda: compare_restarts(1, rounds, CRASHES),
        lambda: compare_idle(IDLE_CHILDREN),
        lambda: compare_storm(WAIT_S, rounds // 3, seconds),
        lambda: compare_storm(0.0, rounds // 3, seconds),
    )
    results = []
    for measure in measures:
        results.append(measure())
        _show(results[-1])
    if options.json:
        facts = {"benchmark": "restarts", "python": platform.python_version(), "rounds": rounds, "results": results}
        print(msgspec.json.encode(facts).decode())
    return int(options.check and not all(result.met for result in results))


if __name__ == "__main__":
    sys.exit(main())
