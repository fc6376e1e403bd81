"""Kills: a real process killed at its first point, its second, ... until a life passes untouched.

After each kill a new process finishes the work, and everything that was promised is checked.
`python -m turnkeeper.testing.kills MODULE:LIFE` does it from the command line.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path

import msgspec

from turnkeeper.kernel.history import Violation
from turnkeeper.testing.process import (
    Acknowledged,
    Lived,
    acknowledgements,
    check,
    command,
    effects,
    origin,
    run,
)
from turnkeeper.testing.violated import Violated

__all__ = ["KillReport", "KillViolated", "KillViolation", "each_kill"]

_RETURNS = "a life returns"
_TRACE_LINES_MAX = 12
"""How much of a traceback a violation shows: the end, where its reason is."""


class KillViolation(msgspec.Struct, frozen=True):
    """What may not be, after the kill at which point, and the command that repeats it."""

    at: int
    violation: Violation
    command: str

    def __str__(self) -> str:
        """Return it as people read it."""
        found = self.violation
        return f"killed at point {self.at}: {found.rule}: {found.where}: {found.what}\n  {self.command}"


class KillReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, and everything found that may not be.

    Args:
        points: how many points a life has that is not killed.
        kills: how many lives were killed.
        processes: how many processes were started.
        acknowledged: how many messages were acknowledged, all worlds together.
        effects: how many effects happened, all worlds together.
        violations: what may not be; empty where the promises hold.
    """

    points: int
    kills: int
    processes: int
    acknowledged: int
    effects: int
    violations: list[KillViolation]


class KillViolated(Violated):
    """A kill broke a promise. `report` says everything that was found."""

    def __init__(self, report: KillReport) -> None:
        """Take the report; the message names each violation, and the command that repeats it."""
        super().__init__("promises outlive a kill", "\n".join(map(str, report.violations)))
        self.report = report


class _Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One world: a life killed at one point, and what came of it. `points` is None where it was killed."""

    at: int
    points: int | None = None
    processes: int
    acknowledged: int
    effects: int
    violations: list[Violation]


def each_kill(
    life: str, folder: Path, *, seed: int = 0, every: int = 1, repeatable: Sequence[str] = (), timeout_s: float = 60.0
) -> KillReport:
    """Kill a life at each of its points, let another finish it, and check the world after both.

    Runs as many worlds at a time as the machine has processors. What a life does may depend on timing, so a
    point's number is not the same moment in every run: the promises must hold at any.

    Args:
        life: `MODULE:LIFE`.
        folder: where the worlds are made; those without a finding are removed.
        seed: what the lives draw from.
        every: take each k-th point only.
        repeatable: how effects begin that may happen more than once: those of idempotent tools.
        timeout_s: how long a process may take.

    Raises:
        KillViolated: a promise was broken, or a life raised or did not return.
        ValueError: the life does not exist, or `every` is not positive.
    """
    if every < 1:
        raise ValueError(f"every must be 1 or more, not {every}")
    worlds = _Worlds(life, folder, seed, repeatable, timeout_s)
    trials = sorted(_until_untouched(worlds, every), key=lambda trial: trial.at)
    return _reported(worlds, trials)


def kill_at(
    life: str, folder: Path, at: int, *, seed: int = 0, repeatable: Sequence[str] = (), timeout_s: float = 60.0
) -> KillReport:
    """Kill a life at one point: to see again what `each_kill` found.

    Raises:
        KillViolated, ValueError: see `each_kill`.
    """
    worlds = _Worlds(life, folder, seed, repeatable, timeout_s)
    return _reported(worlds, [worlds.trial(at)])


def _reported(worlds: "_Worlds", trials: Sequence[_Trial]) -> KillReport:
    report = KillReport(
        points=next((trial.points for trial in trials if trial.points is not None), 0),
        kills=sum(trial.points is None for trial in trials),
        processes=sum(trial.processes for trial in trials),
        acknowledged=sum(trial.acknowledged for trial in trials),
        effects=sum(trial.effects for trial in trials),
        violations=[
            KillViolation(trial.at, violation, worlds.repeat(trial.at))
            for trial in trials
            for violation in trial.violations
        ],
    )
    if report.violations:
        raise KillViolated(report)
    return report


def _until_untouched(worlds: "_Worlds", every: int) -> Iterator[_Trial]:
    """Yield trials until one's life was not killed, or one found something; those under way are finished."""
    numbers, over = count(1, every), False
    at_a_time = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=at_a_time) as pool:
        running: set[Future[_Trial]] = set()
        while running or not over:
            while not over and len(running) < at_a_time:
                running.add(pool.submit(worlds.trial, next(numbers)))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial = future.result()
                over = over or trial.points is not None or bool(trial.violations)
                yield trial


class _Worlds:
    """Makes a world for each trial."""

    __slots__ = ("_folder", "_life", "_path", "_repeatable", "_seed", "_timeout_s")

    def __init__(self, life: str, folder: Path, seed: int, repeatable: Sequence[str], timeout_s: float) -> None:
        self._life = life
        self._path = origin(life)
        self._folder = folder
        self._seed = seed
        self._repeatable = repeatable
        self._timeout_s = timeout_s

    def trial(self, at: int) -> _Trial:
        """Kill one life, let the next return, and check after each."""
        world = self._folder / f"kill-{at}"
        points, violations = self._live(world, 1, "--kill-at", at)
        processes = 1
        if not violations:
            violations = check(world, repeatable=self._repeatable, ended=points is not None)
        if points is None and not violations:
            processes += 1
            _, violations = self._live(world, 2)
            violations = violations or check(world, repeatable=self._repeatable)
        told = {line.receipt_id for line in acknowledgements(world) if isinstance(line, Acknowledged)}
        happened = effects(world)
        if not violations:
            shutil.rmtree(world)
        return _Trial(
            at=at,
            points=points,
            processes=processes,
            acknowledged=len(told),
            effects=len(happened),
            violations=violations,
        )

    def _live(self, world: Path, number: int, *more: object) -> tuple[int | None, list[Violation]]:
        """Run one life; return the points it passed, None if it was killed as it should be, and what is wrong."""
        line = command(self._life, world, "--life", number, "--seed", self._seed, *more)
        try:
            ended = run(line, path=self._path, timeout_s=self._timeout_s)
        except subprocess.TimeoutExpired:
            return None, [Violation(_RETURNS, f"life {number}", f"did not end within {self._timeout_s:g} s")]
        if ended.returncode == 0:
            return msgspec.json.decode(ended.stdout.splitlines()[-1], type=Lived).points, []
        if ended.returncode == -signal.SIGKILL and more:
            return None, []
        last = "\n".join(ended.stderr.splitlines()[-_TRACE_LINES_MAX:])
        return None, [Violation(_RETURNS, f"life {number}", f"exit code {ended.returncode}\n{last}")]

    def repeat(self, at: int) -> str:
        """Return the command that repeats a trial."""
        words = [sys.executable, "-m", "turnkeeper.testing.kills", self._life, "--seed", str(self._seed)]
        words += ["--at", str(at), *(word for start in self._repeatable for word in ("--repeatable", start))]
        return f"PYTHONPATH={shlex.quote(str(self._path))} {shlex.join(words)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill a life at each point, or at one; return 0 if every promise held, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m turnkeeper.testing.kills", description="Kill a life at each of its points, and check."
    )
    parser.add_argument("life", metavar="MODULE:LIFE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take each k-th point only")
    parser.add_argument("--at", type=int, help="kill at this point only")
    parser.add_argument("--repeatable", action="append", default=[], help="how effects begin that may happen again")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="turnkeeper-kills-") as made:
        folder = Path(made)
        try:
            if given.at is None:
                report = each_kill(given.life, folder, seed=given.seed, every=given.every, repeatable=given.repeatable)
            else:
                report = kill_at(given.life, folder, given.at, seed=given.seed, repeatable=given.repeatable)
        except ValueError as error:
            parser.error(str(error))
        except KillViolated as violated:
            print(violated)  # noqa: T201
            return 1
    for name, value in msgspec.structs.asdict(report).items():
        if name != "violations":
            print(f"{name:<14}{value:>8}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
