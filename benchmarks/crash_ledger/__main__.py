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

import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks._programs import Rounds, System, cell, options
from benchmarks.crash_ledger._counted import Counted, broken
from benchmarks.crash_ledger._outside import IN_FLIGHT
from benchmarks.crash_ledger._round import OURS, Round, run_round

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


class Ledger(Rounds[Round]):
    """The rounds of every system."""

    def __init__(self, folder: Path, seed: int, patience_s: float) -> None:
        """Start with none.

        Args:
            folder: where the rounds' folders are made; that of a round which broke a promise stays.
            seed: what the moments of the kills follow from.
            patience_s: how long a recovery may take.
        """
        super().__init__(folder, patience_s)
        self._seed = seed

    def measure(self, system: System, python: Path, folder: Path, number: int) -> tuple[Round, list[str]]:
        """Run one round."""
        found = run_round(system, python, folder, Random(f"{self._seed} {number}"), self._patience_s)
        return found, [*broken(found.counted), *found.violations]

    def late(self) -> list[str]:
        """Return where ours took longer to recover than is promised."""
        slowest = {system: _worst(rounds) for system, rounds in self.rounds.items() if system.ours}
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


def show(ledger: Ledger, rounds: int, seed: int) -> None:
    """Print the table, how each store is durable, and what each system brings."""
    rows = ledger.rows()
    print(f"kill -9 with {IN_FLIGHT} turns in flight; {rounds} interleaved rounds, seed {seed}")
    print(f"  {'':18}" + "".join(f"{row['system']:>17}" for row in rows))
    for name in _MEASURES:
        print(f"  {name:18}" + "".join(f"{cell(row[name]):>17}" for row in rows))
    ledger.show_notes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rounds and print the ledger; return 1 where ours broke a promise."""
    late_too = "exit code 1 where recovery takes longer than promised"
    parser = options("crash_ledger", __doc__, rounds=5, check=late_too)
    parser.add_argument("--seed", type=int, default=0, help="what the moments of the kills follow from")
    asked = parser.parse_args(arguments)
    ledger = Ledger(Path.cwd(), asked.seed, asked.patience)
    ledger.run_all(SYSTEMS, asked)
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
