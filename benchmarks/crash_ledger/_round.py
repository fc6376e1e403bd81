"""One round: a process that works is killed with SIGKILL, a new one ends what it left, and the world is counted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, Self

from benchmarks.crash_ledger._counted import Counted, count
from benchmarks.crash_ledger._ours import STORE, unrecorded
from benchmarks.crash_ledger._outside import IN_FLIGHT, What, named, read
from turnkeeper.actors.store.audit import audit

__all__ = ["OURS", "ProgramFailed", "Round", "System", "run_round"]

OURS: Final = "benchmarks.crash_ledger._ours"
_ROOT: Final = Path(__file__).parents[2]
_LOOK_S: Final = 0.02
_UNDER_WAY_S: Final = 60.0
"""How long a system may take until a turn of every session has been delivered."""
_KILLED_S: Final = (0.2, 1.0)
"""The kill comes at a random moment between these, counted from when the work is under way."""


class System(NamedTuple):
    """A system, and its program. `packages` are what its environment needs; ours needs none of its own."""

    name: str
    module: str
    variant: str
    packages: tuple[str, ...] = ()
    brings: str = ""


class Round(NamedTuple):
    """What a round came to: the count, how the store was durable, and what an audit of our file found."""

    counted: Counted
    settings: str
    violations: list[str]


class ProgramFailed(Exception):
    """A system's program ended by itself, or never got under way; the message ends with what it said last."""


def run_round(system: System, python: Path, folder: Path, chance: Random, patience_s: float) -> Round:
    """Run one round in an empty folder.

    Args:
        system: which.
        python: the interpreter that has it.
        folder: where its store and the world outside are.
        chance: what the moment of the kill is drawn from.
        patience_s: how long recovery may take; what has not been delivered then counts as lost.

    Raises:
        ProgramFailed: its first life did not get so far as to be killed, or its second failed.
    """
    with _Life(system, python, folder, 1) as worker:
        worker.wait_until_under_way()
        time.sleep(chance.uniform(*_KILLED_S))
        worker.kill()
    ours = system.module == OURS
    doubtful = unrecorded(folder) if ours else None
    with _Life(system, python, folder, 2) as recovering:
        recovering.wait_for_end(patience_s)
    lines = read(folder)
    if not named([line for line in lines if line.life > 1], What.ENTERED):
        raise ProgramFailed(f"{system.name} did not start again: {recovering.last_words()}")
    found = [f"{found.rule}: {found.where} {found.what}" for found in audit(folder / STORE).violations] if ours else []
    settings = next((line.of for line in lines if line.what == What.SETTINGS), "")
    return Round(count(lines, doubtful, recovering.started_at), settings, found)


class _Life:
    """One process of a system's program; a context manager that leaves nothing running."""

    def __init__(self, system: System, python: Path, folder: Path, number: int) -> None:
        self._system = system
        self._folder = folder
        self._output = folder / f"life-{number}.txt"
        self._command = [str(python), "-m", system.module, str(folder), str(number), system.variant]

    def __enter__(self) -> Self:
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
        self.kill()

    def wait_until_under_way(self) -> None:
        """Wait until as many turns as are in flight have been delivered."""
        give_up_at = self.started_at + _UNDER_WAY_S
        while len(named(read(self._folder), What.DELIVERED)) < IN_FLIGHT:
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise ProgramFailed(f"{self._system.name} did not get under way: {self.last_words()}")
            time.sleep(_LOOK_S)

    def kill(self) -> None:
        """Kill it and whatever it started; return when it is gone."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait_for_end(self, patience_s: float) -> None:
        """Wait until it ends by itself, no longer than it is given."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            if code:
                raise ProgramFailed(f"{self._system.name} failed while recovering: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last line that it printed."""
        said = self._output.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it said nothing"
