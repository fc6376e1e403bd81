"""How many durable turns a second, beside what SQLite and the event loop allow?

A turn is three tool calls, each durable before the next starts, then its result. Closed loop, one turn at a time in
each session. The floor (`_floor.py`) is raw sqlite3 with one writer thread and group commit on the same workload, its
rounds taking turns with ours in one run. Lockstep flatters every store: sessions that never wait share their commits.

    python -m benchmarks.durable_turns               # 1, 64 and 1,024 sessions, about a minute
    python -m benchmarks.durable_turns --quick       # a few seconds
    python -m benchmarks.durable_turns --check       # exit code 1 where a target is missed
    python -m benchmarks.durable_turns --json        # one JSON object as the last line
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._floor import run_floor
from benchmarks._workload import Ran, drive, search
from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool

TARGETS: dict[int, dict[str, tuple[Callable[[float, float], bool], float]]] = {
    1: {"p50 x floor": (float.__le__, 2.0)},
    64: {
        "turns x floor": (float.__ge__, 0.35),
        "commits/turn": (float.__le__, 0.3),
        "cpu ms/turn": (float.__le__, 0.25),
    },
}
"""What is promised, by sessions: the measure, the comparison, the bound."""


@tool(effect=Effect.IDEMPOTENT)
async def searching(step: int, turn: str) -> dict[str, Any]:
    """The tool of the workload: its class makes each result durable before the next call."""
    return await search(step, turn)


@agent("bench")
async def bench(turn: Turn) -> list[int]:
    """The workload as a handler."""
    return [(await turn.call(searching, step=step, turn=turn.key))["step"] for step in range(3)]


async def run_ours(folder: Path, synchronous: str, sessions: int, seconds: float) -> Ran:
    """Drive the runtime and return what it did."""
    settings = Settings(synchronous=synchronous)
    async with Runtime(folder / "ours.db", [bench], settings=settings) as runtime:

        async def turn(session: str, key: str) -> object:
            return (await runtime.ask(session, "bench", key, key=key)).value

        return await drive(turn, lambda: runtime.statistics().persistence.commits, sessions, seconds)


def measure(sessions: int, rounds: int, seconds: float, synchronous: str) -> dict[str, float]:
    """Return the medians of interleaved rounds, ours beside the floor."""
    ours: list[Ran] = []
    floor: list[Ran] = []
    for _ in range(rounds):
        for run, kept in ((run_floor, floor), (run_ours, ours)):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                kept.append(asyncio.run(run(Path(folder), synchronous, sessions, seconds)))
    ratios = [mine.turns / mine.seconds / (its.turns / its.seconds) for mine, its in zip(ours, floor, strict=True)]
    return {
        "sessions": sessions,
        "turns/s": _median(ours, lambda ran: ran.turns / ran.seconds),
        "floor turns/s": _median(floor, lambda ran: ran.turns / ran.seconds),
        "turns x floor": statistics.median(ratios),
        "spread": max(ratios) - min(ratios),
        "p50 ms": _median(ours, lambda ran: _percentile(ran, 0.5)),
        "p50 x floor": _median(ours, lambda ran: _percentile(ran, 0.5)) / _median(floor, lambda r: _percentile(r, 0.5)),
        "p99 ms": _median(ours, lambda ran: _percentile(ran, 0.99)),
        "floor p99 ms": _median(floor, lambda ran: _percentile(ran, 0.99)),
        "cpu ms/turn": _median(ours, lambda ran: ran.cpu_s / ran.turns * 1e3),
        "floor cpu ms/turn": _median(floor, lambda ran: ran.cpu_s / ran.turns * 1e3),
        "commits/turn": _median(ours, lambda ran: ran.commits / ran.turns),
    }


def _median(rounds: list[Ran], of: Callable[[Ran], float]) -> float:
    return statistics.median(of(ran) for ran in rounds)


def _percentile(ran: Ran, share: float) -> float:
    ordered = sorted(ran.latencies_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


def main() -> None:
    """Measure, print one table, check the targets where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--sessions", default="1,64,1024", help="how many, comma-separated")
    parser.add_argument("--synchronous", default="FULL", help="SQLite's durability setting")
    asked = parser.parse_args()
    rounds, seconds = (3, 0.5) if asked.quick else (5, 2.0)
    rows = [measure(int(n), rounds, seconds, asked.synchronous) for n in asked.sessions.split(",")]
    print(f"durable turns, SQLite WAL, synchronous={asked.synchronous}; {rounds} interleaved rounds of {seconds:g} s")
    for name in rows[0]:
        print(f"  {name:18}" + "".join(f"{row[name]:12,.3f}" for row in rows))
    missed = [
        f"{row['sessions']:g} sessions: {name} is {row[name]:.3f}, promised {bound}"
        for row in rows
        for name, (holds, bound) in TARGETS.get(int(row["sessions"]), {}).items()
        if not holds(float(row[name]), bound)
    ]
    for line in missed:
        print(f"missed: {line}")
    if asked.json:
        print(json.dumps({"synchronous": asked.synchronous, "rows": rows, "missed": missed}))
    sys.exit(1 if asked.check and missed else 0)


if __name__ == "__main__":
    main()
