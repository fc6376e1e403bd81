"""What does kill -9 with 32 turns in flight lose, repeat and leave in doubt, and how soon does everything go on?

A turn is a pure step and three effects; each effect is one line in a file outside of every system. A process keeps 32
turns in flight and is killed with SIGKILL at a random moment. A new one recovers with no new traffic, and the lines are
counted. Systems take turns in every round, each round in an empty folder, and the moments follow from the seed.

    python -m benchmarks.crash_ledger              # ours beside DBOS and LangGraph, about a minute once installed
    python -m benchmarks.crash_ledger --no-peers   # ours alone, a few seconds
    python -m benchmarks.crash_ledger --json       # one JSON object as the last line

Peers are installed once, each into an environment of its own. Exit code 1 where ours lost, repeated, skipped or hid
anything; with --check also where recovery took longer than is promised. Recovery is timed by the new process from the
end of its imports: what its start costs is the row before. Only ratios travel from machine to machine.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.crash_ledger._counted import Counted, broken
from benchmarks.crash_ledger._envs import NotInstallable, default_folder, python_of
from benchmarks.crash_ledger._outside import IN_FLIGHT
from benchmarks.crash_ledger._round import OURS, ProgramFailed, Round, System, run_round

__all__ = ["SYSTEMS", "main"]

_DBOS: Final = ("dbos==3.4.0",)
_LANGGRAPH: Final = ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2")
SYSTEMS: Final = (
    System(
        "ours, ask",
        OURS,
        "ask",
        brings="Recovers by itself. An effect in doubt suspends its turn, is listed, and waits for somebody who knows: "
        "here, the world outside. One process on one file.",
    ),
    System("ours, probe", OURS, "probe", brings="As above; a function of the tool's looks into the world outside."),
    System(
        "DBOS 3.4",
        "benchmarks.crash_ledger._dbos",
        "default",
        _DBOS,
        "Recovers by itself, through a queue that it polls. Steps run at least once, as it documents: their authors "
        "make them idempotent. Also brings queues, forks, PostgreSQL and several processes.",
    ),
    System(
        "LangGraph sync",
        "benchmarks.crash_ledger._langgraph",
        "sync",
        _LANGGRAPH,
        "Resumes a thread that it is told to; the application looks for unfinished threads itself, as here. Nodes run "
        "at least once. Acknowledges nothing: counted as accepted when the second node runs, since the first one's "
        "checkpoint is stored then. Also brings a full snapshot of each step, to go back to.",
    ),
    System(
        "LangGraph async",
        "benchmarks.crash_ledger._langgraph",
        "async",
        _LANGGRAPH,
        "As above, with its default durability: a checkpoint is written while the next node runs, so the second "
        "node's start does not say that the turn is stored.",
    ),
)
RECOVERY_S_MAX: Final = 0.2
"""What is promised of a dead local owner's turns: all live again within this, beyond the start of a process."""

Measure = Callable[[Sequence[Counted]], float | None]
_MEASURES: Final[dict[str, Measure]] = {
    "acknowledged": lambda rounds: sum(found.acknowledged for found in rounds),
    "in flight at kill": lambda rounds: statistics.median(found.in_flight for found in rounds),
    "owed at kill": lambda rounds: sum(found.owed for found in rounds),
    "lost": lambda rounds: sum(found.lost for found in rounds),
    "effects": lambda rounds: sum(found.effects for found in rounds),
    "repeated": lambda rounds: sum(found.repeated for found in rounds),
    "skipped": lambda rounds: sum(found.skipped for found in rounds),
    "in doubt, listed": lambda rounds: _sum(found.in_doubt for found in rounds),
    "in doubt, hidden": lambda rounds: _sum(found.hidden for found in rounds),
    "process start s": lambda rounds: statistics.median(found.start_s for found in rounds),
    "first live s": lambda rounds: _median(found.first_live_s for found in rounds),
    "all live s": lambda rounds: _median(found.all_live_s for found in rounds),
    "all live s, worst": lambda rounds: max(_seen(found.all_live_s for found in rounds), default=None),
    "all ended s": lambda rounds: _median(found.ended_s for found in rounds),
}
"""What is printed: counts over all rounds; what was in flight, and times, as medians of the rounds."""


def _seen(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Any) -> float | None:
    seen = _seen(values)
    return sum(seen) if seen else None


def _median(values: Any) -> float | None:
    seen = _seen(values)
    return statistics.median(seen) if seen else None


class Ledger:
    """The rounds of every system, which systems were left out and why, and what went wrong in ours."""

    def __init__(self, folder: Path, seed: int, patience_s: float) -> None:
        """Start with none.

        Args:
            folder: where the rounds' folders are made; that of a round which broke a promise stays.
            seed: what the moments of the kills follow from.
            patience_s: how long a recovery may take.
        """
        self._folder = folder
        self._seed = seed
        self._patience_s = patience_s
        self.rounds: dict[System, list[Round]] = {}
        self.skipped: dict[str, str] = {}
        self.wrong: list[str] = []

    def run(self, system: System, python: Path, number: int) -> None:
        """Run one round of a system; a peer that fails is left out from then on."""
        if system.name in self.skipped:
            return
        folder = Path(tempfile.mkdtemp(prefix="crash-ledger-", dir=self._folder))
        try:
            found = run_round(system, python, folder, Random(f"{self._seed} {number}"), self._patience_s)
        except ProgramFailed as error:
            print(error, file=sys.stderr)
            wrong = [str(error)]
            if system.module != OURS:
                self.skipped[system.name] = "failed"
                self.rounds.pop(system, None)
        else:
            self.rounds.setdefault(system, []).append(found)
            wrong = [*broken(found.counted), *found.violations]
        if system.module == OURS and wrong:
            self.wrong += [f"{system.name}: {what} (round {number}, see {folder})" for what in wrong]
        else:
            shutil.rmtree(folder)

    def late(self) -> list[str]:
        """Return where ours took longer to recover than is promised."""
        slowest = {system: _worst(rounds) for system, rounds in self.rounds.items() if system.module == OURS}
        return [
            f"{system.name}: {worst:.3f} s until all was live, promised {RECOVERY_S_MAX:g}"
            for system, worst in slowest.items()
            if worst is not None and worst > RECOVERY_S_MAX
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of figures for each system that was measured."""
        return [
            {"system": system.name, "settings": rounds[0].settings}
            | {name: of([found.counted for found in rounds]) for name, of in _MEASURES.items()}
            for system, rounds in self.rounds.items()
        ]


def _worst(rounds: Sequence[Round]) -> float | None:
    return _MEASURES["all live s, worst"]([found.counted for found in rounds])


def pythons(envs: Path, skipped: dict[str, str], *, peers: bool) -> dict[System, Path]:
    """Return the interpreter of every system that can run here; the others are put into `skipped` with one word."""
    found: dict[System, Path] = {}
    for system in SYSTEMS:
        if not system.packages:
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


def show(ledger: Ledger, rounds: int, seed: int) -> None:
    """Print the table, how each store is durable, and what each system brings."""
    rows = ledger.rows()
    print(f"kill -9 with {IN_FLIGHT} turns in flight; {rounds} interleaved rounds, seed {seed}")
    print(f"  {'':18}" + "".join(f"{row['system']:>17}" for row in rows))
    for name in _MEASURES:
        print(f"  {name:18}" + "".join(f"{_cell(row[name]):>17}" for row in rows))
    for system, found in ledger.rounds.items():
        what = " ".join([system.name, *(f"[{package}]" for package in system.packages)])
        print(textwrap.fill(f"{what}: {found[0].settings}. {system.brings}", 118, subsequent_indent="  "))
    for name, reason in ledger.skipped.items():
        print(f"{name}: skipped, {reason}")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if isinstance(value, float) and not value.is_integer() else f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rounds and print the ledger; return 1 where ours broke a promise."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crash_ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="kills of each system")
    parser.add_argument("--seed", type=int, default=0, help="what the moments of the kills follow from")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--envs", type=Path, default=default_folder(), help="where the peers' environments are kept")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a recovery may take")
    parser.add_argument("--check", action="store_true", help="exit code 1 where recovery takes longer than promised")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    asked = parser.parse_args(arguments)
    if asked.rounds < 1:
        parser.error("--rounds must be 1 or more")
    ledger = Ledger(Path.cwd(), asked.seed, asked.patience)
    interpreters = pythons(asked.envs, ledger.skipped, peers=not asked.no_peers)
    for number in range(asked.rounds):
        for system, python in interpreters.items():
            ledger.run(system, python, number)
    show(ledger, asked.rounds, asked.seed)
    late = ledger.late()
    for line in [*ledger.wrong, *late]:
        print(f"broken: {line}")
    if asked.json:
        facts = {"benchmark": "crash_ledger", "python": platform.python_version(), "seed": asked.seed}
        found = {"rows": ledger.rows(), "skipped": ledger.skipped, "broken": ledger.wrong, "late": late}
        print(json.dumps({**facts, "rounds": asked.rounds, **found}))
    return 1 if ledger.wrong or (asked.check and late) else 0


if __name__ == "__main__":
    sys.exit(main())
