"""Waits of a running turn: what its run stands on, and when that is all that it does."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from turnkeeper.actors.failures import REFUSALS, failure_of_refusal, recorded_refusal
from turnkeeper.actors.journal import Call, Journal
from turnkeeper.actors.node import Node
from turnkeeper.actors.nudges import drop_child, expire_waits, tell_of_child, tell_of_signals
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.tool import step_context
from turnkeeper.kernel.edge import Answer, Suspended, Wait
from turnkeeper.kernel.errors import ContractViolation, TurnkeeperError
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.step import StepRecord, StepStatus, check_same_call
from turnkeeper.kernel.verdict import Stop
from turnkeeper.kernel.wait import WaitKind

__all__ = ["Opening", "Waits"]

Opening = Callable[[Call], Awaitable[StepRecord]]
"""Begins a wait: writes its intent, and what it asks of others, and returns it as recorded."""

_answers: Final = msgspec.msgpack.Decoder(Answer)


class Waits:
    """What one run waits for.

    A wait is a step that nothing calls: its intent is recorded, and its answer comes from outside, whenever that is.
    While other steps run beside it the run goes on. Once it has done nothing but wait for `suspend_s`, its turn is
    suspended: the task ends, and the next run is answered from the record up to there.
    """

    __slots__ = ("_address", "_dues", "_journal", "_node", "_timer", "_turn", "under_way")

    def __init__(self, node: Node, address: Address, turn: OpenTurn, journal: Journal) -> None:
        """Wait for the run that begins now. `under_way` are the steps that run, or are about to."""
        self._node = node
        self._address = address
        self._turn = turn
        self._journal = journal
        self._timer: asyncio.TimerHandle | None = None
        self._dues: dict[int, asyncio.TimerHandle] = {}
        self.under_way: dict[int, StepName] = {}

    async def stand(self, call: Call | Exception, opening: Opening) -> Answer:
        """Wait for an answer, or return the recorded one.

        Where the handler cancels it, nobody waits any more: a child turn is cancelled as well, any other wait has no
        answer in any later run either, so that the handler comes to the same end.

        Raises:
            ContractViolation: it is asked for within a step.
            Deadlock, ...: what it asks of others was refused, now or when that was recorded (`REFUSALS`).
            ReplayDivergence: it is recorded with other arguments.
            StaleEpoch, ShuttingDown, StorageFailed: the run is to end, or has ended.
        """
        if isinstance(call, Exception):
            raise call
        self._journal.check_live()
        if _within_step():
            raise ContractViolation(str(call.name), "is asked for within a step; only a handler may wait")
        if self._turn.ending:
            await self.stand_by()
        known = self._turn.steps.get(call.name)
        fresh = known is None
        if known is not None:
            check_same_call(known, call.arguments)
            if known.status is StepStatus.RETRYING:  # its handler gave it up, and will again: it had no answer then
                await self.stand_by()
        if known is None:
            known = await self._opened(call, opening)
        if known.open and known.wait is not None:
            if known.issued in self._turn.standing:
                raise ContractViolation(str(known.name), "is being waited for already; a key names one wait of a turn")
            return await self._standing(known, known.wait, fresh=fresh)
        if known.failure is not None:
            raise recorded_refusal(known, known.failure)
        return _answers.decode(known.result)

    async def _opened(self, call: Call, opening: Opening) -> StepRecord:
        self.under_way[call.issued] = call.name
        try:
            return await opening(call)
        except REFUSALS as error:
            self._journal.refused(call, failure_of_refusal(error))
            raise
        finally:
            del self.under_way[call.issued]

    async def _standing(self, step: StepRecord, wait: Wait, *, fresh: bool) -> Answer:
        turn, node = self._turn, self._node
        self._journal.check_live()  # while it was opened, something of the record may have been refused
        answered: asyncio.Future[Answer] = node.loop.create_future()
        turn.standing[step.issued] = answered
        self._arm(step.issued, wait.due_at)
        if wait.child_id is not None and not fresh:  # it may have ended while nobody was there to be told
            node.start(tell_of_child(node, wait.child_id, turn.row.turn_id, self._address))
        if wait.kind == WaitKind.SIGNAL:  # it may have come before
            node.start(tell_of_signals(node, turn.row.turn_id, self._address))
        self.rest()
        try:
            return await answered
        except asyncio.CancelledError:
            if turn.stop is None and not self._journal.closed:
                self._give_up(step, wait)
            raise
        finally:
            self._dues.pop(step.issued).cancel()
            if turn.standing.get(step.issued) is answered:
                del turn.standing[step.issued]
            self.rest()

    def _give_up(self, step: StepRecord, wait: Wait) -> None:
        """Take note that the handler does not want the answer: or it would go to who no longer waits for it."""
        if self._turn.open_waits.pop(step.issued, None) is None:
            return  # it has its answer
        with suppress(TurnkeeperError):  # the run is over
            self._journal.given_up(step)
        if wait.child_id is not None:
            self._node.start(drop_child(self._node, wait.child_id))

    def drop_given_up(self) -> None:
        """Cancel child turns that an earlier run has given up: its process may have died before that was done."""
        for step in self._turn.steps.values():
            if step.status is StepStatus.RETRYING and step.wait is not None and step.wait.child_id is not None:
                self._node.start(drop_child(self._node, step.wait.child_id))

    def rest(self) -> None:
        """Let the turn be suspended soon, where its run does nothing but wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turn.standing and not self.under_way:
            self._timer = self._node.loop.call_later(self._node.settings.suspend_s, self._suspend)

    def _suspend(self) -> None:
        turn = self._turn
        self._timer = None
        if self.under_way or not turn.standing or turn.stop is not None or turn.ending or turn.broken is not None:
            return
        waits = [step.wait for step in turn.open_waits.values() if step.wait is not None]
        answered = turn.standing.keys() - turn.open_waits.keys()
        first = None if answered else turn.open_waits[min(turn.standing)].wait
        if first is None:  # an answer is on its way: it would find nobody who waits
            return
        turn.suspension = Suspended(first.kind, min(wait.due_at for wait in waits))
        turn.halt(Stop.SUSPEND)

    def _arm(self, issued: int, due_at: float) -> None:
        wait_s = max(0.0, due_at - self._node.clock.time())
        self._dues[issued] = self._node.loop.call_later(wait_s, self._due, issued, due_at)

    def _due(self, issued: int, due_at: float) -> None:
        if self._node.clock.time() < due_at:  # the wall clock goes slower than the loop's, or was put back
            self._arm(issued, due_at)
        else:
            self._node.start(expire_waits(self._node, self._turn.row.turn_id, self._address))

    def close(self) -> None:
        """Stop the clock, and whoever still waits: the run is over."""
        for answered in self._turn.standing.values():  # by a task that the handler started and forgot
            answered.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def stand_by(self) -> NoReturn:
        """Wait for the end of the run, which comes by cancellation."""
        while True:
            await self._node.loop.create_future()


def _within_step() -> bool:
    try:
        step_context()
    except LookupError:
        return False
    return True
