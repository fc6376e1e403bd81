"""Testing: the verification kit. Virtual time, seeded schedules, a store with faults, crash points, oracles.

    from turnkeeper.testing import Faults, World, each_crash, explore

    async def life(world: World) -> None:
        async with world.runtime([billing]) as runtime:
            await runtime.ask("session-1", "billing", {"order": "W42"}, key="msg-17")

    explore(life, range(1_000), faults=Faults(crash_rate=0.02))
    each_crash(life)

`turnkeeper.testing.conformance` checks a store of your own, `turnkeeper.testing.kills` and
`turnkeeper.testing.powercut` do to real processes and files what this does in memory. The pytest plugin gives
fixtures; see docs/testing.md.
"""

from turnkeeper.testing.checks import assert_no_violations
from turnkeeper.testing.faults import Fault, Faults
from turnkeeper.testing.loop import SeededLoop
from turnkeeper.testing.memory import Disk, MemoryStore
from turnkeeper.testing.runs import Outcome, each_crash, explore, run, shrink
from turnkeeper.testing.schedule import ReplayedSchedule, Schedule, SeededSchedule
from turnkeeper.testing.scripted import ScriptedFailure, scripted_agent
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.violated import Deadlocked, Stalled, Violated
from turnkeeper.testing.world import Life, Load, World

__all__ = [
    "Deadlocked",
    "Disk",
    "Fault",
    "Faults",
    "Life",
    "Load",
    "MemoryStore",
    "Outcome",
    "ReplayedSchedule",
    "Schedule",
    "ScriptedFailure",
    "SeededLoop",
    "SeededSchedule",
    "SimulatedWorld",
    "Stalled",
    "Violated",
    "World",
    "assert_no_violations",
    "each_crash",
    "explore",
    "run",
    "scripted_agent",
    "shrink",
]
