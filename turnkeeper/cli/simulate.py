"""Simulate: a scenario in virtual time, once or under many seeds, until an oracle finds something."""

import importlib
import importlib.util
import inspect
import logging
import math
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from turnkeeper.cli.conversations import BadInput
from turnkeeper.testing.arrivals import from_offset, recorded
from turnkeeper.testing.faults import Faults
from turnkeeper.testing.runs import live_to_the_end, shrink
from turnkeeper.testing.scenarios import BUILT_IN
from turnkeeper.testing.schedule import Schedule
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.summary import Counts, Summary
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import Life, Load

__all__ = [
    "TRACE",
    "Finding",
    "Plan",
    "Watcher",
    "fresh_seeds",
    "lines_of",
    "load_scenario",
    "plan_of",
    "read_trace",
    "seed_range",
    "simulate",
]

TRACE: Final = Path("../shared/data/azure_llm_arrivals_conv.csv")
"""Where the recorded arrivals are looked for, from the current folder, if no file is named."""

_LOOK_S: Final = 0.1
_HOURS_ONE: Final = 1.0
_HOURS_MANY: Final = 0.001
"""A few seconds of arrivals, about twenty messages: small runs find more a minute than large ones."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be simulated, and for how many real seconds at most (`for_s`).

    `trace` are recorded arrivals, s from 0. `repeat` is the command that runs one seed again, with `{seed}` in it.
    """

    scenario: str
    life: Life
    seeds: Sequence[int]
    for_s: float = math.inf
    faults: Faults
    load: Load
    trace: Sequence[float]
    repeat: str


class Finding(msgspec.Struct, frozen=True):
    """What stopped a simulation: the first violation, or what the scenario itself raised."""

    seed: int
    rule: str
    what: str
    notes: list[str]


Watcher = Callable[[int, float, int], None]
"""Called now and then with the runs that are over, and the virtual seconds and turns of the one that goes on."""


def simulate(plan: Plan, watcher: Watcher) -> tuple[Summary, Finding | None]:
    """Run the scenario under each seed, and stop at the first violation, or at what the scenario itself raises."""
    _silence()
    counts = Counts(plan.scenario)
    found: Finding | None = None
    started_s = time.perf_counter()
    for over, seed in enumerate(plan.seeds):
        if over and time.perf_counter() - started_s > plan.for_s:
            break
        world = _world(plan, seed)
        world.before_time_passes = _throttled(world, over, watcher)
        try:
            outcome = live_to_the_end(world, plan.life)
        except Exception as failure:  # noqa: BLE001 - whatever a seed brings to light is what was looked for
            found = _explained(plan, seed, failure)
            break
        counts.add(outcome, world.disk.rows())
    return counts.summary(time.perf_counter() - started_s, violations=1 if found else 0), found


def _world(plan: Plan, seed: int) -> SimulatedWorld:
    load = plan.load
    if plan.trace:  # each seed begins somewhere else in the trace, the first at its beginning
        offset = Random(f"trace {seed}").random() if seed else 0.0  # noqa: S311 - a simulation's
        arrivals = from_offset(plan.trace, offset, load.hours * 3_600)
        load = msgspec.structs.replace(load, arrivals=tuple(arrivals))
    return SimulatedWorld(seed, plan.faults, load)


def _throttled(world: SimulatedWorld, over: int, watcher: Watcher) -> Callable[[], None]:
    next_s = 0.0

    def look() -> None:
        nonlocal next_s
        now_s = time.perf_counter()
        if now_s >= next_s:
            next_s = now_s + _LOOK_S
            watcher(over, world.now_s, len(world.disk.deliverables))

    return look


def _explained(plan: Plan, seed: int, failure: Exception) -> Finding:
    def attempt(schedule: Schedule) -> None:
        live_to_the_end(_world(plan, seed), plan.life, schedule=schedule)

    notes = [f"repeat it with: {plan.repeat.replace('{seed}', str(seed))}"]
    notes += getattr(failure, "__notes__", [])
    if len(plan.seeds) > 1:
        notes += shrink(attempt, seed, failure)
    if isinstance(failure, Violated):
        return Finding(seed, failure.rule, failure.what, notes)
    first = _first(failure)
    line = _line_of(first, Path(plan.scenario))
    where = f"{plan.scenario}:{line}: " if line is not None else ""
    return Finding(seed, "the scenario raises nothing", f"{where}{type(first).__name__}: {first}", notes)


def _first(error: BaseException) -> BaseException:
    """Return an error, or the first of a group, which itself says only how many there are."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _line_of(error: BaseException, file: Path) -> int | None:
    """Return the innermost line of a file that led to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return lines[-1] if lines else None


def _silence() -> None:
    """Keep the runtime's own log away: thousands of planned failures would fill the screen."""
    for name in ("turnkeeper", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def seed_range(said: str) -> range:
    """Return the seeds of `A..B`, both included.

    Raises:
        ValueError: it is no such range, or an empty one.
    """
    first, dots, last = said.partition("..")
    if not dots or not first.strip().isdecimal() or not last.strip().isdecimal():
        msg = f"{said!r} is no range of seeds; write A..B, as in 0..2000"
        raise ValueError(msg)
    seeds = range(int(first), int(last) + 1)
    if not seeds:
        msg = f"{said!r} is empty: {first.strip()} is above {last.strip()}"
        raise ValueError(msg)
    return seeds


def fresh_seeds() -> range:
    """Return seeds that nobody has run yet, as far as the clock can tell, and more than there is time for."""
    first = time.time_ns() // 1_000_000
    return range(first, first + 1_000_000)


def load_scenario(said: str) -> Life:
    """Return the `life` of a built-in scenario, or of a Python file.

    Raises:
        BadInput: there is none; says why, and where.
    """
    file = Path(said)
    if said in BUILT_IN and not file.is_file():
        built_in: Life = importlib.import_module(f"turnkeeper.testing.scenarios.{said}").life
        return built_in
    if not file.is_file():
        raise BadInput(file, None, f"is no file, and no built-in scenario ({', '.join(BUILT_IN)})")
    spec = importlib.util.spec_from_file_location(f"scenario_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(file, None, "is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where types with postponed annotations look for themselves
    sys.path.insert(0, str(file.resolve().parent))  # as for any script: its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise BadInput(file, error.lineno, f"is not Python: {error.msg}") from error
    except Exception as error:
        raise BadInput(file, _line_of(error, file), f"cannot be loaded: {type(error).__name__}: {error}") from error
    life = getattr(module, "life", None)
    if not inspect.iscoroutinefunction(life):
        raise BadInput(file, None, "has no `async def life(world)`")
    found: Life = life
    return found


def read_trace(file: Path | None) -> list[float]:
    """Return recorded arrivals: of the named file or, where it is there, of the usual one; else none.

    Raises:
        BadInput: the file cannot be read; says where.
    """
    if file is None and not TRACE.exists():
        return []
    try:
        return recorded(file or TRACE)
    except (OSError, ValueError) as error:
        raise BadInput(file or TRACE, None, getattr(error, "strerror", None) or str(error)) from error


def plan_of(scenario: str, seeds: Sequence[int], options: Mapping[str, Any]) -> Plan:
    """Return the plan that the command line amounts to.

    Raises:
        BadInput: the scenario or the arrivals cannot be used.
    """
    hours = options["hours"] or (_HOURS_ONE if len(seeds) == 1 else _HOURS_MANY)
    trace = read_trace(options["arrivals"])
    shown = [f"--{name.replace('_', '-')} {options[name]!r}" for name in options if name.endswith("_rate")]
    file = options["arrivals"] or (TRACE if trace else None)
    arrivals = [f"--arrivals {shlex.quote(str(file))}"] if file is not None else []
    repeat = " ".join(
        [f"turnkeeper simulate {shlex.quote(scenario)} --seed {{seed}} --hours {hours!r}", *shown, *arrivals]
    )
    return Plan(
        scenario=scenario,
        life=load_scenario(scenario),
        seeds=seeds,
        for_s=options["for_s"] or math.inf,
        faults=Faults(crash_rate=options["crash_rate"], fault_rate=options["fault_rate"]),
        load=Load(
            hours=hours,
            hang_rate=options["hang_rate"],
            slow_rate=options["slow_rate"],
            duplicate_rate=options["duplicate_rate"],
        ),
        trace=trace,
        repeat=repeat,
    )


def lines_of(found: Finding) -> list[str]:
    """Return a finding as people read it."""
    return [f"violation under seed {found.seed}: {found.rule}: {found.what}", *found.notes]
