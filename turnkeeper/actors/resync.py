"""Resync: what a turn is, read again from the store after the store has refused a write of it."""

import asyncio

import msgspec

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.lifecycle import requeue
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState

__all__ = ["resync"]


async def resync(node: Node, turn: OpenTurn) -> tuple[TurnRow | None, Deliverable | None]:
    """Return a turn as the store has it, running no more; tries, with backoff, for as long as the store fails.

    What is in memory ran ahead of what is stored, and the store is right. A turn that is still running there is
    taken back to its queue; its rerun is answered from what was recorded. A queued one waits for a backoff that
    grows with the times it has stumbled. A terminal one comes with its deliverable; None was never stored.
    """
    turn_id, pause_s = turn.row.turn_id, 0.0
    while True:
        await asyncio.sleep(pause_s)
        pause_s = min(node.settings.retry_cap_s, 2 * pause_s + node.settings.retry_base_s)
        turn.rereading = True
        try:
            await node.persistence.commit(())  # behind all that was written for it before: the row lacks none of that
            row = await node.store.turn(turn_id)
            now = node.clock.time()
            due_at = now + node.settings.backoff_s(turn.stumbles, node.chance.random())
            if row is not None and row.state is TurnState.QUEUED:
                row = msgspec.structs.replace(row, due_at=max(due_at, row.due_at or 0.0))
            if row is not None and row.state is TurnState.RUNNING:
                change = requeue(row, Requeued("storage", due_at, forgotten=[*turn.uncalled]), now)
                await node.persistence.commit(change.records)
                row = change.row
            ended = row is not None and row.state in TERMINAL
            deliverable = await node.store.deliverable(turn_id) if ended else None
        except TurnkeeperError as error:
            node.log.warning("turn.resync_failed", turn_id=turn_id, error=type(error).__name__)
        else:
            node.log.warning("turn.resynced", turn_id=turn_id, state=str(row and row.state))
            return row, deliverable
        finally:
            turn.rereading = False
            turn.settled()
