"""Steps of a running turn: answered from the record where it has them, run and recorded where it has not."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from turnkeeper.actors.calls import Calls, Expired, cut_short
from turnkeeper.actors.failures import error_of, failure_of_call, recorded_error
from turnkeeper.actors.journal import Call, Journal
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.tool import DidNotHappen, Happened, Tool
from turnkeeper.actors.values import encode
from turnkeeper.actors.waits import Waits
from turnkeeper.kernel.errors import (
    ContractViolation,
    EffectInDoubt,
    StepLimitExceeded,
)
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.step import (
    COUNTED,
    Effect,
    OnDoubt,
    StepDecision,
    StepRecord,
    StepStatus,
    check_same_call,
    check_same_contract,
    decide,
    idempotency_key,
)
from turnkeeper.kernel.verdict import Stop

__all__ = ["Steps"]

R = TypeVar("R")

_EFFECTFUL: Final = frozenset({Effect.EFFECTFUL})
_INTENDED: Final = frozenset({Effect.EFFECTFUL, Effect.IDEMPOTENT})
"""Steps that are recorded before they are called."""


class Steps:
    """The steps of one run of a turn, issued in order and recorded as they end.

    `beside` are the tasks, other than the handler's own, in which a step is running.
    """

    __slots__ = (
        "_calls",
        "_issued",
        "_keyed",
        "_node",
        "_of_name",
        "_turn",
        "beside",
        "journal",
        "waits",
    )

    def __init__(self, node: Node, address: Address, turn: OpenTurn) -> None:
        """Begin a run: numbering starts over, so a rerun asks for the same identities."""
        self._node = node
        self._turn = turn
        self.journal = Journal(node, turn)
        self._issued = 0
        self._of_name: dict[str, int] = {}
        self._keyed: set[StepName] = set()
        self._calls = Calls(node, address, turn, self.journal)
        self.waits = Waits(node, address, turn, self.journal)
        self.beside: dict[asyncio.Task[Any], Effect] = {}

    @property
    def closed(self) -> bool:
        """Say whether the run is over for its turn."""
        return self.journal.closed

    def end(self) -> None:
        """Let no step start any more: the handler has ended."""
        self.journal.over = True

    def close(self) -> None:
        """Let nothing more be written: the run is over for its turn, whatever a task of it still does."""
        self.journal.over = self.journal.closed = True
        self.waits.close()

    def abandon(self) -> None:
        """Show the doubts about effects under way, in a run whose handler would not stop; cancel what is beside it."""
        self._calls.abandon()
        self.close()
        for task in self.beside:
            task.cancel()

    async def wind_up(self) -> None:
        """End a run whose turn somebody wants to end, at its next safe point.

        No step starts any more. Those that have an intent are waited for, so that none is left without a result; pure
        ones and waits are cut.
        """
        await self._calls.quiet(_INTENDED)
        if not self.journal.closed:
            self._turn.dropped = [str(name) for name in self.waits.under_way.values()]
            self._turn.halt(Stop.CANCEL)

    def heartbeat(self) -> None:
        """Take note that the run gets on; see `Turn.heartbeat`."""
        self.journal.heartbeat()

    def put_off(self) -> None:
        """Take note that the run waits for what is not its own doing; see `Turn.put_off`."""
        self.journal.put_off()

    def issue(self, tool: Tool[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | Exception:
        """Give a step its place and its name, at the moment it is asked for and not when it comes to run.

        So steps side by side have the same identities in every run, however the loop takes them. What is wrong with
        the arguments is returned, for `perform` to raise where the step is awaited.
        """
        if not isinstance(tool, Tool):
            msg = f"{tool!r} is no tool: declare it with @tool, or run it with turn.step"  # type: ignore[unreachable]
            return TypeError(msg)
        try:
            self.journal.check_live()
            return self._issue(tool, tool.bind(args, kwargs))
        except Exception as error:  # noqa: BLE001 - it is raised where the step is awaited
            return error

    def issue_wait(self, name: str, arguments: Mapping[str, Any], key: str | None) -> Call | Exception:
        """Give a wait its place and its name, as `issue` does; `key` is a call key of its own."""
        try:
            self.journal.check_live()
            self._check_room()
            encoded = encode(arguments, f"arguments of {name}", self._node.settings.payload_bytes_max)
            return self._next_call(self._counted(name) if key is None else _keyed(name, key), None, encoded, "")
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            return error

    def _check_room(self) -> None:
        steps_max = self._node.settings.steps_max
        if self._issued >= steps_max:
            raise StepLimitExceeded(self._turn.row.turn_id, steps_max)

    def _next_call(self, name: StepName, bound: msgspec.Struct | None, arguments: bytes, key: str) -> Call:
        call = Call(self._issued, name, bound, arguments, key)
        self._issued += 1
        return call

    def _issue(self, tool: Tool[..., Any], bound: msgspec.Struct) -> Call:
        settings = self._node.settings
        self._check_room()
        arguments = encode(bound, f"arguments of {tool.name}", settings.payload_bytes_max)
        tool.check_approved(arguments)
        name = self._name(tool)
        bound = tool.as_recorded(bound, arguments)
        pure = tool.effect is Effect.PURE
        key = "" if pure else idempotency_key(self._node.store_id, self._turn.row.turn_id, name)
        return self._next_call(name, bound, arguments, key)

    def _name(self, tool: Tool[..., Any]) -> StepName:
        """Return the step's identity: its own key or, without one, the number of calls of its name."""
        if tool.call_key is not None:
            return StepName(tool.name, tool.call_key)
        return self._counted(tool.name)

    def _counted(self, name: str) -> StepName:
        nth = self._of_name.get(name, 0)
        self._of_name[name] = nth + 1
        return StepName(name, f"{COUNTED}{nth}")

    # ------------------------------------------------------------ answer or run

    async def perform(self, tool: Tool[..., R], issued: Call | Exception) -> R:
        """Answer a step from the record, or run it and record it.

        Promises: an effectful or idempotent call starts only after its intent and everything before it is
        durable; the result is returned as the record holds it; cancelling the run leaves the intent standing.

        Raises:
            ContractViolation, PayloadTooLarge: the arguments do not fit; nothing was called.
            StepFailed: the tool raised, or returned what does not fit, now or when it was recorded.
            ToolTimedOut: it took longer than its `timeout_s`.
            EffectInDoubt: it may have happened, and its tool, or a person, says to fail then.
            TimeoutError, ...: what its probe raised.
            ReplayDivergence: it is recorded with other arguments.
            ContractChanged: it is recorded under another contract.
            StepLimitExceeded: one step more than `steps_max`.
            StorageFailed: the record cannot be kept, so nothing was called.
        """
        if isinstance(issued, Exception):
            raise issued
        self.journal.check_live()
        under_way, turn, task = self.waits.under_way, self._turn, asyncio.current_task()
        under_way[issued.issued] = issued.name
        perform = self._decided if tool.call_key is None else self._alone
        try:
            if turn.ending:
                await self.waits.stand_by()
            if task is None or task is turn.task:
                return await perform(tool, issued)
            with self._in(task, tool.effect):
                return await perform(tool, issued)
        finally:
            del under_way[issued.issued]
            if turn.standing and not under_way:
                self.waits.rest()

    @contextmanager
    def _in(self, task: "asyncio.Task[Any]", effect: Effect) -> Iterator[None]:
        """Know meanwhile that the run has a step in a task beside its handler's."""
        around = self.beside.get(task)  # a step within a step of the same task
        self.beside[task] = effect
        try:
            yield
        finally:
            if around is None:
                self.beside.pop(task, None)
            else:
                self.beside[task] = around

    async def _alone(self, tool: Tool[..., R], call: Call) -> R:
        """Let one call of a step with a key of its own run at a time."""
        if call.name in self._keyed:
            raise ContractViolation(f"step {call.name}", "is still running; a call key names one step of a turn")
        self._keyed.add(call.name)
        try:
            return await self._decided(tool, call)
        finally:
            self._keyed.discard(call.name)

    async def _decided(self, tool: Tool[..., R], call: Call) -> R:
        """Do what the record says is to be done."""
        known = self._turn.steps.get(call.name)
        if known is not None:
            if check_same_contract(known, tool.contract, tool.accepts):
                check_same_call(known, call.arguments)
            if known.idempotency_key:  # a fork's step keeps the key that it was called under
                call = msgspec.structs.replace(call, key=known.idempotency_key)
            if call.key in self._node.late:
                await self._node.no_longer_late(call.key)
                self.journal.check_live()
        match decide(known, tool.effect):
            case StepDecision.ANSWER if known is not None:
                return tool.decode_result(known.result)
            case StepDecision.RAISE if known is not None:
                raise recorded_error(known)
            case StepDecision.DOUBT:
                try:
                    return await self._settle_doubt(tool, call, "a crash", recorded=known)
                except _MayRunAgain:
                    return await self._run(tool, call, known)
            case _:
                return await self._run(tool, call, known)

    async def _run(self, tool: Tool[..., R], call: Call, known: StepRecord | None) -> R:
        """Call the tool until it has an outcome: as often as its policy for failures says."""
        pure = tool.effect is Effect.PURE
        failures, retry_at = (known.failures, known.retry_at) if known is not None else (0, None)
        while True:
            if retry_at is not None:
                await self._wait_until(retry_at, tool)
            if self._turn.ending:
                await self.waits.stand_by()
            if not pure:
                await self._intend(tool, call)
            returned = False
            try:
                result = await self._calls.call(tool, call)
                returned = True
                encoded, value = tool.encode_result(result, self._node.settings.payload_bytes_max)
            except Exception as error:
                if cut_short(error):
                    raise  # it has no outcome: the next run does what its effect says
                if isinstance(error, Expired) and tool.effect is Effect.EFFECTFUL:
                    with suppress(_MayRunAgain):  # as often as a failure may, or it could be for ever
                        return await self._settle_doubt(tool, call, "a timeout", recorded=None)
                failures += 1
                retry_at = self._failed(tool, call, error, failures, returned=returned)
            else:
                self.journal.succeeded(tool, call, encoded, intended=not pure)
                self._node.counters.steps += 1
                return value

    def _failed(self, tool: Tool[..., Any], call: Call, error: Exception, failures: int, *, returned: bool) -> float:
        """Record a failed call; return when the step is to be called again (wall time, s).

        Raises:
            StepFailed: it has failed for good.
        """
        failure, retry = failure_of_call(tool, error, returned=returned), tool.retry
        if retry is not None and failure.recoverable and failures <= retry.retries_max:
            retry_at = self._node.clock.time() + retry.pause_s(failures, self._node.chance.random())
            self.journal.failed(tool, call, failure, retry_at, returned=returned)
            return retry_at
        if tool.effect is Effect.EFFECTFUL and not isinstance(error, Expired):  # no retry of the turn calls it again
            failure = msgspec.structs.replace(failure, recoverable=False)
        self.journal.failed(tool, call, failure, None, returned=returned)
        raise error_of(call.name, tool.effect._value_, failure) from error

    async def _intend(self, tool: Tool[..., Any], call: Call) -> None:
        """Bring the intent to the disk. A step of a turn that is about to be suspended is not called any more."""
        await self.journal.intend(tool, call)
        if self._turn.ending:
            await self.waits.stand_by()
        self.journal.calling(call)

    async def _wait_until(self, retry_at: float, tool: Tool[..., Any]) -> None:
        wait_s = retry_at - self._node.clock.time()
        longest_s = tool.retry.cap_s if tool.retry is not None else self._node.settings.retry_cap_s
        pause_s = min(max(wait_s, 0.0), longest_s)  # a longer one comes from a clock that was put back
        self._turn.get_on(self._node.loop.time() + pause_s)  # nobody is stuck who was told to wait
        await asyncio.sleep(pause_s)
        self.journal.check_live()

    # ------------------------------------------------------------ doubt

    async def _settle_doubt(self, tool: Tool[..., R], call: Call, why: str, recorded: StepRecord | None) -> R:
        """Do what the tool says about an effect that may have happened; the doubt itself is recorded first.

        Raises:
            _MayRunAgain: the tool, or its probe, says so.
            EffectInDoubt: it says to fail.
        """
        fresh = recorded is None or recorded.status is not StepStatus.UNKNOWN
        if fresh:
            await self.journal.doubted(tool, call, f"cut off by {why}")
        if tool.probe is not None:
            try:
                found = await self._calls.bounded(tool, call, tool.probe)
            except Expired as error:
                raise TimeoutError(f"the probe of {tool.name} {error}") from error
            if isinstance(found, Happened):
                encoded, value = tool.encode_result(found.result, self._node.settings.payload_bytes_max)
                self.journal.resolved(call, "probe", "happened")
                self.journal.succeeded(tool, call, encoded, intended=True)
                return value
            if not isinstance(found, DidNotHappen):  # a forgotten return must not repeat an effect
                said = f"must return Happened(...) or DidNotHappen(), not {found!r}"
                raise ContractViolation(f"the probe of {tool.name}", said)
            self.journal.resolved(call, "probe", "did_not_happen")
            raise _MayRunAgain
        match tool.on_doubt:
            case OnDoubt.RETRY:
                self.journal.resolved(call, "retry")
                raise _MayRunAgain
            case OnDoubt.FAIL:
                if fresh:
                    self.journal.resolved(call, "fail")
                raise EffectInDoubt(call.name, call.key)
            case OnDoubt.ASK:
                issued = call.issued if recorded is None else recorded.issued  # as its record has it
                return await self._stand_on(msgspec.structs.replace(call, issued=issued))

    async def _stand_on(self, call: Call) -> NoReturn:
        """Suspend the turn on the step: this run ends here, by cancellation.

        Effects under way beside it end first, or cut off they would be doubts as well; no step starts meanwhile.
        """
        turn = self._turn
        if turn.suspension is None:
            turn.suspension = self._calls.wait_for(call)
            try:
                await self._calls.quiet(_EFFECTFUL)
            finally:  # also where the handler cancels this step: the doubt stands all the same
                if not self.journal.closed:  # or it would be the next run that is told to stop
                    turn.halt(Stop.SUSPEND)
        await self.waits.stand_by()


def _keyed(name: str, key: str) -> StepName:
    if not isinstance(key, str) or not key or key.startswith(COUNTED):
        raise ContractViolation(name, f"a key must be text and not be empty or begin with {COUNTED!r}, got {key!r}")
    return StepName(name, key)


class _MayRunAgain(Exception):
    """A step in doubt may be called again: it did not happen, or its author takes the risk."""
