"""Standing: what turns of an actor wait for, how each wait ends, and how a turn ends that somebody wants to end."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import msgspec

from turnkeeper.actors.nudges import cancel_turn, end_as_asked
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.persistence import settle
from turnkeeper.actors.run import recorded
from turnkeeper.actors.turns import Turns
from turnkeeper.actors.waiting import NO_DOUBT, Finding, check_finding, found_out, overdue
from turnkeeper.kernel.edge import (
    Answer,
    EdgeKind,
    PolicyResolved,
    Requeued,
    Resumed,
    encode_detail,
    encode_failure,
)
from turnkeeper.kernel.ending import cancelled
from turnkeeper.kernel.errors import StaleEpoch, TurnkeeperError, VersionConflict, WaitTokenInvalid
from turnkeeper.kernel.lifecycle import Change, answered, end, failure_of, observe, requeue, resume
from turnkeeper.kernel.records import EdgeAppended, Record
from turnkeeper.kernel.step import StepRecord, StepStatus
from turnkeeper.kernel.turn import TurnState
from turnkeeper.kernel.wait import EXPIRED, WaitKind

__all__ = ["Standing"]

Pick = Callable[[Collection[StepRecord]], StepRecord | None]
"""Chooses the wait that is answered among those that have no answer."""

Make = Callable[[StepRecord], Answer]
"""Makes its answer, or raises what says why it takes none."""


class Standing(Turns):
    """Turns that wait: a suspended one holds no task, and goes on once it is answered."""

    __slots__ = ()

    # ------------------------------------------------------------ answers

    async def answer(self, turn_id: int, pick: Pick, make: Make, beside: tuple[Record, ...] = ()) -> bool:
        """Answer a wait of a turn; say whether there was one. Returns once the answer is durable.

        It has one winner: whoever comes second, be it the deadline, finds no such wait. A turn that runs goes on with
        it, one that is suspended runs again, and one that has not come to the wait yet finds it answered.

        Args:
            turn_id: the turn.
            pick: which of its open waits.
            make: what it comes to.
            beside: records that stand or fall with the answer.

        Raises:
            StorageFailed: it is not durable.
            TurnkeeperError: whatever `make` raises; the wait stands as it was.
        """
        while (turn := self.live(turn_id)) is not None:
            if not turn.steady or (turn.request is not None and turn.row.state is not TurnState.RUNNING):
                await self._steadied(turn)
                continue
            seen = turn.row.edges
            steps = await self._open_waits(turn)
            if self.live(turn_id) is not turn or not turn.steady or turn.row.edges != seen:
                continue
            step = pick(steps)
            if step is None:
                return False
            await self._answer(turn, step, make(step), beside)
            return True
        return False

    async def _open_waits(self, turn: OpenTurn) -> list[StepRecord]:
        if turn.row.state is TurnState.RUNNING:
            return [*turn.open_waits.values()]
        return [step for step in (await recorded(self._node, turn.row.turn_id)).steps.values() if step.open]

    async def _at_rest(self, turn_id: int) -> OpenTurn | None:
        """Return a live turn once no move of it is under way: one that the store refuses takes it back again."""
        while (turn := self.live(turn_id)) is not None and not turn.steady:
            await self._steadied(turn)
        return turn

    def _steadied(self, turn: OpenTurn) -> "asyncio.Future[None]":
        """Return what is done once the move of a turn that is under way has come to its end."""
        if turn.lost is not None:
            raise turn.lost.anew()
        settled: asyncio.Future[None] = self._node.loop.create_future()
        turn.settling.append(settled)
        return settled

    async def _answer(self, turn: OpenTurn, step: StepRecord, answer: Answer, beside: tuple[Record, ...]) -> None:
        now, encoded = self._node.clock.time(), encode_detail(answer)
        change = answered(turn.row, step, answer, now)
        if step.wait is not None and step.wait.child_id is not None and turn.children:
            turn.children.pop(step.wait.child_id, None)
        if turn.row.state is TurnState.SUSPENDED:
            lease = self._node.lease
            await self._resume(turn, change, Resumed(lease.boot_id, lease.until), beside)
            return
        queued = turn.row.state is TurnState.QUEUED
        turn.row, turn.moving = change.row, queued  # what is read of a queued one must not lag behind its answer
        turn.open_waits.pop(step.issued, None)
        turn.roused = turn.suspension is not None
        if step.name in turn.steps:
            turn.steps[step.name] = msgspec.structs.replace(step, status=StepStatus.SUCCEEDED, result=encoded)
        done: asyncio.Future[None] = self._node.loop.create_future()
        told = settle(done)

        def noted(error: TurnkeeperError | None) -> None:
            standing = turn.standing.get(step.issued)
            if queued:
                turn.moving = False
                turn.settled()
            if error is not None:
                self._break_off(turn, error)
            elif standing is not None and not standing.done() and not turn.ending:
                standing.set_result(answer)
            told(error)
            self._next()

        self._node.persistence.submit([*change.records, *beside], noted)
        await done

    async def _resume(self, turn: OpenTurn, before: Change, found: Resumed, beside: tuple[Record, ...] = ()) -> None:
        """Let a suspended turn run again, with what it was told; one whose agent rests goes back to its queue."""
        node, now = self._node, self._node.clock.time()
        edges = [record for record in before.records if isinstance(record, EdgeAppended)]
        change = resume(before.row, node.lease, found, now, edges)
        records = [*change.records, *beside]
        rests = self._resting or node.closing
        if rests:
            waiting = requeue(change.row, Requeued("resolved"), now)
            change, records = waiting, [*records, *waiting.records]
        turn.row, turn.moving = change.row, True
        self._count(turn, suspended=False)
        turn.park()
        done: asyncio.Future[None] = node.loop.create_future()
        told = settle(done)

        def resumed(error: TurnkeeperError | None) -> None:
            turn.moving = False
            if error is None and rests:
                self._place(turn)
            else:
                self._acquired(turn, error)
            turn.settled()
            told(error)

        node.persistence.submit(records, resumed)
        await done

    async def child_ended(self, turn_id: int, child_id: int, answer: Answer) -> None:
        """Answer the wait for a child turn; does nothing where it has its answer, or the turn has ended."""
        turn = self.live(turn_id)
        if turn is not None and turn.children:  # also where nobody waits for it any more
            turn.children.pop(child_id, None)

        def its_wait(steps: Collection[StepRecord]) -> StepRecord | None:
            return next((step for step in steps if step.wait is not None and step.wait.child_id == child_id), None)

        await self.answer(turn_id, its_wait, lambda _: answer)

    # ------------------------------------------------------------ deadlines

    def _stand(self, turn: OpenTurn) -> None:
        """Let a suspended turn stand until it is answered, or until the first of its deadlines."""
        if turn.doubt is not None:
            self._node.log.warning("turn.suspended", turn_id=turn.row.turn_id, address=str(self.address))
        self._node.on_due(turn.row.due_at or 0.0)

    async def expire(self, turn_id: int) -> None:
        """Let the waits of a turn end whose time is over; an answer that comes first wins.

        Raises:
            StorageFailed: it stands still; to be called again.
        """
        turn = self.live(turn_id)
        if turn is not None and turn.steady and turn.row.state is TurnState.SUSPENDED:
            doubt = next((wait for wait in turn.stands if wait.kind == WaitKind.DOUBT), None)
            if doubt is not None and doubt.due_at <= self._node.clock.time():
                await self._fail_of_doubt(turn)
                return

        def over(steps: Collection[StepRecord]) -> StepRecord | None:
            now = self._node.clock.time()
            return next((step for step in steps if step.wait is not None and step.wait.due_at <= now), None)

        def expired(step: StepRecord) -> Answer:
            kind = WaitKind(step.wait.kind) if step.wait is not None else WaitKind.TIMER
            return Answer(EXPIRED[kind], self._node.clock.time())

        while await self.answer(turn_id, over, expired):
            pass

    async def _fail_of_doubt(self, turn: OpenTurn) -> None:
        stood_at = turn.row.version
        error = await overdue(self._node, turn.row.turn_id)
        if turn.row.version == stood_at and turn.steady and not self._node.closing:
            failure = encode_failure(failure_of(error))
            done: asyncio.Future[None] = self._node.loop.create_future()
            self._move(turn, end(turn.row, EdgeKind.TURN_FAILED, failure, self._node.clock.time()), settle(done))
            await done

    async def resolve(self, turn_id: int, finding: Finding, token: str) -> None:
        """Say what became of the effect a suspended turn stands on; the turn then runs again.

        Raises:
            WaitTokenInvalid: the turn does not stand on this doubt, or has been answered.
            ContractViolation, PayloadTooLarge: the result cannot be stored.
        """
        check_finding(finding)
        turn = await self._at_rest(turn_id)
        if turn is None or turn.row.state is not TurnState.SUSPENDED:
            raise WaitTokenInvalid(turn_id, NO_DOUBT)
        asked_at = turn.row.version
        found = await found_out(self._node, turn_id, finding, token, self.definition)
        if turn.row.version != asked_at or not turn.steady:
            raise WaitTokenInvalid(turn_id, "it has been answered already, or its time was over")
        await self._resume(turn, Change(turn.row, []), found)

    # ------------------------------------------------------------ ends that somebody wants

    async def cancel(self, turn_id: int, request: PolicyResolved) -> None:
        """End a live turn as cancelled, its children first; returns once that is durable.

        One that runs ends at its next safe point: no step starts any more, and those that have an intent are waited
        for. Asked for again, it is the same end.

        Raises:
            StorageFailed: it may go on.
        """
        made = noted = False
        while (turn := self.live(turn_id)) is not None:
            if not turn.steady:
                await self._steadied(turn)
                continue
            if turn.row.state is TurnState.RUNNING:
                await self._ask_to_end(turn, request)
                continue
            if turn.request is None:  # no answer is taken from now on
                made, turn.request = True, request
            try:
                if turn.children is None:
                    await self.learn_children()
                if made and not noted and turn.children:  # or one of their ends could let it go on, after a crash
                    await self._note_request(turn, request)
                    noted = True
                await self._end_at_rest(turn, request)
            except BaseException:
                if noted:
                    self._node.start(end_as_asked(self._node, turn_id))
                elif made:
                    turn.request = None
                turn.settled()
                raise

    async def _end_at_rest(self, turn: OpenTurn, request: PolicyResolved) -> None:
        """End a turn that does not run, its children first; does nothing where it moves meanwhile."""
        for child_id in [*(turn.children or ())]:
            await cancel_turn(self._node, child_id, request)
        if self.live(turn.row.turn_id) is turn and turn.steady and turn.task is None:
            await self._cancel_waiting(turn, request)

    async def end_as_asked(self, turn_id: int) -> None:
        """End a turn of which an earlier runtime has recorded that it is to end, and not come to that."""
        request = (await recorded(self._node, turn_id)).request
        if request is not None:
            await self.cancel(turn_id, request)

    async def _ask_to_end(self, turn: OpenTurn, request: PolicyResolved) -> None:
        """Record that a running turn is to end, which a crash does not undo; wait until it does not run so any more.

        Its run may have been stopped for another reason before: then it goes back to its queue.
        """
        if turn.request is None:
            turn.request = request
            try:
                await self._note_request(turn, request)
                for child_id in [*(turn.children or ())]:
                    await cancel_turn(self._node, child_id, request)
            finally:  # whatever fails, no step of it starts any more
                if turn.run is not None:
                    turn.run.wind_up()
        if turn.row.state is TurnState.RUNNING:
            await self._steadied(turn)

    async def _note_request(self, turn: OpenTurn, request: PolicyResolved) -> None:
        """Record that somebody wants a turn to end."""
        change = observe(turn.row, EdgeKind.POLICY_RESOLVED, request, self._node.clock.time())
        turn.row = change.row
        noted: asyncio.Future[None] = self._node.loop.create_future()
        told = settle(noted)

        def written(error: TurnkeeperError | None) -> None:
            if error is not None:
                self._break_off(turn, error)
            told(error)

        self._node.persistence.submit(change.records, written)
        await noted

    def _break_off(self, turn: OpenTurn, error: TurnkeeperError) -> None:
        fresh = turn.broken is None
        turn.break_off(error)
        if fresh and turn.row.state is not TurnState.RUNNING:  # no run's end reads it again
            self._node.start(self.resync_turn(turn))

    async def _cancel_waiting(self, turn: OpenTurn, request: PolicyResolved) -> None:
        """End a turn that does not run: it is suspended, or in its queue."""
        done: asyncio.Future[None] = self._node.loop.create_future()
        turn.disarm()
        self._move(turn, cancelled(turn.row, request, (), self._node.clock.time()), settle(done))
        with suppress(StaleEpoch, VersionConflict):  # it is not what memory took it for, and is read again
            await done
