"""Calls: a tool called once, within its time, and what becomes of an effect that is cut off under way."""

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar

import msgspec

from turnkeeper.actors.journal import Call, Journal
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.tool import StepContext, Tool, step_scope
from turnkeeper.kernel.edge import Suspended
from turnkeeper.kernel.errors import ProcessDied
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.step import Effect, OnDoubt
from turnkeeper.kernel.verdict import Stop, causes
from turnkeeper.kernel.wait import OpenWait, WaitKind

__all__ = ["Calls", "Expired", "cut_short"]

R = TypeVar("R")


class Expired(TimeoutError):
    """A tool, or its probe, took longer than the tool's `timeout_s`."""


def cut_short(error: BaseException) -> bool:
    """Say whether a call raised because a process died under it: nobody knows how it ended, as after a crash.

    A call that is past its tool's limit has timed out, whatever its process died of.
    """
    return not isinstance(error, Expired) and any(isinstance(one, ProcessDied) for one in causes(error))


class Calls:
    """Calls the tools of one run, and knows which of those that are recorded first are under way."""

    __slots__ = ("_address", "_journal", "_node", "_quiet", "_turn", "_under_way")

    def __init__(self, node: Node, address: Address, turn: OpenTurn, journal: Journal) -> None:
        """Call for the run that begins now."""
        self._node = node
        self._address = address
        self._turn = turn
        self._journal = journal
        self._under_way: dict[int, tuple[Tool[..., Any], Call]] = {}
        self._quiet: asyncio.Event | None = None  # while somebody waits for it

    async def call(self, tool: Tool[..., R], call: Call) -> R:
        """Call the tool once.

        Raises:
            Expired: it took longer than its `timeout_s`.
            Exception: whatever it raises.
        """
        if tool.effect is not Effect.PURE:
            self._under_way[call.issued] = tool, call
        try:
            self._reached("effect.before", call)
            result: R = await self.bounded(tool, call, tool.function)
            self._reached("effect.after", call)
            return result  # noqa: TRY300 - reads as it happens
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or cut_short(error):
                self._cut_off(tool, call, error)
            raise
        finally:
            self._under_way.pop(call.issued, None)
            if self._journal.closed:
                self._no_longer_late(call)
            if self._quiet is not None:
                self._quiet.set()

    def abandon(self) -> None:
        """Show the doubt about each effect that is under way in a run that would not stop, and is taken from.

        A crash ends a call; this does not. Until it has ended its effect may still come, so in this process nobody asks
        a probe about it, or calls it again, before that.
        """
        for tool, call in [*self._under_way.values()]:
            if tool.effect is not Effect.EFFECTFUL:
                continue
            self._cut_off(tool, call)
            self._node.late[call.key] = self._node.loop.create_future()

    def _no_longer_late(self, call: Call) -> None:
        late = self._node.late.pop(call.key, None)
        if late is not None and not late.done():
            late.set_result(None)

    async def quiet(self, effects: Collection[Effect]) -> None:
        """Wait until no call of these effects is under way."""
        while any(tool.effect in effects for tool, _ in self._under_way.values()):
            self._quiet = asyncio.Event() if self._quiet is None or self._quiet.is_set() else self._quiet
            await self._quiet.wait()

    async def bounded(self, tool: Tool[..., Any], call: Call, function: Any) -> Any:
        """Call the tool, or its probe, with the arguments as recorded and within the tool's time.

        Raises:
            Expired: it took longer.
        """
        with step_scope(self._context(call)):
            bound = tool.as_recorded(call.bound, call.arguments)  # or it would have what a call before made of them
            arguments = msgspec.structs.asdict(bound)
            if tool.timeout_s is None:
                return await function(**arguments)
            limit = asyncio.timeout(tool.timeout_s)
            try:
                async with limit:
                    return await function(**arguments)
            except Exception as error:
                if not limit.expired():
                    raise  # the tool's own
                raise Expired(f"took longer than {tool.timeout_s:g} s") from error  # whatever it made of it

    def wait_for(self, call: Call) -> Suspended:
        """Return the wait for an answer about a step in doubt, with a token of its own."""
        due_at = self._node.clock.time() + self._node.settings.approval_s
        self._turn.doubt = OpenWait(call.issued, WaitKind.DOUBT, due_at)
        return Suspended("approval", due_at, call.name, token=self._node.chance.token())

    def _cut_off(self, tool: Tool[..., Any], call: Call, error: BaseException | None = None) -> None:
        """Show the doubt about an effect that its handler, a limit or the death of its process has cut off under way.

        The handler may go on without it. A deadline ends the turn; where the tool says to ask, the turn stands on the
        doubt instead. A stuck run is taken back, and the next one does what the tool says. Whatever else stops a run,
        the next one finds the intent.
        """
        turn = self._turn
        if tool.effect is not Effect.EFFECTFUL or turn.suspension is not None or turn.broken is not None:
            return
        if self._journal.closed:
            return
        if turn.stop is None:
            by_handler = error is None or isinstance(error, asyncio.CancelledError)
            self._journal.cut_off(tool, call, f"cut off by {'its handler' if by_handler else 'the end of its process'}")
        elif turn.stop is Stop.STUCK:
            self._journal.cut_off(tool, call, "cut off because its turn was stuck")
        elif turn.stop is Stop.DEADLINE:
            self._journal.cut_off(tool, call, "cut off by the turn's deadline")
            if tool.probe is None and tool.on_doubt is OnDoubt.ASK:
                turn.suspension = self.wait_for(call)

    def _reached(self, point: str, call: Call) -> None:
        points = self._node.points
        if points is not None and call.key:
            points.reached(point, call.key)

    def _context(self, call: Call) -> StepContext:
        return StepContext(
            turn_id=self._turn.row.turn_id,
            session_id=self._address.session_id,
            agent_id=self._address.agent_id,
            attempt=self._turn.row.attempt,
            step=str(call.name),
            idempotency_key=call.key,
        )
