"""A turn as its handler sees it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.asked import Asked
from turnkeeper.actors.asks import Asks
from turnkeeper.actors.gathering import Limit, first_failure, gathered, results
from turnkeeper.actors.state import RunState
from turnkeeper.actors.steering import Steering
from turnkeeper.actors.tool import Tool
from turnkeeper.actors.values import decode
from turnkeeper.kernel.errors import ContractViolation
from turnkeeper.kernel.joining import STEERING
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.turn import TurnRow

__all__ = ["Turn"]

P = ParamSpec("P")
R = TypeVar("R")


class Turn(Asks):
    """One run of one turn: what came in, who it is for, and the way to do recorded work.

    A handler may be run again for the same turn; `attempt` counts from 1. Steps may be called one after another
    or side by side (`asyncio.gather`, a task group): their identities follow the order in which they are asked.

    `messages` are all payloads that the turn began with: its input, and what was coalesced into it before that.
    """

    __slots__ = (
        "_state",
        "_steering",
        "agent_id",
        "attempt",
        "input",
        "key",
        "messages",
        "session_id",
        "tenant",
        "tools",
        "turn_id",
    )

    def __init__(  # noqa: PLR0913 - what a run consists of; made in one place
        self,
        row: TurnRow,
        address: Address,
        agent: Agent,
        key: str,
        payload: bytes,
        asked: Asked,
        *,
        steering: Steering,
        state: RunState | None = None,
    ) -> None:
        """Give a run its turn; made by the session agent."""
        self.tenant, self.session_id, self.agent_id = address
        self.turn_id = row.turn_id
        self.attempt = row.attempt
        self.key = key
        self.input: Any = decode(payload, "the turn's input")
        self.tools: Mapping[str, Tool[..., Any]] = agent.tools
        self.messages: list[Any] = [self.input, *steering.coalesced()]
        self._steps, self._asked = asked.steps, asked
        self._state = state
        self._steering = steering

    @property
    def over(self) -> bool:
        """Say whether this run is over for its turn: its handler has ended, or would not stop and has lost the turn.

        Whatever a task of it still asks of the turn is refused then.
        """
        return self._steps.closed

    @property
    def state(self) -> Any:
        """Return what the agent remembers in this session, of the type declared as `@agent(..., state=...)`.

        It is as the last completed turn has left it. Change it in place, or assign another one: what stands there when
        the handler returns is committed with the deliverable, in one commit. A run that ends otherwise changes
        nothing, and the next run of the turn begins from the same state again.

        Raises:
            ContractViolation, PayloadTooLarge: the agent declares no state, or the stored one does not fit its type.
            Exception: whatever the agent's `migrate` raises.
        """
        return self._declared_state.value

    @state.setter
    def state(self, value: Any) -> None:
        self._declared_state.value = value

    @property
    def _declared_state(self) -> RunState:
        if self._state is None:
            reason = f'agent {self.agent_id} declares none: write @agent("{self.agent_id}", state=...), with its type'
            raise ContractViolation("turn.state", reason)
        return self._state

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

    async def gather(
        self, *calls: Awaitable[Any], fail_fast: bool = False, timeout_s: float | None = None
    ) -> list[Any]:
        """Run steps and waits side by side: `await turn.gather(turn.call(a), turn.ask("b"))`; results in that order.

        Results are matched by identity, however the steps finish; after a crash only those without a result run again.
        All of them end before this returns or raises. Cancelling it cancels them.

        Args:
            calls: what `call`, `step`, `ask` and the other waits return.
            fail_fast: the first failure cancels the others: child turns end as cancelled, pure steps are cut. Those
                that have an intent are waited for.
            timeout_s: from when it is first awaited, across restarts; then the others are cancelled as well. Once all
                were in time there is no limit any more, nor is there one in a retry of the turn.

        What it comes to is decided once: the limit is a step (`turn.sleep`), by whose record it is over, or is not, in
        every later run; `fail_fast` counts as a step, too (`turn.gather`), and records which failure it raises.

        Raises:
            The first failure, by the order of the calls; one that is not of being cancelled before one that is.
            WaitExpired: it took longer than `timeout_s`.
        """
        if not fail_fast and timeout_s is None:
            return results(await asyncio.gather(*calls, return_exceptions=True))
        limit = None if timeout_s is None else Limit(self._asked, self._limit("turn.gather", timeout_s))
        ended: list[Any] = []
        decision = self.step("turn.gather", lambda: first_failure(ended)) if fail_fast else None
        try:
            ended += await gathered(self._asked, calls, limit, fail_fast=fail_fast)
            failed = first_failure(ended) is not None
            return results(ended, await decision if decision is not None and failed else None)
        finally:
            if decision is not None:
                decision.close()

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

    def steering(self) -> Coroutine[Any, Any, list[Any]]:
        """Take the messages that were steered to this turn since it last asked, in order; an empty list if none were.

        It is a recorded step: a rerun gets the same ones at the same place. Ask between steps, where the handler can do
        something about them: `for message in await turn.steering(): ...`. What nobody takes before the turn ends gets a
        turn of its own. Messages that are too large for one record come with the next call.

        Raises:
            As `call`.
        """
        return self._steering.take(self.step(STEERING, self._steering.look))

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
