"""What does a session agent cost while nobody speaks to it?

Each of 100,000 sessions has one turn in a running runtime, and is idle then. An address has a session id of 20
characters. Counted are the bytes that are left for each (tracemalloc: containers, address and id included), the tasks
of the event loop, and how long it takes to look at them all (`tree()`) and to pause and resume their agent.

    python -m benchmarks.idle_agents                 # 100,000, about two minutes
    python -m benchmarks.idle_agents --agents 2000   # a few seconds
    python -m benchmarks.idle_agents --check         # exit code 1 where a target is missed
    python -m benchmarks.idle_agents --json          # one JSON object as the last line
"""

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from turnkeeper import Runtime, Settings, Turn, agent

BYTES_MAX = 500
"""Of one idle session agent, as promised."""

_AT_ONCE = 1_000


@agent("support")
async def support(turn: Turn) -> int:
    """Answer, so that there was a turn."""
    return turn.turn_id


async def visit(runtime: Runtime, sessions: int) -> None:
    """Have one turn in each of so many sessions, a thousand at a time; all are idle when this returns."""
    for first in range(0, sessions, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, sessions))
        await asyncio.gather(*(runtime.ask(f"session-{number:012}", "support", None) for number in some))
    await asyncio.sleep(0.1)  # who asked last has gone then, too


async def measure(sessions: int) -> dict[str, float]:
    """Return what so many idle session agents cost."""
    settings = Settings(synchronous="OFF", idle_agents_max=sessions + 1, lag_s=0)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        async with Runtime(Path(folder) / "idle.db", [support], settings=settings) as runtime:
            await runtime.ask("warm", "support", None)
            tasks = len(asyncio.all_tasks())
            tracemalloc.start()
            before, started_s = _bytes(), time.perf_counter()
            await visit(runtime, sessions)
            visited_s = time.perf_counter() - started_s
            left = _bytes() - before
            tracemalloc.stop()
            began_s = time.perf_counter()
            runtime.tree()
            looked_s = time.perf_counter() - began_s
            await runtime.say("agents/support", "pause")
            await runtime.say("agents/support", "resume")
            return {
                "idle session agents": runtime.statistics().agents - 1,
                "bytes each": left / sessions,
                "tasks before": tasks,
                "tasks after": len(asyncio.all_tasks()),
                "visits s (traced)": visited_s,
                "tree() s": looked_s,
                "pause and resume s": time.perf_counter() - began_s - looked_s,
            }


def _bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def main() -> None:
    """Measure, print one table, check the target where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=100_000, help="how many")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    asked = parser.parse_args()
    row = asyncio.run(measure(asked.agents))
    print("idle session agents of one runtime, SQLite WAL, synchronous=OFF")
    for name, value in row.items():
        print(f"  {name:20}{value:12,.3f}")
    missed = []
    if row["bytes each"] > BYTES_MAX:
        missed.append(f"an idle session agent costs {row['bytes each']:.0f} bytes, promised {BYTES_MAX}")
    if row["tasks after"] > row["tasks before"]:
        missed.append("idle session agents have tasks")
    for line in missed:
        print(f"missed: {line}")
    if asked.json:
        print(json.dumps({"row": row, "missed": missed}))
    sys.exit(1 if asked.check and missed else 0)


if __name__ == "__main__":
    main()
