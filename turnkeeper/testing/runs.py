"""Runs: a life lived in a simulated world to its end, under one seed or many, and a failing schedule made small."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count

import msgspec

from turnkeeper.testing.faults import Faults
from turnkeeper.testing.schedule import ReplayedSchedule, Schedule, SeededSchedule
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.violated import Stalled, Violated
from turnkeeper.testing.world import Life, Load

__all__ = ["Outcome", "each_crash", "explore", "live_to_the_end", "run", "shrink"]

_LIVES_MAX = 10_000
_SHRINKS_MAX = 300
_SHRINK_S = 10.0
_SAID_MAX = 20
_KILLS_SAID = 5
_LIMIT_S = 1e6
"""Virtual seconds that one life may take: eleven days. What goes on for longer goes on for ever."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to.

    Args:
        seed: what it followed from.
        digest: of every row in the end, what has happened in the world, and the steps and time it took; equal for
            equal seeds, in any process.
        lives: processes it took: one, and one more for each kill.
        points: crash points passed; of one name, if the faults name one.
        steps: callbacks run by the loop.
        virtual_s: how long it took in virtual time.
        turns: turns in the store in the end.
        live: of them, those without a deliverable: handed back, or standing on a wait.
    """

    seed: int
    digest: str
    lives: int
    points: int
    steps: int
    virtual_s: float
    turns: int
    live: int


def run(
    life: Life,
    *,
    seed: int = 0,
    faults: Faults | None = None,
    load: Load | None = None,
    schedule: Schedule | None = None,
) -> Outcome:
    """Run a life in a world of its own, as often as its kills make necessary, and check everything.

    Deterministic: equal arguments give equal outcomes, in any process. Python's `random` is seeded for the run and
    put back after it; what reads the real clock, or walks a set of strings, is the life's own responsibility.

    Args:
        life: what each process does; called again after each kill.
        seed: what schedule, latencies, faults and the scenario's draws follow from.
        faults: what goes wrong; nothing if not given.
        load: what the life is asked to do, where it understands that.
        schedule: who runs next, where not by the seed.

    Raises:
        Violated: an oracle found what may not be.
        Exception: what the life itself raised.
    """
    return live_to_the_end(SimulatedWorld(seed, faults, load), life, schedule=schedule)


def live_to_the_end(world: SimulatedWorld, life: Life, *, schedule: Schedule | None = None) -> Outcome:
    """Run a life in a given world; see `run`."""
    __tracebackhide__ = True
    schedule = schedule or SeededSchedule(world.seed)
    steps, ended = 0, False
    with _seeded(world.seed), _told(world):
        while not ended:
            if world.life == _LIVES_MAX:
                raise Stalled(f"not over after {_LIVES_MAX:,} lives", "each ended before its work was done")
            ended, taken = world.live(life, schedule, _LIMIT_S)
            steps += taken
        tally = world.check()
    return Outcome(
        seed=world.seed,
        digest=world.digest(steps),
        lives=world.life,
        points=world.faults.counted(world.passed),
        steps=steps,
        virtual_s=world.now_s,
        turns=tally.turns,
        live=tally.live,
    )


@contextmanager
def _told(world: SimulatedWorld) -> Iterator[None]:
    """Let a failure say in which life it came about, and where the lives before were killed."""
    try:
        yield
    except Exception as failure:
        for line in world.kills[-_KILLS_SAID:]:
            failure.add_note(line)
        if world.kills:
            failure.add_note(f"this was in life {world.life}, at {world.now_s:.3f} s")
        raise


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let Python's own `random` follow from the seed meanwhile."""
    state = random.getstate()
    random.seed(f"random {seed}")
    try:
        yield
    finally:
        random.setstate(state)


def explore(
    life: Life, seeds: Iterable[int], *, faults: Faults | None = None, load: Load | None = None, repeat: str = ""
) -> list[Outcome]:
    """Run a life under many seeds; stop at the first violation, with its schedule made small.

    Args:
        life: see `run`.
        seeds: which ones.
        faults: see `run`.
        load: see `run`.
        repeat: how to run one seed again, with `{seed}` in it; it is shown with a violation.

    Raises:
        Violated: with notes that say which seed, how to repeat it, and which upsets of the order of arrival it takes.
    """
    outcomes = []
    for seed in seeds:
        attempt = partial(run, life, seed=seed, faults=faults, load=load)
        try:
            outcomes.append(attempt())
        except Exception as failure:
            failure.add_note(
                f"seed {seed}" + (f"; repeat it with: {repeat.replace('{seed}', str(seed))}" if repeat else "")
            )
            for line in shrink(lambda schedule, attempt=attempt: attempt(schedule=schedule), seed, failure):  # type: ignore[misc]
                failure.add_note(line)
            raise
    return outcomes


def each_crash(life: Life, *, seed: int = 0, faults: Faults | None = None) -> list[Outcome]:
    """Kill the process at its 1st, 2nd, ... n-th crash point, a new world each time, until a run passes untouched.

    After each kill the life is run again in the same world; then everything is checked. Crash points stand before
    and after every commit and every effect; `Faults(crash_point="effect.after")` takes those of one name only.

    Returns:
        The outcomes, one a crash point and the untouched one last.

    Raises:
        Violated: with a note that says at which crash point.
    """
    outcomes = []
    for point in count(1):
        planned = msgspec.structs.replace(faults or Faults(), crash_at=point)
        try:
            outcomes.append(run(life, seed=seed, faults=planned))
        except Exception as failure:
            failure.add_note(f"to be killed at crash point {point}: run(life, seed={seed}, faults={_short(planned)})")
            raise
        if outcomes[-1].points < point:
            break
    return outcomes


def shrink(attempt: Callable[[Schedule], object], seed: int, failure: Exception) -> list[str]:
    """Find few upsets of the order of arrival that still make it fail; return them in words.

    Halves are left out as long as what remains fails in the same way (delta debugging), within 300 attempts and ten
    seconds.

    Args:
        attempt: runs the failing thing under a schedule, and raises.
        seed: the one that fails.
        failure: what it raises; another type, or another broken rule, is another failure.
    """
    kept = SeededSchedule(seed, keep=True)
    with suppress(Exception):
        attempt(kept)
    attempts, end_s = 0, time.monotonic() + _SHRINK_S

    def fails(upsets: Mapping[int, int]) -> bool:
        nonlocal attempts
        if attempts >= _SHRINKS_MAX or time.monotonic() > end_s:
            return False
        attempts += 1
        try:
            attempt(ReplayedSchedule(upsets))
        except Exception as error:  # noqa: BLE001 - it is compared
            return _kind(error) == _kind(failure)
        return False

    upsets, parts = dict(kept.upsets), 1
    if not fails(upsets):
        return [f"its schedule cannot be replayed: {len(upsets)} upsets"]
    while upsets and attempts < _SHRINKS_MAX:
        numbers = sorted(upsets)
        size = -(-len(numbers) // parts)
        for start in range(0, len(numbers), size):
            fewer = {number: upsets[number] for number in numbers[:start] + numbers[start + size :]}
            if fails(fewer):
                upsets, parts = fewer, max(1, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(numbers), 2 * parts)
    shown = ReplayedSchedule(upsets)
    with suppress(Exception):
        attempt(shown)
    if not upsets:
        return ["it fails without any upset of the order of arrival"]
    words = f"it takes {len(upsets)} of {len(kept.upsets)} upsets of the order of arrival, found in {attempts} attempts"
    return [words, *shown.said[:_SAID_MAX]]


def _kind(failure: Exception) -> tuple[type[Exception], str]:
    return type(failure), failure.rule if isinstance(failure, Violated) else ""


def _short(faults: Faults) -> str:
    """Return faults as a call, without what is as always."""
    usual, said = msgspec.structs.asdict(Faults()), msgspec.structs.asdict(faults)
    given = ", ".join(f"{name}={value!r}" for name, value in said.items() if value != usual[name])
    return f"Faults({given})"
