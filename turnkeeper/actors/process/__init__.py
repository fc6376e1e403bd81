"""Process agents: agents whose handler runs in a child process, which says in JSON lines what it wants done."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.process.exchange import WorkerRaised
from turnkeeper.actors.process.exchange import own_step as worker_step
from turnkeeper.actors.process.life import Command
from turnkeeper.actors.process.limits import ProcessLimits
from turnkeeper.actors.process.pool import Crew, Pool
from turnkeeper.actors.process.seat import SeatStatistics
from turnkeeper.actors.tool import Tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.supervision.intensity import Intensity

__all__ = [
    "ProcessAgent",
    "ProcessLimits",
    "WorkerRaised",
    "process_agent",
    "python_worker",
    "worker_step",
]


class ProcessAgent(Agent, frozen=True, kw_only=True):
    """An agent whose turns run in worker processes."""

    def workers(self) -> list[SeatStatistics]:
        """Return how each worker stands, of every runtime in this process that has run a turn of the agent."""
        return [one for pool in self._pools() for one in pool.statistics()]

    def release(self) -> None:
        """Let workers be started again that fell too often, once they are mended."""
        for pool in self._pools():
            pool.release()

    def _pools(self) -> list[Pool]:
        return list(cast("_Processes", self.handler).pools.values())


class _Processes:
    """The handler of a process agent: a pool for each runtime, made with the first turn, gone when it closes."""

    __slots__ = ("_crew", "_idle_s", "pools")

    def __init__(self, crew: Crew, idle_s: float | None) -> None:
        self._crew = crew
        self._idle_s = idle_s
        self.pools: dict[Node, Pool] = {}

    async def __call__(self, turn: Turn) -> Any:
        node = turn._steps._node  # noqa: SLF001 - the one place where a handler is part of its runtime
        pool = self.pools.get(node)
        if pool is None:
            if node.closing:  # nobody would stop it; the run is about to be told to yield
                await asyncio.get_running_loop().create_future()
            pool = self.pools[node] = Pool(self._crew, node.chance, node.log)
            node.start(self._keep(node, pool))
        return await pool.run(turn, node.settings.idle_s if self._idle_s is None else self._idle_s)

    async def _keep(self, node: Node, pool: Pool) -> None:
        """Hold the pool until the runtime closes, which cancels this."""
        try:
            await node.loop.create_future()
        finally:
            try:
                await pool.stop()
            finally:
                del self.pools[node]


def process_agent(  # noqa: PLR0913 - the declaration's parts, each by name
    agent_id: str,
    command: Sequence[str],
    *,
    tools: Sequence[Tool[..., Any]] = (),
    steps: Sequence[Tool[..., Any]] = (),
    workers_max: int = 1,
    env: Mapping[str, str] = MappingProxyType({}),
    cwd: str | Path | None = None,
    limits: ProcessLimits | None = None,
    intensity: Intensity | None = None,
    retry: Retry | None = None,
    turn_s: float | None = None,
    idle_s: float | None = None,
    version: str = "",
    adopts: Sequence[str] = (),
) -> ProcessAgent:
    """Declare an agent whose handler runs in a child process; docs/processes.md says how to write one.

    Workers are started when turns come, and stopped with the runtime, at the latest when it is killed. One that
    dies in the middle of a turn is replaced, and the turn runs again: what is recorded is answered from the record.

    Args:
        agent_id: the agent's name in addresses.
        command: program and arguments of a worker.
        tools: of the runtime, which workers may call by name.
        steps: declared with `worker_step`: what is known of steps that workers do by themselves.
        workers_max: workers at once, each with one turn at a time; further turns wait.
        env: added to the environment of this process.
        cwd: where workers run; None for where this process does.
        limits: what a worker may take.
        intensity: how often one may fall, and the pauses before it is started again.
        retry: what to do with a turn that raised; None means the runtime's settings.
        turn_s: wall time one run of a turn may take, the wait for a worker included.
        idle_s: how long a worker may go without progress: a step, or a heartbeat that says so.
        version: as for `agent`.
        adopts: as for `agent`.

    Raises:
        TypeError: the name, or the command, is missing.
        ValueError: workers_max is less than 1.
    """
    if isinstance(command, str) or not command:
        msg = 'write the command as a list, such as ["python", "worker.py"]'
        raise TypeError(msg)
    if workers_max < 1:
        msg = f"workers_max must be 1 or more, not {workers_max}"
        raise ValueError(msg)
    started = Command(
        agent_id=agent_id,
        command=tuple(command),
        env=dict(env),
        cwd=None if cwd is None else str(cwd),
        limits=limits or ProcessLimits(),
    )
    own = {step.name: step for step in steps}
    crew = Crew(command=started, steps=own, workers_max=workers_max, intensity=intensity or Intensity())
    declare = agent(agent_id, tools=tools, retry=retry, turn_s=turn_s, idle_s=idle_s, version=version, adopts=adopts)
    plain = declare(_Processes(crew, idle_s))
    return ProcessAgent(**{name: getattr(plain, name) for name in plain.__struct_fields__})


def python_worker(path: str | Path, *arguments: str) -> list[str]:
    """Return the command for a worker in Python that needs `turnkeeper.worker` and nothing else of the package.

    It starts in a tenth of the time, since `from turnkeeper.worker import run` then loads that one module alone.
    """
    here = Path(__file__).parents[2] / "worker.py"
    return [sys.executable, str(here), str(path), *arguments]
