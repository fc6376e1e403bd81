"""The hunt: in a process of its own, scenarios are run seed after seed until one finds the mutant."""

import asyncio
import logging
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from mutants.mutant import Mutant, plant

__all__ = ["FOUND", "Found", "hunt", "say"]

FOUND = "found "
"""What the line begins with by which a hunting process says what it found."""

_RUN_S = 20.0
"""Wall time that one run may take: a run without a bug takes a second at most, an endless loop takes for ever."""

_CONFORMANCE = "tests/testing/test_conformance.py"
_PYTEST = ("-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "-k")
"""Without rewriting of asserts: it would load the library itself, and pass the mutant by."""

Found = tuple[int, str]
"""The number of the run (from 1), and what found the bug in it."""


def hunt(
    mutant: Mutant | None, tries: tuple[str, ...], tests: Collection[str], runs: int, known: Collection[int]
) -> Iterator[Found]:
    """Plant a mutant, or none for the control, and yield each run that fails.

    Runs take the scenarios and their weathers in turn, so that each has its share of the seeds.

    Args:
        mutant: what to plant.
        tries: see `Mutant`.
        tests: where tests are tried, which of them; all if empty.
        runs: how many.
        known: runs that fail without any mutant; they prove nothing, and are left out.
    """
    logging.disable(logging.CRITICAL)  # crashes are what these runs are full of
    if mutant is not None:
        plant(mutant)
        import_module(mutant.module)  # a mutant that cannot be imported is no find
    if tries == ("conformance",):
        yield from _tested(_CONFORMANCE, ["Sqlite", *_any(tests)])
        return
    if tries and tries[0].endswith(".py"):
        yield from _tested(tries[0], _any(tests))
        return
    trials = _trials(tries)
    for number in range(1, runs + 1):
        if number not in known:
            name, life, faults, load = trials[(number - 1) % len(trials)]
            if by := _broken(life, name, (number - 1) // len(trials), faults, load, number):
                yield number, by


def say(found: Found) -> None:
    """Say what was found, to the process that started the hunt."""
    number, by = found
    print(f"{FOUND}{number} {' '.join(by.split())}", flush=True)


def _trials(tries: tuple[str, ...]) -> list[tuple[str, Any, Any, Any]]:
    """Return each scenario with each weather it is tried in: calm, rough, stormy."""
    from turnkeeper.testing.faults import Faults  # only now: the mutant must be planted first
    from turnkeeper.testing.scenarios import BUILT_IN
    from turnkeeper.testing.world import Load

    # More kills cost much, and find little more: where every heartbeat may be the last, a long wait takes a thousand.
    rough = Faults(crash_rate=0.01, fault_rate=0.02, crashes_max=50)
    stormy = Faults(crash_rate=0.04, fault_rate=0.1, crashes_max=12)
    weathers = (
        ("calm", Faults(), Load()),
        ("rough", rough, Load(hang_rate=0.02, slow_rate=0.05, duplicate_rate=0.2)),
        ("stormy", stormy, Load(hang_rate=0.1, slow_rate=0.1, duplicate_rate=0.5)),
    )
    trials = []
    for name in tries or [
        name for name in BUILT_IN if name not in {"kernel", "doubts", "trees", "participants", "arrivals", "waiting"}
    ]:  # which are tried by name
        life = import_module(f"turnkeeper.testing.scenarios.{name}").life
        # Those write nothing, so nothing can fail around it.
        of_name = weathers[:1] if name in {"kernel", "trees", "participants"} else weathers
        trials += [(f"{name}, {weather}", life, faults, load) for weather, faults, load in of_name]
    return trials


def _broken(life: Any, name: str, seed: int, faults: Any, load: Any, number: int) -> str:
    """Run one seed; return what it broke, empty for nothing."""
    from turnkeeper.testing.runs import run
    from turnkeeper.testing.violated import Violated

    where = f"{name}, seed {seed}"

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        say((number, f"{where}: not over after {_RUN_S:g} s"))
        os._exit(0)  # an exception would be caught by the very loop that does not end

    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, _RUN_S)
    try:
        run(life, seed=seed, faults=faults, load=load)
    except Violated as violation:
        return f"{where}: {violation.rule}"
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever a life raises is a find
        return f"{where}: raised {type(error).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


class _FirstFailure:
    """A pytest plugin that counts tests, and remembers the first that failed."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.found: Found | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        number = next(self._numbers) if report.when == "setup" else 0
        if report.failed and self.found is None:
            self.found = (
                number or next(self._numbers) - 1,
                f"{Path(report.nodeid.partition('::')[0]).stem}: {report.nodeid.rpartition('::')[2]}",
            )


def _any(tests: Collection[str]) -> list[str]:
    return [f"({' or '.join(tests)})"] if tests else []


def _tested(file: str, only: Sequence[str]) -> Iterator[Found]:
    """Run those of a file of tests that are all of what is said.

    What is in SQLite's writer no store in memory shows, and some orders only a test sees.
    """
    import pytest

    seen = _FirstFailure()
    code = pytest.main([*_PYTEST, " and ".join(only), file], plugins=[seen])
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        msg = f"the tests could not be run: {code!r}"
        raise RuntimeError(msg)
    if seen.found is not None:
        yield seen.found
