"""Process agents: agents whose handler runs in a child process, which says in JSON lines what it wants done."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.process.exchange import WorkerRaised, elsewhere
from turnkeeper.actors.process.exchange import own_step as worker_step
from turnkeeper.actors.process.life import Command
from turnkeeper.actors.process.limits import ProcessLimits
from turnkeeper.actors.process.pool import Crew, Pool
from turnkeeper.actors.process.worker import WorkerStatistics
from turnkeeper.actors.tool import Tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.address import check_name
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
    """An agent whose turns run in worker processes: a pool of them in each runtime, made with the first turn."""

    crew: Crew
    pools: dict[Node, Pool]

    async def handle(self, node: Node, turn: Turn) -> Any:
        """Run a turn on a worker of this runtime."""
        idle_s = node.settings.idle_s if self.idle_s is None else self.idle_s
        return await self._pool(node).run(turn, idle_s)

    def _pool(self, node: Node) -> Pool:
        pool = self.pools.get(node)
        if pool is None:
            for closed in [known for known in self.pools if known.closed]:
                del self.pools[closed]
            staff = node.staff(self.crew.name, self.crew.intensity)
            pool = self.pools[node] = Pool(self.crew, staff, node.log)
        return pool

    def workers(self) -> list[WorkerStatistics]:
        """Return how each worker stands, of every open runtime in this process that has run a turn of the agent."""
        return [worker.statistics() for node, pool in self.pools.items() if not node.closed for worker in pool.workers]


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
    `Runtime.tree` shows them and `child_events` what became of them, as `processes/<agent>/<n>`, of an agent with a
    version as `processes/<agent>@<version>/<n>`; `say` takes one from work, and brings it back.

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
        ValueError: workers_max is less than 1, the name or the version holds a slash, or the name an at sign.
        InvalidName: the version is longer than a name may be, or is not valid text.
    """
    if isinstance(command, str) or not command:
        msg = 'write the command as a list, such as ["python", "worker.py"]'
        raise TypeError(msg)
    if workers_max < 1:
        msg = f"workers_max must be 1 or more, not {workers_max}"
        raise ValueError(msg)
    declare = agent(agent_id, tools=tools, retry=retry, turn_s=turn_s, idle_s=idle_s, version=version, adopts=adopts)
    if "/" in agent_id or "/" in version:
        msg = f"agent {agent_id!r}, version {version!r}: no slash, since they are part of its workers' paths"
        raise ValueError(msg)
    if "@" in agent_id:
        msg = f"agent {agent_id!r}: no @, which stands before the version in its workers' paths"
        raise ValueError(msg)
    if version:
        check_name("version", version)
    started = Command(
        agent_id=agent_id,
        command=tuple(command),
        env=dict(env),
        cwd=None if cwd is None else str(cwd),
        limits=limits or ProcessLimits(),
    )
    crew = Crew(
        name=f"{agent_id}@{version}" if version else agent_id,
        command=started,
        steps={step.name: step for step in steps},
        workers_max=workers_max,
        intensity=intensity or Intensity(),
    )
    plain = {name: getattr(declare(elsewhere), name) for name in Agent.__struct_fields__}
    return ProcessAgent(**plain, crew=crew, pools={})


def python_worker(path: str | Path, *arguments: str) -> list[str]:
    """Return the command for a worker in Python that needs `turnkeeper.worker` and nothing else of the package.

    It starts in a tenth of the time, since `from turnkeeper.worker import run` then loads that one module alone.
    """
    here = Path(__file__).parents[2] / "worker.py"
    return [sys.executable, str(here), str(path), *arguments]
