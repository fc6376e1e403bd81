"""Operation: what people do with a runtime's turns: answer doubts, fork, prune, back up."""

import asyncio
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from turnkeeper.actors.node import Node
from turnkeeper.actors.receipt import Receipt
from turnkeeper.actors.store.backup import backup
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.actors.waiting import Finding, check_finding
from turnkeeper.kernel.address import check_key
from turnkeeper.kernel.errors import (
    ContractViolation,
    IdempotencyConflict,
    KeyTaken,
    MailboxFull,
    StorageFailed,
    TurnNotFound,
    UnknownAgent,
)
from turnkeeper.kernel.fork import fork_of, same_fork
from turnkeeper.kernel.lifecycle import Arrival, Fork, accept
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import FRESH_KEY, payload_digest
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.supervisors.reception import Reception

__all__ = ["Operation"]

_PRUNED_AT_ONCE: Final = 500
"""Turns in one transaction: the writer is held up for some 10 ms."""


class Operation(ABC):
    """What is done to turns from outside. The agents concerned need not be among those the runtime was given."""

    _reception: Reception

    @abstractmethod
    def _open_node(self) -> Node:
        """Return the node; raise what says why there is none."""

    async def resolve(self, turn_id: int, finding: Finding, *, token: str) -> None:
        """Say what became of the effect that a suspended turn stands on; returns once that is durable.

        With `Happened(result)` the step has that result; with `DidNotHappen()` it is run; with `GiveUp()` it raises
        `EffectInDoubt`. In each case the turn goes on. Applied once: `token` is the doubt's own (`doubts` lists them),
        so an answer that is sent again settles nothing else.

        Raises:
            WaitTokenInvalid: the turn stands on no step in doubt, or not on this one.
            TurnNotFound: there is no such turn.
            ContractViolation, PayloadTooLarge: the result does not fit its tool, or cannot be stored.
        """
        node = self._open_node()
        check_finding(finding)
        _, address = await _turn(node, turn_id)
        async with node.hold(address, unserved=True) as agent:
            await agent.resolve(turn_id, finding, token)

    async def fork(self, turn_id: int, *, from_step: int, key: str | None = None) -> Receipt:
        """Begin a new turn of the same actor, with the same input and the record of the first `from_step` steps.

        Those steps are answered from the record: no effect among them is repeated, and one in doubt is in doubt again.
        Everything behind them is run anew (`effects_behind` says which effects). The source stays as it is. Asked for
        again under its `key`, it is the same fork.

        Raises:
            TurnNotFound: there is no such turn.
            ContractViolation: it has not so many steps, or is live and about to have an effect among them.
            IdempotencyConflict: the key stands for something else.
            As `tell`.
        """
        if key is not None:
            check_key(key)
        node = self._open_node()
        row, address = await _turn(node, turn_id)
        known = await node.store.receipt(row.actor_id, key) if key is not None else None
        if known is not None and node.clock.time() < known.expires_at:
            if not same_fork(await node.store.edges(known.turn_id), turn_id, from_step):
                raise IdempotencyConflict(known.key, known.turn_id)
            return self._reception.receipt_of(address, known)
        payload, taken = fork_of(turn_id, await node.store.edges(turn_id), from_step)
        try:
            receipt = await self._reception.admit(address, key, payload, fork=taken)
        except UnknownAgent:
            receipt = await _fork_unserved(node, address, key, payload, taken)
        if receipt.duplicate and not same_fork(await node.store.edges(receipt.turn_id), turn_id, from_step):
            raise IdempotencyConflict(receipt.key, receipt.turn_id)
        again = [str(step) for step in taken.again]
        node.log.warning("turn.forked", turn_id=receipt.turn_id, forked_from=turn_id, from_step=from_step, again=again)
        return receipt

    async def effects_behind(self, turn_id: int, *, from_step: int) -> list[str]:
        """Return the effects of a turn from a step on, which a fork from there may have once more. Changes nothing.

        Raises:
            TurnNotFound, ContractViolation: as `fork`.
        """
        _, taken = fork_of(turn_id, await self._open_node().store.edges(turn_id), from_step)
        return [str(step) for step in taken.again]

    async def prune(self, *, older_than_s: float) -> int:
        """Delete turns that ended longer ago, with their history; return how many. The file reuses their room.

        A turn goes only once it has ended and its key answers nothing any more (`idempotency_s`): what can be
        recovered, or asked for again, stays. So does the newest turn. With the setting `retention_s` this happens by
        itself.

        Raises:
            ContractViolation: `older_than_s` is negative, or no number.
            ShuttingDown, StorageFailed: what was pruned before stays pruned.
        """
        if not 0 <= older_than_s < math.inf:
            raise ContractViolation("older_than_s", f"must be zero or more, and finite; got {older_than_s!r}")
        pruned, gone = 0, _PRUNED_AT_ONCE
        while gone == _PRUNED_AT_ONCE:
            node = self._open_node()
            now = node.clock.time()
            gone = await node.store.prune(now - older_than_s, now, _PRUNED_AT_ONCE)
            pruned += gone
        return pruned

    async def backup(self, target: str | Path) -> int:
        """Copy the store, as it is at one moment, into a new file, while work goes on; return its size in bytes.

        The copy is a store: a runtime on it goes on with the turns that were live. Nothing is ever written over.

        Raises:
            StorageFailed: the target exists, or cannot be made; the disk is full; the store is no file.
        """
        store = self._open_node().store
        if not isinstance(store, SqliteStore):
            raise StorageFailed(store.path, "is no file that could be copied")
        return await asyncio.to_thread(backup, store.path, target)


async def _turn(node: Node, turn_id: int) -> tuple[TurnRow, Address]:
    row = await node.store.turn(turn_id)
    address = await node.store.look(lambda rows: rows.address(row.actor_id)) if row is not None else None
    if row is None or address is None:
        raise TurnNotFound(turn_id)
    return row, address


async def _fork_unserved(node: Node, address: Address, key: str | None, payload: bytes, taken: Fork) -> Receipt:
    """Leave a fork in the queue of an actor whose agent this runtime was not given."""
    actor_id = await node.store.actor_id(address)
    if actor_id is None:
        raise TurnNotFound(taken.turn_id)
    waiting = await node.store.look(lambda rows: len(rows.live_of(actor_id)))
    if waiting >= node.settings.mailbox_len_max:
        raise MailboxFull(str(address), node.settings.mailbox_len_max)
    node.persistence.check_room()
    turn_id, now = node.next_id(), node.clock.time()
    key = f"{FRESH_KEY}{turn_id}" if key is None else key
    old = await node.store.receipt(actor_id, key)
    retired = old.receipt_id if old is not None and now >= old.expires_at else None
    digest, expires_at = payload_digest(payload), now + node.settings.idempotency_s
    arrival = Arrival(turn_id, actor_id, key, payload, digest, now, expires_at, taken)
    try:
        await node.persistence.commit(accept(arrival, None, retired).records)
        node.counters.accepted += 1
    except KeyTaken:
        known = await node.store.receipt(actor_id, key)
        if known is None:
            raise
        return Receipt(node, address, key, known.turn_id, None, duplicate=True)
    return Receipt(node, address, key, turn_id, None, duplicate=False)
