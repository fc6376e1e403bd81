"""Systems beside each other: each a program of its own, in an environment of its own, run in rounds that take turns."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from benchmarks._envs import NotInstallable, default_folder, python_of

__all__ = ["Program", "ProgramFailed", "Rounds", "System", "cell", "note", "options", "pythons"]

_ROOT: Final = Path(__file__).parents[1]


class System(NamedTuple):
    """A system, and its program. `packages` are what its environment needs; ours needs none of its own."""

    name: str
    module: str
    variant: str
    packages: tuple[str, ...] = ()
    brings: str = ""

    @property
    def ours(self) -> bool:
        """Say whether it is this package, and no peer."""
        return not self.packages


class ProgramFailed(Exception):
    """A system's program ended by itself, or never got under way; the message ends with what it said last."""


class Program:
    """One process of a system's program; a context manager that leaves nothing running."""

    def __init__(self, system: System, python: Path, folder: Path, life: int) -> None:
        """Describe it; it is started where it is entered.

        Args:
            system: which.
            python: the interpreter that has it.
            folder: where its store and the world outside are.
            life: which process of the round this is, from 1.
        """
        self.name = system.name
        self._output = folder / f"life-{life}.txt"
        self._command = [str(python), "-m", system.module, str(folder), str(life), system.variant]

    def __enter__(self) -> Self:
        """Start it."""
        paths = [str(_ROOT)]
        if self._command[0] == sys.executable:  # a peer's environment gets nothing of this one
            paths += filter(None, [os.environ.get("PYTHONPATH")])
        with self._output.open("wb") as output:
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(  # noqa: S603 - the benchmark's own programs
                self._command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a group of its own: whatever it started dies with it
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left of it."""
        self.kill()

    @property
    def ended(self) -> bool:
        """Say whether it has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill it and whatever it started; return when it is gone."""
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait_for_end(self, patience_s: float) -> None:
        """Wait until it ends by itself; kill it when it has had `patience_s`.

        Raises:
            ProgramFailed: its exit code says so.
        """
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            if code:
                raise ProgramFailed(f"{self.name} failed: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last line that it printed."""
        said = self._output.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it said nothing"


class Measured(Protocol):
    """What a round has to say for itself."""

    @property
    def settings(self) -> str:
        """Return how its store was durable."""
        ...


R = TypeVar("R", bound=Measured)


class Rounds(ABC, Generic[R]):
    """The rounds of every system, which systems were left out and why, and what went wrong in ours."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        """Start with none.

        Args:
            folder: where the rounds' folders are made; that of a round which broke a promise stays.
            patience_s: how long a program may take to end by itself.
        """
        self._folder = folder
        self._patience_s = patience_s
        self.rounds: dict[System, list[R]] = {}
        self.skipped: dict[str, str] = {}
        self.wrong: list[str] = []

    @abstractmethod
    def measure(self, system: System, python: Path, folder: Path, number: int) -> tuple[R, list[str]]:
        """Run one round in an empty folder; return it, and what may not be in a round of ours, in words.

        Raises:
            ProgramFailed: there is nothing to measure.
        """

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Return a row of figures for each system that was measured."""

    def run(self, system: System, python: Path, number: int) -> None:
        """Run one round of a system; a peer that fails is left out from then on."""
        if system.name in self.skipped:
            return
        folder = Path(tempfile.mkdtemp(prefix="round-", dir=self._folder))
        try:
            found, wrong = self.measure(system, python, folder, number)
        except ProgramFailed as error:
            print(error, file=sys.stderr)
            wrong = [str(error)]
            if not system.ours:
                self.skipped[system.name] = "failed"
                self.rounds.pop(system, None)
        else:
            self.rounds.setdefault(system, []).append(found)
        if system.ours and wrong:
            self.wrong += [f"{system.name}: {what} (round {number}, see {folder})" for what in wrong]
        else:
            shutil.rmtree(folder)

    def run_all(self, systems: Sequence[System], asked: argparse.Namespace) -> None:
        """Run the rounds that were asked for; the systems take turns in each."""
        interpreters = pythons(systems, asked.envs, self.skipped, peers=not asked.no_peers)
        for number in range(asked.rounds):
            for system, python in interpreters.items():
                self.run(system, python, number)

    def show_notes(self) -> None:
        """Print how each store is durable, what each system brings, and which were left out."""
        for system, found in self.rounds.items():
            what = " ".join([system.name, *(f"[{package}]" for package in system.packages)])
            note(f"{what}: {found[0].settings}. {system.brings}")
        for name, reason in self.skipped.items():
            print(f"{name}: skipped, {reason}")


def pythons(systems: Sequence[System], envs: Path, skipped: dict[str, str], *, peers: bool) -> dict[System, Path]:
    """Return the interpreter of every system that can run here; the others are put into `skipped` with one word."""
    found: dict[System, Path] = {}
    for system in systems:
        if system.ours:
            found[system] = Path(sys.executable)
        elif not peers:
            skipped[system.name] = "unasked"
        else:
            try:
                found[system] = python_of(system.packages, envs)
            except NotInstallable as error:
                print(error, file=sys.stderr)
                skipped[system.name] = "uninstallable"
    return found


def options(name: str, description: str | None, rounds: int, check: str) -> argparse.ArgumentParser:
    """Return the options that every benchmark beside peers has: `check` says what its --check is for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=_at_least_one, default=rounds, help="rounds of each system")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--envs", type=Path, default=default_folder(), help="where the peers' environments are kept")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a program may take to end")
    parser.add_argument("--check", action="store_true", help=check)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def _at_least_one(given: str) -> int:
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def note(text: str) -> None:
    """Print a paragraph."""
    print(textwrap.fill(text, 118, subsequent_indent="  "))


def cell(value: float | None) -> str:
    """Return a figure as tables show it; None is what was not seen."""
    if value is None:
        return "-"
    return f"{value:,.3f}" if isinstance(value, float) and not value.is_integer() else f"{value:,.0f}"
