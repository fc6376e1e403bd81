"""An exchange: one run of one turn, between its handler here and the worker that does it."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from contextvars import copy_context
from copy import copy
from typing import Any, Final

from turnkeeper.actors.process.life import Life
from turnkeeper.actors.process.limits import ProcessLimits
from turnkeeper.actors.tool import Probe, Tool, step_context
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.envelope import (
    Answer,
    Call,
    Cancel,
    Did,
    Failed,
    FromWorker,
    Go,
    Problem,
    Raised,
    Refusal,
    Refused,
    Result,
    Step,
    Take,
    problem,
)
from turnkeeper.kernel.errors import (
    ContractViolation,
    PayloadTooLarge,
    ProcessDied,
    StepError,
    StepLimitExceeded,
    TurnkeeperError,
)
from turnkeeper.kernel.step import Effect, OnDoubt

__all__ = ["Exchange", "WorkerRaised", "elsewhere", "own_step"]

_ERRORS_MAX: Final = 64
"""Failures that are kept for a worker that says which one ended its turn."""


class WorkerRaised(Exception):
    """A worker's turn, or a step of its own, has failed; the message names the worker's error."""


class _Open:
    """One call or step that has no end yet. `did` is what a step of the worker's own waits for, once it may go."""

    __slots__ = ("did", "own", "task")

    def __init__(self, *, own: bool) -> None:
        self.own = own
        self.task: asyncio.Task[None] | None = None
        self.did: asyncio.Future[Any] | None = None


class Exchange:
    """What the worker says of one turn, done here and recorded.

    `over` is done when the worker is free for another turn, or dead; that may be after the handler has ended.
    """

    __slots__ = (
        "_context",
        "_errors",
        "_life",
        "_limits",
        "_loop",
        "_open",
        "_steps",
        "_timer",
        "_turn",
        "_value",
        "over",
        "unwanted",
    )

    def __init__(self, life: Life, turn: Turn, steps: Mapping[str, Tool[..., Any]], limits: ProcessLimits) -> None:
        """Prepare; nothing is said before `value`."""
        self._life = life
        self._turn = turn
        self._steps = steps
        self._limits = limits
        self._loop = loop = asyncio.get_running_loop()
        self._context = copy_context()  # a line comes in the pipe's context; what it asks for runs in the turn's
        self._open: dict[int | str, _Open] = {}
        self._errors: dict[int | str, Exception] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.unwanted = False
        self._value: asyncio.Future[Any] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()

    async def value(self) -> Any:
        """Give the turn to the worker and return its deliverable.

        Cancelled, it tells the worker so, and the worker has `cancel_s` to come to its end.

        Raises:
            ProcessDied: the worker died under it.
            WorkerRaised: the worker says that the turn failed.
            ContractViolation: the turn's input cannot be told in a line of JSON.
            Exception: what a call or a step raised, where the worker says that its failure is the turn's.
        """
        turn = self._turn
        take = Take(
            turn=turn.turn_id,
            tenant=turn.tenant,
            session=turn.session_id,
            key=turn.key,
            attempt=turn.attempt,
            input=turn.input,
        )
        try:
            self._life.send(take)
        except (TypeError, ValueError, RecursionError) as error:
            self.over.set_result(None)
            raise ContractViolation("the turn's input", f"cannot be told to a worker: {error}") from error
        self._life.listen(self)
        try:
            return await self._value
        finally:
            if not self.over.done():
                self._cancel()
            await self._cut_off()

    def _cancel(self) -> None:
        """Tell the worker that the turn is not wanted any more; it is free when it has ended it."""
        self.unwanted = True
        self._timer = self._loop.call_later(self._limits.cancel_s, self._life.kill, "deaf", "did not heed a cancel")
        self._life.send(Cancel(turn=self._turn.turn_id))

    async def _cut_off(self) -> None:
        """Let go of the worker's own steps: those that it said the end of are recorded, the others cut off.

        What is cut off leaves what a crash would leave: an effectful one is in doubt. Tools of the runtime go on, or
        are cancelled, as beside any handler that has ended.
        """
        told: list[asyncio.Task[None]] = []
        for one in list(self._open.values()):
            if not one.own or one.task is None:
                continue
            if one.did is None:
                one.task.cancel()  # it was never told to go
            elif not one.did.done():
                one.did.cancel()
            else:
                told.append(one.task)
        if told:
            await asyncio.wait(told)

    # ------------------------------------------------------------ what the worker says

    def died(self, error: ProcessDied) -> None:
        """End the turn's run: its worker is gone."""
        self._free()
        self._end(error)

    def progressed(self) -> None:
        """Put off the turn's `idle_s`; a worker whose run is over learns so by `cancel`."""
        with suppress(TurnkeeperError):
            self._turn.heartbeat()

    def heard(self, message: FromWorker) -> Problem | None:
        """Do what the worker asks for; return why not, where it is out of place."""
        if getattr(message, "turn", None) != self._turn.turn_id:
            return problem(Refusal.STALE, f"the turn under way is {self._turn.turn_id}")
        match message:
            case Call() | Step():
                return self._begin(message)
            case Did():
                return self._did(message)
            case Result(value=value):
                self._free()
                if not self._value.done():
                    self._value.set_result(value)
            case Raised():
                self._free()
                self._end(self._raised(message))
            case _:
                return problem(Refusal.OUT_OF_PLACE, "not within a turn")
        return None

    def _begin(self, asked: Call | Step) -> Problem | None:
        """Ask for the step now, in the order of the lines, so that a rerun asks for the same one."""
        if asked.id in self._open:
            return problem(Refusal.OUT_OF_PLACE, f"id {asked.id!r} is still open")
        try:
            self._check_room()
            one = _Open(own=isinstance(asked, Step))
            work = self._stepped(asked, one) if isinstance(asked, Step) else self._called(asked)
        except (ContractViolation, ValueError, TypeError) as error:  # the key, or what cannot be an argument's name
            self._refuse(asked.id, error)
            return None
        self._open[asked.id] = one
        one.task = self._loop.create_task(self._answered(asked.id, work), context=self._context)
        return None

    def _check_room(self) -> None:
        if self.unwanted or self._value.done():
            raise ContractViolation("the turn", "is cancelled")
        if len(self._open) >= self._limits.calls_max:
            raise ContractViolation("the turn", f"has {len(self._open)} calls open; wait for an answer")

    def _called(self, call: Call) -> Coroutine[Any, Any, Any]:
        tool = self._turn.tools.get(call.tool)
        if tool is None:
            known = ", ".join(sorted(self._turn.tools)) or "none"
            raise ContractViolation(f"tool {call.tool!r}", f"is none of this agent's; it has {known}")
        return self._turn.call(tool.keyed(call.key) if call.key else tool, **call.arguments)

    def _stepped(self, step: Step, one: _Open) -> Coroutine[Any, Any, Any]:
        declared = self._steps.get(step.name) or _UNDECLARED.get(step.effect)
        if declared is None:
            raise ContractViolation(f"step {step.name!r}", f"has no effect {step.effect!r}")
        if declared.effect != step.effect:
            raise ContractViolation(f"step {step.name!r}", f"is declared {declared.effect}, not {step.effect}")

        async def go(arguments: Any) -> Any:  # noqa: ARG001 - recorded; the worker has them already
            one.did = self._loop.create_future()
            self._life.send(Go(turn=self._turn.turn_id, id=step.id, idempotency_key=step_context().idempotency_key))
            return await one.did

        tool = copy(declared)
        tool.function, tool.name = go, step.name
        return self._turn.call(tool.keyed(step.key) if step.key else tool, arguments=step.arguments)

    def _did(self, message: Did) -> Problem | None:
        one = self._open.get(message.id)
        if self.unwanted:
            return None  # it crossed the cancel; the step is cut off already
        if one is None or one.did is None or one.did.done():
            return problem(Refusal.OUT_OF_PLACE, f"no step {message.id!r} was told to go")
        if message.fault is None:
            one.did.set_result(message.result)
        else:
            one.did.set_exception(WorkerRaised(f"{message.fault.error}: {message.fault.message}"))
        return None

    def _raised(self, message: Raised) -> Exception:
        if message.of is not None and message.of in self._errors:
            return self._errors[message.of]
        return WorkerRaised(f"{message.error}: {message.message}")

    # ------------------------------------------------------------ what it is told

    async def _answered(self, id_: int | str, work: Coroutine[Any, Any, Any]) -> None:
        """Do one call or step, and tell the worker how it ended."""
        try:
            result = await work
        except StepError as error:
            self._keep(id_, error)
            self._tell(Failed(turn=self._turn.turn_id, id=id_, error=type(error).__name__, message=self._said(error)))
        except (ContractViolation, PayloadTooLarge, StepLimitExceeded) as error:
            self._refuse(id_, error)
        except Exception as error:  # noqa: BLE001 - whatever else it is, a handler would have let it through
            self._end(error)
        else:
            self._tell(Answer(turn=self._turn.turn_id, id=id_, result=result))
        finally:
            self._open.pop(id_, None)

    def _refuse(self, id_: int | str, error: Exception) -> None:
        self._keep(id_, error)
        self._tell(Refused(turn=self._turn.turn_id, id=id_, error=type(error).__name__, message=self._said(error)))

    def _said(self, error: Exception) -> str:
        """Return what an error says, as much of it as has room in a line, however it is escaped."""
        return str(error)[: self._limits.line_bytes_max // 8]

    def _keep(self, id_: int | str, error: Exception) -> None:
        if len(self._errors) >= _ERRORS_MAX:
            del self._errors[next(iter(self._errors))]
        self._errors[id_] = error

    def _tell(self, message: Answer | Failed | Refused) -> None:
        if self.unwanted or self.over.done():
            return  # the worker may be at the same turn's next attempt by then
        try:
            self._life.send(message)
        except (TypeError, ValueError, RecursionError) as error:
            said = f"the result cannot be told in a line of JSON: {error}"
            self._life.send(Failed(turn=message.turn, id=message.id, error=ContractViolation.__name__, message=said))

    def _end(self, error: Exception) -> None:
        if not self._value.done():
            self._value.set_exception(error)
            self._value.exception()  # a handler that was cancelled does not ask any more

    def _free(self) -> None:
        """Let the worker go: it has ended the turn, or itself."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():
            self._life.listen(None)
            self.over.set_result(None)


async def elsewhere(arguments: Any = None) -> Any:
    """Stand where a function is asked for, and there is none here."""
    msg = "this runs in a worker"
    raise NotImplementedError(msg)


def own_step(
    name: str,
    effect: Effect,
    *,
    timeout_s: float | None = None,
    on_doubt: OnDoubt | Probe = OnDoubt.ASK,
    version: str = "",
) -> Tool[..., Any]:
    """Declare a step that workers do by themselves; see `worker_step`, which this is.

    Raises:
        TypeError, ValueError: as `tool` raises them.
    """
    made = Tool(elsewhere, name=name, effect=effect, timeout_s=timeout_s, on_doubt=on_doubt, version=version)
    _ = made.contract  # made once here, and not for each step
    return made


_UNDECLARED: Final = {effect.value: own_step("step", effect) for effect in Effect}
