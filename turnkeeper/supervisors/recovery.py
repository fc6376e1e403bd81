"""Recovery: what a dead boot left running is taken back, and everything live goes on, without new traffic."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final

from turnkeeper.actors.node import Node
from turnkeeper.actors.nudges import drop_child, end_as_asked, tell_of_child, tell_of_signals
from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.errors import TurnkeeperError, UnknownAgent
from turnkeeper.kernel.lifecycle import requeue
from turnkeeper.kernel.ports import LiveTurn
from turnkeeper.kernel.turn import TurnRow, TurnState
from turnkeeper.supervisors.reception import Reception

__all__ = ["bring_back", "recover"]

_AT_ONCE_MAX: Final = 100
"""What is owed to turns and under way at once: none of it holds up the rest, and not all of it is in memory."""


async def recover(node: Node, reception: Reception) -> None:
    """Take back every turn that an earlier boot was running, then let every live turn go on in its order.

    Suspended turns, and those behind them, stay where they are: they come into memory once they are answered, or due.

    The owner lock says that the earlier boot is dead, so no lease is waited for. Turns of agents that this
    runtime was not given are taken back too, so that nothing is running for ever, and stay queued.

    Raises:
        StorageFailed: the store cannot be read or written; nothing was started.
    """
    waiting = node.store.waiting
    node.suspended = await waiting.suspended_count()  # all is read before any run can change it
    ended, orphaned = await waiting.answered_children(), await waiting.orphaned_children()
    ending, signalled = await waiting.ending_turns(), await waiting.signalled_turns()
    owed = [
        *(partial(end_as_asked, node, turn_id) for turn_id in ending),
        *(partial(tell_of_child, node, child_id, parent_id, None) for child_id, parent_id in ended),
        *(partial(drop_child, node, child_id) for child_id in orphaned),
        *(partial(tell_of_signals, node, turn_id, None) for turn_id in signalled),
    ]
    missing = await bring_back(node, reception, await node.store.awake_turns())
    for agent_id, turns in missing.items():
        node.log.warning("agent.missing", agent_id=agent_id, turns=turns)
    node.start(_catch_up(node, owed))


async def _catch_up(node: Node, owed: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Do what an earlier boot owed turns that wait, each on its own: ends, answers, signals."""
    under_way: set[asyncio.Task[None]] = set()
    for act in owed:
        if len(under_way) == _AT_ONCE_MAX:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        task = node.start(act())
        if task is None:
            return
        under_way.add(task)


async def bring_back(node: Node, reception: Reception, live: Sequence[LiveTurn]) -> dict[str, int]:
    """Give live turns that nobody holds to their session agents, in the order of acceptance, and let them go on.

    What is running there is taken back first. Returns how many turns each agent has that the runtime was not given.

    Raises:
        StorageFailed: the store cannot be written; nothing was started.
        TurnkeeperError: somebody else has written for one of them; nothing was started.
    """
    rows = await _take_back(node, live)
    agents = {}
    missing: dict[str, int] = {}
    for turn, row in zip(live, rows, strict=True):
        try:
            agent = reception.restored(turn.address, row.actor_id)
        except UnknownAgent as error:
            missing[error.agent_id] = missing.get(error.agent_id, 0) + 1
            continue
        agent.restore(turn, row)
        agents[turn.address] = agent
    for agent in agents.values():
        agent.proceed()
    return missing


async def _take_back(node: Node, live: Sequence[LiveTurn]) -> list[TurnRow]:
    """Requeue what is running, all in as few commits as the writer needs; return the rows as they are then."""
    rows: list[TurnRow] = []
    done: asyncio.Future[None] = node.loop.create_future()
    refused: list[TurnkeeperError] = []
    open_points = 1

    def told(error: TurnkeeperError | None) -> None:
        nonlocal open_points
        open_points -= 1
        if error is not None:
            refused.append(error)
        if open_points == 0 and not done.done():
            done.set_result(None)

    for turn in live:
        row = turn.row
        if row.state is TurnState.RUNNING:
            change = requeue(row, Requeued("recovery"), node.clock.time())
            open_points += 1
            node.persistence.submit(change.records, told)
            node.counters.recovered += 1
            row = change.row
        rows.append(row)
    told(None)
    await done
    if refused:
        raise refused[0]
    return rows
