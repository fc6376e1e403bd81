"""A turn as its handler sees it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from turnkeeper.actors.definitions import Agent, Tool
from turnkeeper.actors.steps import Steps
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

    async def call(self, tool: Tool[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a tool as a recorded step, or answer from the record if this turn has called it before.

        Arguments and result are checked against the tool's type hints. What is returned is what the record
        holds, decoded: a rerun sees the same value.

        Raises:
            StepFailed: the tool raised; the failure is recorded and raised again on a rerun.
            ContractViolation, PayloadTooLarge: a value does not fit.
            ToolTimedOut, EffectInDoubt, ReplayDivergence, StepLimitExceeded, StorageFailed: see each.
        """
        return await self._steps.perform(tool, args, kwargs)

    @overload
    async def step(self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    async def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def step(self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run any function, plain or async, as a pure recorded step: it reads or computes, and may run again.

        What writes to the world belongs into a tool, which says what a second run would do.

        Raises:
            As `call`.
        """

        async def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return await self._steps.perform(Tool.untyped(run, name), (args, kwargs), {})
