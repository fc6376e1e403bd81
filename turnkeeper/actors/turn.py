"""A turn as its handler sees it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.steps import Steps
from turnkeeper.actors.tool import Tool
from turnkeeper.actors.values import decode
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.turn import TurnRow

__all__ = ["Turn"]

P = ParamSpec("P")
R = TypeVar("R")


class Turn:
    """One run of one turn: what came in, who it is for, and the way to do recorded work.

    A handler may be run again for the same turn; `attempt` counts from 1. Steps may be called one after another
    or side by side (`asyncio.gather`, a task group): their identities follow the order in which they are asked.
    """

    __slots__ = ("_steps", "agent_id", "attempt", "input", "key", "session_id", "tenant", "tools", "turn_id")

    def __init__(self, row: TurnRow, address: Address, agent: Agent, key: str, payload: bytes, steps: Steps) -> None:
        """Give a run its turn; made by the session agent."""
        self.tenant, self.session_id, self.agent_id = address
        self.turn_id = row.turn_id
        self.attempt = row.attempt
        self.key = key
        self.input: Any = decode(payload, "the turn's input")
        self.tools: Mapping[str, Tool[..., Any]] = agent.tools
        self._steps = steps

    @property
    def over(self) -> bool:
        """Say whether this run is over for its turn: its handler has ended, or would not stop and has lost the turn.

        Whatever a task of it still asks of the turn is refused then.
        """
        return self._steps.closed

    def call(self, tool: Tool[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call a tool as a recorded step, or answer from the record if this turn has called it before.

        Arguments and result are checked against the tool's type hints. What is returned is what the record
        holds, decoded: a rerun sees the same value. The step has its identity from this call, in whatever order steps
        side by side then come to run.

        Raises:
            StepFailed: the tool raised; the failure is recorded and raised again on a rerun.
            ContractViolation, PayloadTooLarge: a value does not fit.
            ToolTimedOut, EffectInDoubt, ReplayDivergence, ContractChanged, StepLimitExceeded, StorageFailed: see each.
        """
        return self._steps.perform(tool, self._steps.issue(tool, args, kwargs))

    async def gather(self, *calls: Awaitable[Any]) -> list[Any]:
        """Run steps side by side: `await turn.gather(turn.call(a), turn.call(b))`; return their results in that order.

        Results are matched by identity, however the steps finish; after a crash only those without a result run again.
        All of them end before this returns or raises. Cancelling it cancels them.

        Raises:
            The first failure, by the order of the calls.
        """
        ended = await asyncio.gather(*calls, return_exceptions=True)
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        return ended

    @overload
    def step(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def step(
        self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...

    def step(
        self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Any]:
        """Run any function, plain or async, as a pure recorded step: it reads or computes, and may run again.

        What writes to the world belongs into a tool, which says what a second run would do.

        Raises:
            As `call`.
        """

        async def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        untyped = Tool.untyped(run, name)
        return self._steps.perform(untyped, self._steps.issue(untyped, (args, kwargs), {}))

    def heartbeat(self) -> None:
        """Say that the turn gets on where no step says it: at each item of a stream, for instance.

        It puts off the agent's `idle_s` and no other limit. It costs a look at the clock and writes nothing, and may be
        called from any task of the run. A task that only says it again and again says nothing: it would hide a handler
        that is stuck.

        Raises:
            StaleEpoch: the run is over.
            ShuttingDown: it was told to stop.
            StorageFailed: its record cannot be kept.
        """
        self._steps.heartbeat()

    def put_off(self) -> None:
        """Say that the turn waits for what is not its own doing, such as a worker that is busy with others.

        It puts off the agent's `idle_s` as a heartbeat does. It is no progress: the storm guard does not hear of it.

        Raises:
            StaleEpoch, ShuttingDown, StorageFailed: as for `heartbeat`.
        """
        self._steps.put_off()
