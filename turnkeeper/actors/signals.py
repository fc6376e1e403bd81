"""Signals: named messages to an actor, each kept until a turn of it takes it."""

import asyncio
from collections.abc import Collection

import msgspec

from turnkeeper.actors.nudges import tell_of_signals
from turnkeeper.actors.standing import Standing
from turnkeeper.kernel.edge import Answer
from turnkeeper.kernel.errors import IdempotencyConflict, MailboxFull, TurnkeeperError
from turnkeeper.kernel.receipt import FRESH_KEY
from turnkeeper.kernel.records import ActorOpened, Record, SignalRetired, SignalSent, SignalTaken
from turnkeeper.kernel.signal import digested
from turnkeeper.kernel.step import StepRecord
from turnkeeper.kernel.wait import Outcome, WaitKind

__all__ = ["Signals"]


class Signals(Standing):
    """Turns that wait, some of them for signals, which may come before anybody waits."""

    __slots__ = ()

    async def signal(self, name: str, body: bytes, key: str | None) -> bool:
        """Keep a signal until a turn takes it; say whether it is new. Returns once that is durable.

        To be seen through: where it is cancelled, it may be durable and nobody told.

        Raises:
            IdempotencyConflict: the key stands for another signal.
            MailboxFull: too many wait; nothing was accepted.
        """
        node = self._node
        sending = node.sending.setdefault(self.actor_id, asyncio.Lock())
        async with sending:  # or two could both be new under one key, or both be the last that there is room for
            known = await node.store.waiting.signal(self.actor_id, key) if key is not None else None
            expired = known is not None and node.clock.time() >= known.expires_at
            if known is not None and not expired and (known.name, known.body) != (name, body):
                raise IdempotencyConflict(key or "", known.signal_id, "signal")
            new = known is None or expired
            if new:
                await self._send(name, body, key, [SignalRetired(known.signal_id)] if known is not None else [])
        for turn in self.open_turns():
            if turn.row.epoch:  # others have not come to any wait
                node.start(tell_of_signals(node, turn.row.turn_id, self.address))
        return new

    async def _send(self, name: str, body: bytes, key: str | None, retired: list[Record]) -> None:
        node, now = self._node, self._node.clock.time()
        if await node.store.waiting.signals_waiting(self.actor_id) >= node.settings.signals_max:
            waiting = "signals that no turn has taken (signals_max)"
            raise MailboxFull(str(self.address), node.settings.signals_max, waiting)
        number = node.next_signal_id()
        key = f"{FRESH_KEY}{number}" if key is None else key
        sent = digested(SignalSent(number, self.actor_id, name, key, body, now, now + node.settings.idempotency_s))
        first, self._opened = not self._opened, True
        opened = [ActorOpened(self.actor_id, *self.address)] if first else []
        try:
            await node.persistence.commit([*opened, *retired, sent])
        except TurnkeeperError:
            self._opened = self._opened and not first
            raise

    async def signalled(self, turn_id: int) -> None:
        """Give a turn the signals that it stands on and that have come."""
        turn = await self._at_rest(turn_id)
        steps = await self._open_waits(turn) if turn is not None else []
        waits = [step.wait for step in steps if step.wait is not None]
        for wait in waits:
            if wait.kind == WaitKind.SIGNAL:
                await self.take_signals(turn_id, wait.name)

    async def take_signals(self, turn_id: int, name: str) -> None:
        """Give a turn that waits for a signal the oldest one that nobody has taken, if there is one."""

        def its_wait(steps: Collection[StepRecord]) -> StepRecord | None:
            asked = ((step, step.wait) for step in steps if step.wait is not None)
            return next((step for step, wait in asked if (wait.kind, wait.name) == (WaitKind.SIGNAL, name)), None)

        turn = self.live(turn_id)
        if turn is None:
            return
        turn.taking = turn.taking or asyncio.Lock()
        async with turn.taking:
            found = await self._node.store.waiting.waiting_signal(self.actor_id, name)
            if found is not None:
                signal_id, body = found
                answer = Answer(Outcome.ANSWERED, self._node.clock.time(), body=msgspec.Raw(body))
                await self.answer(turn_id, its_wait, lambda _: answer, (SignalTaken(turn_id, signal_id),))
