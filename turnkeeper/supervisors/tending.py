"""Tending: looking into a running runtime's tree, and saying what is wanted of its agents and children."""

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from turnkeeper.actors.node import Node
from turnkeeper.actors.session import SessionAgent
from turnkeeper.kernel.errors import UnknownChild
from turnkeeper.kernel.lookback.past import listed
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import ChildEvent, Note
from turnkeeper.kernel.supervision.view import ChildView, Look
from turnkeeper.supervisors.carried import carried_out
from turnkeeper.supervisors.chronicle import Chronicle
from turnkeeper.supervisors.participants import Participants
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.staffs import Staffs
from turnkeeper.supervisors.supervisor import Supervisor

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
    _processes: Staffs
    _root: Supervisor
    participants: Participants
    _chronicle: Chronicle

    @abstractmethod
    def _open_node(self) -> Node:
        """Return the node; raise what says why there is none."""

    @abstractmethod
    def _present_node(self) -> Node:
        """Return the node of this boot, open or not."""

    def tree(self) -> ChildView:
        """Return the whole tree as it stands.

        That is the runtime's own parts, and under them agents with their mailboxes, worker processes, participants, and
        the children given to the runtime.

        Also of a runtime whose writer is coming up again, or that has given up.

        Raises:
            ShuttingDown: the runtime has never been entered.
        """
        node = self._present_node()
        held: dict[str, list[SessionAgent]] = {agent_id: [] for agent_id in self._reception.names()}
        for agent in self._reception.agents():
            held[agent.address.agent_id].append(agent)
        agents = [self._agent(node, agent_id, of_it) for agent_id, of_it in held.items()]
        root = self._root.view("runtime")
        parts = [replace(part, children=agents) if part.name == AGENTS else part for part in root.children]
        return replace(root, kind="runtime", incarnation=node.lease.boot_id, children=parts)

    def _agent(self, node: Node, agent_id: str, held: list[SessionAgent]) -> ChildView:
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

    def desired(self, path: str) -> Desired:
        """Return what is wanted of an agent or a child; of what nothing was ever said, that it runs."""
        return self._chronicle.desired(path)

    async def say(self, path: str, verb: Verb | str, reason: str = "", *, by: str = "") -> Desired:
        """Say what is wanted of an agent (`agents/billing`) or a child (`tree/shop/prices`); return what is wanted now.

        A paused agent accepts inbounds and starts no turn of them; a stopped or quarantined one also has its running
        turns taken back to their queues. Resuming, or releasing, lets them go on. Durable when it returns; saying again
        what is wanted already changes nothing.

        It can also be said of what this runtime was not given: of an agent that the store knows, and of whatever
        something was said before. It then holds once a runtime is given it.

        Raises:
            UnknownChild: nothing has this path.
            VerbRefused: the verb means nothing to what is wanted now.
            StorageFailed: it could not be recorded; nothing has changed.
            ShuttingDown: the runtime is not open.
        """
        self._open_node()
        return await carried_out(self._say(path, Verb(verb), reason, by=by))

    async def _say(self, path: str, verb: Verb, reason: str, *, by: str) -> Desired:
        kind, _, name = path.partition("/")
        if kind in {TREE, PROCESSES} and name:
            try:
                supervisor, child = self._find(kind, name)
            except UnknownChild as unknown:
                await self._check_kept(path, unknown.known)
            else:
                return await supervisor.tell(child, verb, reason, by=by)
        elif kind != AGENTS or name not in self._reception.names():
            children = [f"{TREE}/{child.name}" for child in self._tree.view(TREE, children_max=20).children]
            given = [f"{AGENTS}/{agent_id}" for agent_id in self._reception.names()]
            await self._check_kept(path, listed([*given, *children]) or "none")
        desired = await self._chronicle.say(path, verb, Note(reason, by=by))
        if kind == AGENTS:
            self._reception.want(name, desired)
            return desired
        with suppress(UnknownChild):  # unless it has come meanwhile
            supervisor, child = self._find(kind, name)
            return await supervisor.carry_out(child, reason)
        return desired

    async def _check_kept(self, path: str, given: str) -> None:
        """Let a path pass that the store knows, though this runtime was not given what it names.

        Raises:
            UnknownChild: the store does not know it either; `given` is what the runtime has.
        """
        kept = await self._open_node().store.look(_kept)
        if path not in kept:
            kind = path.partition("/")[0]
            alike = [one for one in kept if one.startswith(f"{kind}/")]
            raise UnknownChild(path, f"{given}; the store knows {listed(alike or kept) or 'none'}")

    async def ensure_running(self, path: str) -> None:
        """Return once a child (`tree/shop/prices`) runs; however many ask, it is started once.

        Raises:
            UnknownChild: nothing has this path.
            ChildQuarantined, ChildNotWanted: it is put away, or was told to rest.
            ChildNotStarted: it has ended, and is not brought back.
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


def _kept(rows: Rows) -> list[str]:
    """Return the paths that a store knows, by name: of its agents, and of whatever something was said of."""
    return sorted({f"{AGENTS}/{agent.agent_id}" for agent in rows.agents()} | {row.path for row in rows.desired()})
