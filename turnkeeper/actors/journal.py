"""The journal: what one run of a turn writes about its steps, fenced by the run's epoch."""

import asyncio
from functools import partial
from typing import Any

import msgspec

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.persistence import Told, conclude
from turnkeeper.actors.tool import Tool
from turnkeeper.kernel.edge import (
    NOTHING,
    Detail,
    EdgeKind,
    Failure,
    Packet,
    PolicyResolved,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Wait,
)
from turnkeeper.kernel.errors import ShuttingDown, StaleEpoch, TurnkeeperError
from turnkeeper.kernel.lifecycle import Change, observe
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.records import Record
from turnkeeper.kernel.step import Effect, StepRecord, StepStatus

__all__ = ["Call", "Journal"]


class Call(msgspec.Struct, frozen=True, gc=False):
    """One asked-for step: who it is, and what it is asked with. `key` is its idempotency key, "" for a pure one.

    `bound` are its arguments as its tool has them; None for a wait, which nothing calls.
    """

    issued: int
    name: StepName
    bound: Any
    arguments: bytes
    key: str


class Journal:
    """Writes the steps of one run.

    Once the handler is `over` no step starts; those under way may still be recorded. Once the run is `closed`, or its
    record has a hole, nothing more is written: what its tasks still try gets `StaleEpoch`.
    """

    __slots__ = ("_epoch", "_node", "_turn", "closed", "over")

    def __init__(self, node: Node, turn: OpenTurn) -> None:
        """Write for the run that begins now: in the turn's present epoch."""
        self._node = node
        self._turn = turn
        self._epoch = turn.row.epoch
        self.over = self.closed = False

    def check_live(self) -> None:
        """Refuse to go on with a run that was told to stop, or has ended.

        Raises:
            StaleEpoch, ShuttingDown, StorageFailed: why not.
        """
        self._check_record()
        if self.over:
            raise StaleEpoch(self._turn.row.turn_id, self._epoch)
        if self._turn.stop is not None:
            raise ShuttingDown

    def _check_record(self) -> None:
        """Refuse to write for a run that is over, or whose record has a hole.

        A call may outlive its run: a task that the handler started and forgot, or a handler that would not stop. It
        must not write into the next.
        """
        if self.closed or self._turn.row.epoch != self._epoch:
            raise StaleEpoch(self._turn.row.turn_id, self._epoch)
        if self._turn.broken is not None:
            raise self._turn.broken

    def heartbeat(self) -> None:
        """Take note that the run gets on.

        Raises:
            StaleEpoch, ShuttingDown, StorageFailed: it is to end, or has ended.
        """
        self.check_live()
        self._turn.get_on(self._node.loop.time())

    def put_off(self) -> None:
        """Take note that the run waits for what is not its own doing: it is not stuck, and does not get on.

        Raises:
            StaleEpoch, ShuttingDown, StorageFailed: it is to end, or has ended.
        """
        self.check_live()
        self._turn.put_off(self._node.loop.time())

    # ------------------------------------------------------------ what happens to a step

    async def intend(self, tool: Tool[..., Any], call: Call) -> None:
        """Record that a tool is about to be called; durable, with everything before it, when this returns.

        Until it is `calling`, a run that ends leaves no doubt about it.
        """
        arguments = msgspec.Raw(call.arguments)
        self._turn.uncalled[call.name] = None
        await self._committed(
            EdgeKind.STEP_INTENDED,
            StepIntent(call.issued, *call.name, tool.effect._value_, arguments, call.key, tool.contract),
        )
        self.check_live()
        self._remember(tool, call, StepStatus.INTENDED)

    def calling(self, call: Call) -> None:
        """Take note that the tool is called now: from here on a cut leaves a doubt."""
        self._turn.uncalled.pop(call.name, None)

    def succeeded(self, tool: Tool[..., Any], call: Call, encoded: bytes, *, intended: bool) -> None:
        """Record a result; not waited for: the next commit of this turn stands behind it."""
        arguments, contract = (NOTHING, "") if intended else (msgspec.Raw(call.arguments), tool.contract)
        result = StepResult(call.issued, *call.name, msgspec.Raw(encoded), arguments, contract)
        self._record(EdgeKind.STEP_SUCCEEDED, result)
        self._remember(tool, call, StepStatus.SUCCEEDED, result=encoded)

    def failed(
        self, tool: Tool[..., Any], call: Call, failure: Failure, retry_at: float | None, *, returned: bool
    ) -> None:
        """Record a failure, and when the step is called again if it is; not waited for."""
        pure = tool.effect is Effect.PURE
        arguments, contract = (msgspec.Raw(call.arguments), tool.contract) if pure else (NOTHING, "")
        outcome = StepFailure(call.issued, *call.name, failure, arguments, contract, retry_at, returned)
        self._record(EdgeKind.STEP_FAILED, outcome)
        if retry_at is None:
            self._remember(tool, call, StepStatus.FAILED, failure=failure)

    async def doubted(self, tool: Tool[..., Any], call: Call, why: str) -> None:
        """Record that nobody knows how a call ended; durable when this returns."""
        await self._committed(EdgeKind.STEP_UNKNOWN, StepDoubt(call.issued, *call.name, why))
        self.check_live()
        self._remember(tool, call, StepStatus.UNKNOWN)

    def cut_off(self, tool: Tool[..., Any], call: Call, why: str) -> None:
        """Record that nobody knows how a call ended, of a run that goes on; not waited for."""
        self._record(EdgeKind.STEP_UNKNOWN, StepDoubt(call.issued, *call.name, why))
        self._remember(tool, call, StepStatus.UNKNOWN)

    def resolved(self, call: Call, policy: str, found: str = "") -> None:
        """Record what the tool's policy made of a doubt; not waited for."""
        self._record(EdgeKind.POLICY_RESOLVED, PolicyResolved(*call.name, policy, found))

    # ------------------------------------------------------------ what it waits for

    def opened(self, call: Call, wait: Wait) -> StepRecord:
        """Record what the turn waits for; not waited for: the next commit of this turn stands behind it."""
        self._record(EdgeKind.STEP_INTENDED, _intent(call, wait))
        return self.remember_open(call, wait)

    def opening(self, call: Call, wait: Wait, packet: Packet | None) -> list[Record]:
        """Return what records a wait for a child turn, to be committed with that turn; with `noted` told of it."""
        self._check_record()
        turn = self._turn
        turn.get_on(self._node.loop.time())
        now = self._node.clock.time()
        change = observe(turn.row, EdgeKind.STEP_INTENDED, _intent(call, wait), now)
        if packet is not None:
            handed = observe(change.row, EdgeKind.HANDOFF_INITIATED, packet, now)
            change = Change(handed.row, [*change.records, *handed.records])
        turn.row = change.row
        return change.records

    def remember_open(self, call: Call, wait: Wait) -> StepRecord:
        """Keep a wait in memory, as the record has it."""
        step = StepRecord(
            issued=call.issued, name=call.name, status=StepStatus.INTENDED, arguments=call.arguments, wait=wait
        )
        self._turn.steps[call.name] = self._turn.open_waits[call.issued] = step
        return step

    def given_up(self, step: StepRecord) -> None:
        """Record that the handler does not want the answer of a wait; not waited for."""
        now = self._node.clock.time()
        why = Failure("GivenUp", "its handler no longer waits for it")
        self._record(EdgeKind.STEP_FAILED, StepFailure(step.issued, *step.name, why, retry_at=now))
        self._turn.steps[step.name] = msgspec.structs.replace(step, status=StepStatus.RETRYING, retry_at=now)

    def refused(self, call: Call, failure: Failure) -> None:
        """Record that a turn may not wait for that, so that whoever asks again is told the same; not waited for."""
        outcome = StepFailure(call.issued, *call.name, failure, msgspec.Raw(call.arguments))
        self._record(EdgeKind.STEP_FAILED, outcome)
        self._turn.steps[call.name] = StepRecord(
            issued=call.issued, name=call.name, status=StepStatus.FAILED, arguments=call.arguments, failure=failure
        )

    def escalated(self, packet: Packet) -> None:
        """Record that a matter goes to people; not waited for."""
        self._record(EdgeKind.ESCALATION_STARTED, packet)

    # ------------------------------------------------------------ how it is written

    def _committed(self, kind: EdgeKind, detail: Detail) -> "asyncio.Future[None]":
        """Append an edge; return what is done once it, and everything before it, is durable."""
        done: asyncio.Future[None] = self._node.loop.create_future()
        self._append(kind, detail, partial(self._settle, done))
        return done

    def _settle(self, done: "asyncio.Future[None]", error: TurnkeeperError | None) -> None:
        self.noted(error)
        conclude(done, None, error)

    def _record(self, kind: EdgeKind, detail: Detail) -> None:
        self._append(kind, detail, self.noted)

    def _append(self, kind: EdgeKind, detail: Detail, told: Told) -> None:
        self._check_record()
        turn = self._turn
        turn.get_on(self._node.loop.time())
        change = observe(turn.row, kind, detail, self._node.clock.time())
        turn.row = change.row
        self._node.persistence.submit(change.records, told)

    def noted(self, error: TurnkeeperError | None) -> None:
        """Take note of what became of a write: once one is refused, nothing more may be written on top of it."""
        if error is not None:
            self._turn.break_off(error)

    def _remember(
        self,
        tool: Tool[..., Any],
        call: Call,
        status: StepStatus,
        *,
        result: bytes = b"",
        failure: Failure | None = None,
    ) -> None:
        """Keep the outcome of a step with a key of its own: the same run may ask for it again."""
        if tool.call_key is None:
            return
        self._turn.steps[call.name] = StepRecord(
            issued=call.issued,
            name=call.name,
            status=status,
            arguments=call.arguments,
            effect=tool.effect,
            idempotency_key=call.key,
            result=result,
            failure=failure,
            contract=tool.contract,
        )


def _intent(call: Call, wait: Wait) -> StepIntent:
    return StepIntent(call.issued, *call.name, Effect.PURE._value_, msgspec.Raw(call.arguments), "", "", wait)
