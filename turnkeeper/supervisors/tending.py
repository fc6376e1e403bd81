"""Tending: looking into a running runtime's tree, and saying what is wanted of its agents and children."""

from abc import ABC, abstractmethod
from typing import Final

from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import UnknownChild
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import ChildEvent, Note
from turnkeeper.supervisors.chronicle import Chronicle
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.supervisor import Supervisor
from turnkeeper.supervisors.view import ChildView, Look

__all__ = ["AGENTS", "PROCESSES", "TREE", "Tending"]

AGENTS: Final = "agents"
"""The path of an agent is this, a slash and its name."""
PROCESSES: Final = "processes"
"""The path of a worker is this, a slash, its agent's name, a slash and its number from 1."""
TREE: Final = "tree"
"""The path of a child given to the runtime is this, a slash and the names that lead to it."""


class Tending(ABC):
    """What a runtime's tree is doing, and what is wanted of it. What is said holds for later runtimes, too."""

    _reception: Reception
    _tree: Supervisor
    _processes: Supervisor
    _chronicle: Chronicle

    @abstractmethod
    def _open_node(self) -> Node:
        """Return the node; raise what says why there is none."""

    def tree(self) -> ChildView:
        """Return the whole tree as it stands: agents with their mailboxes, and the children given to the runtime.

        Raises:
            ShuttingDown: the runtime is not open.
        """
        node = self._open_node()
        agents = [self._agent(node, agent_id) for agent_id in self._reception.names()]
        children = [
            ChildView(name=AGENTS, kind="agents", state="running", children=agents),
            self._processes.view(PROCESSES),
            self._tree.view(TREE),
        ]
        return ChildView(
            name="runtime", kind="runtime", state="running", incarnation=node.lease.boot_id, children=children
        )

    def _agent(self, node: Node, agent_id: str) -> ChildView:
        held = [agent for agent in self._reception.agents() if agent.address.agent_id == agent_id]
        running = [turn for agent in held if (turn := agent.current) is not None and turn.task is not None]
        now = node.loop.time()
        waiting = sum(len(agent.open_turns()) for agent in held) - len(running)
        look = Look(
            mailbox_len=waiting,
            running=len(running),
            progress_age_s=max((now - turn.progress_s for turn in running), default=None),
        )
        path = f"{AGENTS}/{agent_id}"
        return ChildView(name=agent_id, kind="agent", state="running", desired=self._chronicle.desired(path), look=look)

    async def say(self, path: str, verb: Verb | str, reason: str = "", *, by: str = "") -> Desired:
        """Say what is wanted of an agent (`agents/billing`) or a child (`tree/shop/prices`); return what is wanted now.

        A paused agent accepts inbounds and starts no turn of them; a stopped or quarantined one also has its running
        turns taken back to their queues. Resuming, or releasing, lets them go on. Durable when it returns; saying again
        what is wanted already changes nothing.

        Raises:
            UnknownChild: nothing has this path.
            VerbRefused: the verb means nothing to what is wanted now.
            StorageFailed: it could not be recorded; nothing has changed.
            ShuttingDown: the runtime is not open.
        """
        self._open_node()
        verb = Verb(verb)
        kind, _, name = path.partition("/")
        if kind == AGENTS and name in self._reception.names():
            desired = await self._chronicle.say(path, verb, Note(reason, by=by))
            self._reception.want(name, desired)
            return desired
        if kind in {TREE, PROCESSES} and name:
            supervisor, child = self._find(kind, name)
            return await supervisor.tell(child, verb, reason, by=by)
        raise UnknownChild(path, ", ".join(f"{AGENTS}/{name}" for name in self._reception.names()) or "none")

    async def ensure_running(self, path: str) -> None:
        """Return once a child (`tree/shop/prices`) runs; however many ask, it is started once.

        Raises:
            UnknownChild: nothing has this path.
            ChildQuarantined: it is put away, or stopped.
            ShuttingDown: the runtime, or its supervisor, is not open.
        """
        self._open_node()
        kind, _, name = path.partition("/")
        if kind not in {TREE, PROCESSES} or not name:
            raise UnknownChild(path, f"children under {TREE}/ and {PROCESSES}/")
        supervisor, child = self._find(kind, name)
        await supervisor.ensure_running(child)

    def _find(self, kind: str, names: str) -> tuple[Supervisor, str]:
        supervisor, (*above, last) = (self._tree if kind == TREE else self._processes), names.split("/")
        for name in above:
            child = supervisor.child(name).child
            if not isinstance(child, Supervisor):
                raise UnknownChild(f"{kind}/{names}", f"no children under {name}")
            supervisor = child
        supervisor.child(last)
        return supervisor, last

    async def child_events(self, path: str | None = None, *, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        """Return what was noted of agents and children, in the order of commits: the newest are kept.

        Args:
            path: of one of them; None for all.
            after: the number of the last event that is known already.
            limit: how many at most.

        Raises:
            ShuttingDown, StorageFailed: they cannot be read.
        """
        return await self._open_node().store.child_events(path, after, limit)
