"""The pytest plugin: async tests in a simulated world, under as many seeds as they are marked with.

A coroutine test that asks for `world`, or for a fixture that stands on it, runs in virtual time on a seeded loop. Its
seed is part of its name, so `pytest path::test[17]` repeats it. Without such a fixture nothing changes.
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, Final

import pytest

from turnkeeper.actors.agent import Agent
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.runs import Outcome, each_crash, live_to_the_end, shrink
from turnkeeper.testing.schedule import Schedule
from turnkeeper.testing.scripted import scripted_agent as make_scripted_agent
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.virtual import VirtualClock
from turnkeeper.testing.world import Life, World

__all__: list[str] = []

_MARK: Final = "seeds(seeds, *, faults=None, load=None): run under each of these seeds (a number of them, or which)"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", _MARK)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed."""
    mark = metafunc.definition.get_closest_marker("seeds")
    if mark is None:
        return
    if "seed" not in metafunc.fixturenames:
        if mark in metafunc.definition.own_markers:  # one of its module or class may be meant for others
            msg = f"{metafunc.definition.nodeid} is marked with seeds and uses none: ask for world, runtime, seed, ..."
            raise pytest.UsageError(msg)
        return
    seeds = mark.args[0] if mark.args else 1
    metafunc.parametrize("seed", range(seeds) if isinstance(seeds, int) else list(seeds))


@pytest.hookimpl(wrapper=True, trylast=True)  # before a plugin for async tests sees them
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Let coroutine tests of a simulated world run there, and nowhere else."""
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Function) and _uses_world(item) and iscoroutinefunction(item.obj):
            item.obj = _simulated(item)
    return made


def _uses_world(item: pytest.Function) -> bool:
    """Say whether a test stands on this plugin's world, and not on a fixture that only has its name."""
    found = list(item._fixtureinfo.name2fixturedefs.get("world", ()))  # noqa: SLF001 - pytest shows fixtures nowhere else
    while found and found[-1].func.__module__ != __name__ and "world" in found[-1].argnames:
        found.pop()  # it adds to the world that it was given
    return bool(found) and found[-1].func.__module__ == __name__


def _has_own_fixtures(item: pytest.Function) -> bool:
    """Say whether a test has fixtures that this plugin does not know how to make anew for another attempt."""
    made = item._fixtureinfo.name2fixturedefs  # noqa: SLF001 - as above
    ours = {name for name, found in made.items() if found[-1].func.__module__ == __name__}
    return bool(made.keys() - ours - {"anyio_backend", "request", "seed"})


def _simulated(item: pytest.Function) -> Callable[..., None]:
    """Return a test that lives the coroutine test in its world, again after each kill, and checks everything."""
    test = item.obj

    @wraps(test)
    def lived(**arguments: Any) -> None:
        __tracebackhide__ = True  # of a failure, the test's own lines matter
        world: Any = item.funcargs["world"]

        async def life(_: World) -> None:
            await test(**arguments)

        def attempt(schedule: Schedule) -> None:
            world.reset()
            live_to_the_end(world, life, schedule=schedule)

        try:
            live_to_the_end(world, life)
        except Exception as failure:
            if _has_own_fixtures(item):
                failure.add_note("its schedule is not made smaller: fixtures of its own remember the first attempt")
            else:
                for note in shrink(attempt, world.seed, failure):
                    failure.add_note(note)
            failure.add_note(f"repeat it with: pytest {item.nodeid!r}")
            raise

    return lived


@pytest.fixture
def seed() -> int:
    """What everything in this test's world follows from; a test marked with `seeds` runs under each of them."""
    return 0


@pytest.fixture
def world(seed: int, request: pytest.FixtureRequest) -> SimulatedWorld:
    """The simulated world of this test: its store, its clock, and what its effects did outside."""
    mark = request.node.get_closest_marker("seeds")
    return SimulatedWorld(seed, **(mark.kwargs if mark is not None else {}))


@pytest.fixture
def runtime(world: SimulatedWorld) -> Callable[..., Runtime]:
    """Make runtimes in this test's world, with what `World.runtime` takes: agents, and settings."""
    return world.runtime


@pytest.fixture
def virtual_clock(world: SimulatedWorld) -> VirtualClock:
    """The world's clock: `time()`, `now_s`, and `await advance(seconds)`."""
    return world.clock


@pytest.fixture
def scripted_agent(world: SimulatedWorld) -> Callable[..., Agent]:
    """Make an agent whose turns end as told: `scripted_agent("helper", ["ok", "fail", "hang", "crash", "slow"])`."""
    return partial(make_scripted_agent, world)


@pytest.fixture
def crash_points(seed: int) -> Callable[[Life], Sequence[Outcome]]:
    """Kill a life at its 1st, 2nd, ... n-th crash point, recover and check: `crash_points(life)`, in a plain test."""
    return partial(each_crash, seed=seed)
