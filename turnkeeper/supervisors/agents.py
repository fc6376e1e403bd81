"""The session agents as a child: they take up what the store holds when they start, and hand it back when they stop."""

import asyncio
from collections.abc import Awaitable, Callable

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.kernel.verdict import Stop
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.recovery import recover

__all__ = ["LAST_WORDS_S", "Agents"]

LAST_WORDS_S = 1.0
"""How long a cancelled handler may take to clean up before its runtime goes on without it."""


class Agents:
    """Everything that runs turns.

    It does not end by itself: a session agent is a mailbox, and what crashes in it is a turn. It goes down with the
    writer it stands on, and comes up as a new process would: by recovery.
    """

    __slots__ = ("_node", "_reception", "_take_up", "_working_for")

    def __init__(
        self, reception: Reception, working_for: Callable[[], Node], take_up: Callable[[Node], Awaitable[None]]
    ) -> None:
        """Describe them.

        Args:
            reception: where they are.
            working_for: returns the node that they work for.
            take_up: finds out what is wanted of them, before any turn goes on.
        """
        self._reception = reception
        self._working_for = working_for
        self._take_up = take_up
        self._node: Node | None = None

    def start(self, exited: Exited) -> Awaitable[None]:  # noqa: ARG002 - they do not end by themselves
        """Find out what is wanted, and recover.

        Raises:
            StorageFailed: from the awaitable: the store cannot be read or written.
        """
        return self._starting()

    async def _starting(self) -> None:
        node = self._node = self._working_for()
        self._reception.serve(node)
        await self._take_up(node)
        await recover(node, self._reception)
        node.open = True

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:  # noqa: ARG002 - the setting of that name
        """Give running turns their time to end, and take the others back to their queues; answer everyone who waits.

        Where the writer has crashed nothing can end: turns are cut off at once, and recovery finds them.
        """
        node = self._node
        return None if node is None else self._stopping(node, 0.0 if node.failed else node.settings.shutdown_s)

    async def _stopping(self, node: Node, shutdown_s: float) -> None:
        node.closing = True
        await self._stop_turns(shutdown_s)
        for task in list(node.tasks):
            task.cancel()
        if node.tasks:
            await asyncio.wait(list(node.tasks), timeout=LAST_WORDS_S)
        await node.persistence.flush()
        await self._reception.settle()
        node.closed = True
        self._reception.abandon(node.gone)

    async def _stop_turns(self, shutdown_s: float) -> None:
        running = [turn for agent in self._reception.agents() if (turn := agent.current) and turn.task]
        await _ended(running, shutdown_s)
        for turn in running:
            if turn.task is not None:
                turn.halt(Stop.SHUTDOWN)
        await _ended(running, LAST_WORDS_S)
        for turn in running:
            if turn.run is not None:
                turn.run.give_up()


async def _ended(running: list[OpenTurn], timeout_s: float) -> None:
    tasks = [turn.task for turn in running if turn.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)
