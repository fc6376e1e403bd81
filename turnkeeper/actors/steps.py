"""Steps of a running turn: answered from the record where it has them, run and recorded where it has not."""

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import msgspec

from turnkeeper.actors.definitions import DidNotHappen, Happened, StepContext, Tool, step_scope
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.persistence import Told, settle
from turnkeeper.actors.values import encode
from turnkeeper.kernel.edge import (
    NOTHING,
    Detail,
    EdgeKind,
    Failure,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
)
from turnkeeper.kernel.errors import (
    ContractViolation,
    EffectInDoubt,
    ShuttingDown,
    StaleEpoch,
    StepFailed,
    StepLimitExceeded,
    ToolTimedOut,
    TurnkeeperError,
)
from turnkeeper.kernel.lifecycle import failure_of, observe
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.step import (
    COUNTED,
    Effect,
    OnDoubt,
    StepDecision,
    StepRecord,
    StepStatus,
    check_same_call,
    decide,
    idempotency_key,
)
from turnkeeper.kernel.verdict import Stop

__all__ = ["Steps"]

R = TypeVar("R")


class _Call(msgspec.Struct, frozen=True, gc=False):
    """One asked-for step: who it is, and what it is asked with."""

    issued: int
    name: StepName
    bound: msgspec.Struct
    arguments: bytes
    key: str


class Steps:
    """The steps of one run of a turn, issued in order and recorded as they end.

    `beside` are the tasks, other than the handler's own, in which a step is running. Once `over`, none may start.
    """

    __slots__ = ("_address", "_epoch", "_issued", "_keyed", "_node", "_of_name", "_turn", "beside", "over")

    def __init__(self, node: Node, address: Address, turn: OpenTurn) -> None:
        """Begin a run: numbering starts over, so a rerun asks for the same identities."""
        self._node = node
        self._address = address
        self._turn = turn
        self._epoch = turn.row.epoch
        self._issued = 0
        self._of_name: dict[str, int] = {}
        self._keyed: set[StepName] = set()
        self.beside: dict[asyncio.Task[Any], Effect] = {}
        self.over = False

    async def perform(self, tool: Tool[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> R:
        """Answer a step from the record, or run it and record it.

        Promises: an effectful or idempotent call starts only after its intent and everything before it is
        durable; the result is returned as the record holds it; cancelling the run leaves the intent standing.

        Raises:
            ContractViolation, PayloadTooLarge: the arguments do not fit; nothing was called.
            StepFailed: the tool raised, or returned what does not fit, now or when it was recorded.
            ToolTimedOut: it took longer than its `timeout_s`.
            EffectInDoubt: it may have happened, and its tool says to fail then.
            ReplayDivergence: it is recorded with other arguments.
            StepLimitExceeded: one step more than `steps_max`.
            StorageFailed: the record cannot be kept, so nothing was called.
        """
        self._check_live()
        call = self._issue(tool, tool.bind(args, kwargs))
        task = asyncio.current_task()
        if task is None or task is self._turn.task:
            return await self._once(tool, call)
        self.beside[task] = tool.effect
        try:
            return await self._once(tool, call)
        finally:
            self.beside.pop(task, None)

    async def _once(self, tool: Tool[..., R], call: _Call) -> R:
        """Let one call of a step with a key of its own run at a time."""
        if tool.call_key is None:
            return await self._decided(tool, call)
        if call.name in self._keyed:
            raise ContractViolation(f"step {call.name}", "is still running; a call key names one step of a turn")
        self._keyed.add(call.name)
        try:
            return await self._decided(tool, call)
        finally:
            self._keyed.discard(call.name)

    async def _decided(self, tool: Tool[..., R], call: _Call) -> R:
        """Do what the record says is to be done."""
        known = self._turn.steps.get(call.name)
        if known is not None:
            check_same_call(known, call.arguments)
        match decide(known, tool.effect):
            case StepDecision.ANSWER if known is not None:
                return tool.decode_result(known.result)
            case StepDecision.RAISE if known is not None and known.failure is not None:
                failed = ToolTimedOut if known.failure.type == ToolTimedOut.__name__ else StepFailed
                raise failed(call.name, known.effect, known.failure.type, known.failure.message)
            case StepDecision.DOUBT:
                return await self._settle_doubt(tool, call, "a crash", recorded=known)
            case _:
                return await self._run(tool, call)

    def _issue(self, tool: Tool[..., Any], bound: msgspec.Struct) -> _Call:
        settings = self._node.settings
        if self._issued >= settings.steps_max:
            raise StepLimitExceeded(self._turn.row.turn_id, settings.steps_max)
        name = self._name(tool)
        arguments = encode(bound, f"arguments of {tool.name}", settings.payload_bytes_max)
        pure = tool.effect is Effect.PURE
        key = "" if pure else idempotency_key(self._node.store_id, self._turn.row.turn_id, name)
        call = _Call(self._issued, name, bound, arguments, key)
        self._issued += 1
        return call

    def _name(self, tool: Tool[..., Any]) -> StepName:
        """Return the step's identity: its own key or, without one, the number of calls of its name."""
        if tool.call_key is not None:
            return StepName(tool.name, tool.call_key)
        nth = self._of_name.get(tool.name, 0)
        self._of_name[tool.name] = nth + 1
        return StepName(tool.name, f"{COUNTED}{nth}")

    async def _run(self, tool: Tool[..., R], call: _Call) -> R:
        if tool.effect is not Effect.PURE:
            arguments = msgspec.Raw(call.arguments)
            self._turn.uncalled[call.name] = None
            await self._commit(
                EdgeKind.STEP_INTENDED,
                StepIntent(call.issued, *call.name, tool.effect._value_, arguments, call.key),
            )
            self._turn.uncalled.pop(call.name, None)
            self._remember(tool, call, StepStatus.INTENDED, b"", None)
        try:
            self._reached("effect.before", call)
            result = await self._call_tool(tool, call)
            self._reached("effect.after", call)
            encoded, value = tool.encode_result(result, self._node.settings.payload_bytes_max)
        except TimeoutExpired as error:
            if tool.effect is Effect.EFFECTFUL:
                return await self._settle_doubt(tool, call, "a timeout", recorded=None)
            failure = Failure(ToolTimedOut.__name__, str(error))
            self._record_failure(tool, call, failure)
            raise ToolTimedOut(call.name, tool.effect._value_, failure.type, failure.message) from None
        except Exception as error:  # whatever a tool raises is its recorded outcome
            failure = failure_of(error)
            self._record_failure(tool, call, failure)
            raise StepFailed(call.name, tool.effect._value_, failure.type, failure.message) from error
        self._record_result(tool, call, encoded, _unless_intended(tool, call))
        self._node.counters.steps += 1
        return value

    def _reached(self, point: str, call: _Call) -> None:
        points = self._node.points
        if points is not None and call.key:
            points.reached(point, call.key)

    async def _call_tool(self, tool: Tool[..., R], call: _Call) -> R:
        with step_scope(self._context(call)):
            arguments = {name: getattr(call.bound, name) for name in call.bound.__struct_fields__}
            if tool.timeout_s is None:
                return await tool.function(**arguments)
            limit = asyncio.timeout(tool.timeout_s)
            try:
                async with limit:
                    return await tool.function(**arguments)
            except Exception as error:
                if not limit.expired():
                    raise  # the tool's own
                raise TimeoutExpired(f"took longer than {tool.timeout_s:g} s") from error  # whatever it made of it

    async def _settle_doubt(self, tool: Tool[..., R], call: _Call, why: str, recorded: StepRecord | None) -> R:
        """Do what the tool says about an effect that may have happened; the doubt itself is recorded first."""
        if recorded is None or recorded.status is not StepStatus.UNKNOWN:
            await self._commit(EdgeKind.STEP_UNKNOWN, StepDoubt(call.issued, *call.name, f"cut off by {why}"))
            self._remember(tool, call, StepStatus.UNKNOWN, b"", None)
        if tool.probe is not None:
            with step_scope(self._context(call)):
                arguments = {name: getattr(call.bound, name) for name in call.bound.__struct_fields__}
                found = await tool.probe(**arguments)
            if isinstance(found, Happened):
                encoded, value = tool.encode_result(found.result, self._node.settings.payload_bytes_max)
                self._record_result(tool, call, encoded, NOTHING)
                return value
            if not isinstance(found, DidNotHappen):  # a forgotten return must not repeat an effect
                said = f"must return Happened(...) or DidNotHappen(), not {found!r}"  # type: ignore[unreachable]
                raise ContractViolation(f"the probe of {tool.name}", said)
            return await self._run_again(tool, call, timed_out=recorded is None)
        match tool.on_doubt:
            case OnDoubt.RETRY:
                return await self._run_again(tool, call, timed_out=recorded is None)
            case OnDoubt.FAIL:
                raise EffectInDoubt(call.name, call.key)
            case OnDoubt.ASK:
                return await self._stand_on(call)

    async def _run_again(self, tool: Tool[..., R], call: _Call, *, timed_out: bool) -> R:
        """Run a step that may be repeated: now, or after a timeout in the turn's next attempt, which is bounded."""
        if timed_out:
            said = f"took longer than {tool.timeout_s:g} s"
            raise ToolTimedOut(call.name, Effect.IDEMPOTENT._value_, ToolTimedOut.__name__, said)
        return await self._run(tool, call)

    async def _stand_on(self, call: _Call) -> NoReturn:
        """Suspend the turn on the step: this run ends here, by cancellation."""
        due_at = self._node.clock.time() + self._node.settings.approval_s
        self._turn.suspension = Suspended("approval", due_at, call.name)
        self._turn.halt(Stop.SUSPEND)
        while True:
            await self._node.loop.create_future()

    def _context(self, call: _Call) -> StepContext:
        return StepContext(
            turn_id=self._turn.row.turn_id,
            session_id=self._address.session_id,
            agent_id=self._address.agent_id,
            attempt=self._turn.row.attempt,
            step=str(call.name),
            idempotency_key=call.key,
        )

    def _check_live(self) -> None:
        """Refuse to go on with a run that was told to stop, or has ended."""
        self._check_record()
        if self.over:
            raise StaleEpoch(self._turn.row.turn_id, self._epoch)
        if self._turn.stop is not None:
            raise ShuttingDown

    def _check_record(self) -> None:
        """Refuse to write for a run that is over, or whose record has a hole.

        A call may outlive its run: a task that the handler started and forgot. It must not write into the next.
        """
        if self._turn.row.epoch != self._epoch:
            raise StaleEpoch(self._turn.row.turn_id, self._epoch)
        if self._turn.broken is not None:
            raise self._turn.broken

    async def _commit(self, kind: EdgeKind, detail: Detail) -> None:
        """Append an edge and wait until it, and everything before it, is durable."""
        done: asyncio.Future[None] = self._node.loop.create_future()
        told = settle(done)

        def noted(error: TurnkeeperError | None) -> None:
            self._noted(error)
            told(error)

        self._append(kind, detail, noted)
        await done
        self._check_live()

    def _record(self, kind: EdgeKind, detail: Detail) -> None:
        """Append an edge without waiting: the next commit of this turn stands behind it."""
        self._append(kind, detail, self._noted)

    def _append(self, kind: EdgeKind, detail: Detail, told: Told) -> None:
        self._check_record()
        turn = self._turn
        change = observe(turn.row, kind, detail, self._node.clock.time())
        turn.row = change.row
        self._node.persistence.submit(change.records, told)

    def _noted(self, error: TurnkeeperError | None) -> None:
        if error is not None and self._turn.broken is None:
            self._turn.broken = error

    def _record_result(self, tool: Tool[..., Any], call: _Call, encoded: bytes, arguments: msgspec.Raw) -> None:
        self._record(EdgeKind.STEP_SUCCEEDED, StepResult(call.issued, *call.name, msgspec.Raw(encoded), arguments))
        self._remember(tool, call, StepStatus.SUCCEEDED, encoded, None)

    def _record_failure(self, tool: Tool[..., Any], call: _Call, failure: Failure) -> None:
        self._record(EdgeKind.STEP_FAILED, StepFailure(call.issued, *call.name, failure, _unless_intended(tool, call)))
        self._remember(tool, call, StepStatus.FAILED, b"", failure)

    def _remember(
        self, tool: Tool[..., Any], call: _Call, status: StepStatus, result: bytes, failure: Failure | None
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
        )


class TimeoutExpired(Exception):
    """A tool took longer than its `timeout_s`."""


def _unless_intended(tool: Tool[..., Any], call: _Call) -> msgspec.Raw:
    """Return the arguments for the outcome's edge of a pure step, which has no intent to hold them."""
    return msgspec.Raw(call.arguments) if tool.effect is Effect.PURE else NOTHING
