"""Difficult handlers: that always raise, leave work behind, change their steps, or stand on a doubt for ever.

Each handler does one thing that handlers ought not to, and what must come of its turn is known.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.tool import DidNotHappen, Happened, tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.edge import EdgeKind, Requeued, decode_detail
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import Effect
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.scenarios.patience import check_settled, patiently
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life"]

_SETTINGS: Final = Settings(approval_s=120.0, retries_max=2, recoveries_max=10_000, storm_ends_max=0)
_TURNS: Final = 6


async def life(world: World) -> None:
    """Ask a few difficult handlers, and compare what their turns come to with what is known."""
    draw = Random(f"handlers {world.seed}")
    handlers = _Handlers(world)
    chosen = [draw.choice(sorted(_ENDS)) for _ in range(_TURNS)]
    async with world.runtime(handlers.agents(), settings=_SETTINGS) as runtime, asyncio.TaskGroup() as group:
        for place, name in enumerate(chosen):
            group.create_task(_ask(world, runtime, f"session {place}", name))
    check_settled(world)


_ENDS: Final = {
    "always raises": ("ArithmeticError",),
    "raises beside its effect": ("completed",),
    "leaves a task behind": ("completed",),
    "changes its steps": ("completed",),
    "has an effect that raises": ("StepFailed", "completed"),  # killed before it could raise, the probe finds it done
    "stands on a doubt": ("EffectInDoubt",),
}
"""How the turn of each handler may end: completed, or the type of its failure."""


async def _ask(world: World, runtime: Runtime, session: str, name: str) -> None:
    result = await patiently(lambda: runtime.ask(session, name, session, key="k"))
    ended = result.failure.type if result.failure is not None else result.outcome
    if ended not in _ENDS[name]:
        world.report(Violated("the known answer", f"{session}, whose handler {name}, ended with {ended}"))
    if isinstance(world, SimulatedWorld):
        _check_edges(world, name, result.turn_id)


def _check_edges(world: SimulatedWorld, name: str, turn_id: int) -> None:
    """Check how often a turn was retried and, where nothing was killed, that no effect came into doubt."""
    edges = [edge for _, edge in world.disk.rows().edges(turn_id)]
    details = [decode_detail(edge) for edge in edges]
    retries = sum(isinstance(detail, Requeued) and detail.reason == "retry" for detail in details)
    if name == "always raises" and retries != _SETTINGS.retries_max:
        world.report(Violated("a turn is retried as often as said", f"turn {turn_id}: {retries} times"))
    doubts = sum(edge.kind == EdgeKind.STEP_UNKNOWN for edge in edges)
    undisturbed = world.life == 1 and not world.faults.disk_fails
    if name == "raises beside its effect" and undisturbed and doubts:
        world.report(Violated("an effect under way is waited for", f"turn {turn_id}: {doubts} doubts, and no kill"))


class _Handlers:
    """The handlers, by what they do."""

    def __init__(self, world: World) -> None:
        self._world = world

        async def look(effect: str) -> Happened | DidNotHappen:
            return Happened() if world.happened(effect) else DidNotHappen()

        async def act(effect: str) -> None:
            await asyncio.sleep(0.5)
            world.happen(effect)
            await asyncio.sleep(0.5)

        async def act_and_raise(effect: str) -> None:
            world.happen(effect)
            await asyncio.sleep(0.01)
            raise ConnectionError(effect)

        async def hang(effect: str) -> None:
            world.happen(effect)
            await asyncio.Event().wait()

        self._act = tool(effect=Effect.EFFECTFUL, on_doubt=look)(act)
        self._act_and_raise = tool(effect=Effect.EFFECTFUL, on_doubt=look)(act_and_raise)
        self._hang = tool(effect=Effect.EFFECTFUL, timeout_s=5.0)(hang)

    def agents(self) -> list[Agent]:
        """Return an agent for each."""
        doings: dict[str, Callable[[Turn], Awaitable[Any]]] = {
            "always raises": self._always_raise,
            "raises beside its effect": self._raise_beside,
            "leaves a task behind": self._leave_behind,
            "changes its steps": self._change_steps,
            "has an effect that raises": self._raise_in_effect,
            "stands on a doubt": self._stand,
        }
        return [agent(name)(doing) for name, doing in doings.items()]

    async def _always_raise(self, turn: Turn) -> None:
        await turn.step("try", asyncio.sleep, 0.01)
        raise ArithmeticError(turn.input)

    async def _raise_beside(self, turn: Turn) -> str:
        """Raise, in the first attempt, while an effect runs beside; in the next it is answered from the record."""
        effect = asyncio.ensure_future(turn.call(self._act, f"{turn.input} beside"))
        effect.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may hear of it
        if turn.attempt == 1:
            await asyncio.sleep(0.3)
            raise ArithmeticError(turn.input)
        await effect
        return "done"

    async def _leave_behind(self, turn: Turn) -> str:
        """Leave, in the first attempt, a task that asks for a step when the next attempt is running."""
        if turn.attempt == 1:
            loop: Any = asyncio.get_running_loop()
            loop.left_behind = loop.create_task(self._ask_late(turn))
            raise ArithmeticError(turn.input)
        await turn.step("wait", asyncio.sleep, 20.0)
        return "done"

    async def _ask_late(self, turn: Turn) -> None:
        try:
            await asyncio.sleep(10.0)
            await turn.step("late", asyncio.sleep, 0.0)
        except TurnkeeperError:
            return
        self._world.report(Violated("a run that is over writes nothing", f"turn {turn.turn_id}, attempt 1"))

    async def _change_steps(self, turn: Turn) -> str:
        """Ask for other pure steps in each attempt, as code does that has changed; effects keep their names."""
        if turn.attempt % 2:
            await turn.step("only in odd attempts", asyncio.sleep, 0.01)
        await turn.call(self._act, f"{turn.input} first")
        if turn.attempt % 3 == 1:
            await turn.step("only in some attempts", asyncio.sleep, 0.01)
        await turn.call(self._act, f"{turn.input} second")
        if turn.attempt == 1:
            raise ArithmeticError(turn.input)
        return "done"

    async def _raise_in_effect(self, turn: Turn) -> None:
        await turn.call(self._act_and_raise, f"{turn.input} raising")

    async def _stand(self, turn: Turn) -> None:
        """Call an effect that hangs: nobody says what became of it, so the turn fails when its time is over."""
        await turn.call(self._hang, f"{turn.input} hanging")
