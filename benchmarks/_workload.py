"""The workload of durable turns, and how it is driven: the same for the runtime and for its floor."""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

_WARM_TURNS = 3


class Ran(NamedTuple):
    """What one round did. Times in seconds, CPU of the whole process."""

    turns: int
    seconds: float
    cpu_s: float
    commits: int
    latencies_s: list[float]


async def search(step: int, turn: str) -> dict[str, Any]:
    """Answer like a tool that costs nothing: what is measured is what a runtime adds."""
    return {"tool": "search", "ok": True, "text": "x" * 160, "step": step, "turn": turn}


async def drive(
    turn: Callable[[str, str], Awaitable[object]], commits: Callable[[], int], sessions: int, seconds: float
) -> Ran:
    """Run turns in a closed loop, one at a time in each session, and count those that completed."""
    for number in range(_WARM_TURNS):
        await asyncio.gather(*(turn(f"s{session}", f"warm-{session}-{number}") for session in range(sessions)))
    latencies_s: list[float] = []
    before, cpu_before, started_s = commits(), _cpu_s(), time.perf_counter()
    stop_s = started_s + seconds

    async def worker(session: int) -> None:
        number = 0
        while (began_s := time.perf_counter()) < stop_s:
            await turn(f"s{session}", f"{session}-{number}")
            latencies_s.append(time.perf_counter() - began_s)
            number += 1

    await asyncio.gather(*(worker(session) for session in range(sessions)))
    took_s = time.perf_counter() - started_s
    return Ran(len(latencies_s), took_s, _cpu_s() - cpu_before, commits() - before, latencies_s)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
