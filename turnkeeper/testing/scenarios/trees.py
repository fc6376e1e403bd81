"""The trees scenario: supervisors under every schedule, with children that fall, will not start, are told what to do.

Every child notes its starts and ends. Whatever crosses whatever, one incarnation of it is up, and when all is quiet,
what is wanted is what there is.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

from turnkeeper.kernel.errors import SupervisionError, TooManyRestarts
from turnkeeper.kernel.supervision.child import ChildSpec, Exit, Exited, Restart
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Exceeded, Intensity
from turnkeeper.kernel.supervision.strategy import Strategy
from turnkeeper.supervisors.supervisor import Supervisor
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["life"]

_CHILDREN: Final = 4
_ACTS: Final = 25
_PACE_S: Final = 4.0
_SLOW_S: Final = 3.0
_QUIET_S: Final = 2_000.0
"""Longer than every pause and every start: by then what is wanted is what there is."""
_BORNE: Final = Intensity(restarts_max=4, within_s=60.0, pauses_s=(0.0, 2.0, 5.0))
_PARENT: Final = Intensity(restarts_max=10_000, pauses_s=(0.0,))


async def life(world: World) -> None:
    """Let a tree live through falls, verbs and wishes; then let it be, and look."""
    draw = world.chance.random
    strategy = list(Strategy)[int(draw() * len(Strategy))]
    exceeded = Exceeded.QUARANTINE if strategy is Strategy.ONE_FOR_ONE and draw() < 0.5 else Exceeded.ESCALATE  # noqa: PLR2004
    tree = _Tree(world, strategy, exceeded)
    outer = Supervisor([ChildSpec(name="inner", child=tree.supervisor)], intensity=_PARENT)
    try:
        async with outer.running(), asyncio.TaskGroup() as group:
            group.create_task(tree.fall())
            group.create_task(tree.command())
            group.create_task(tree.ensure())
            group.create_task(tree.settle())
    except TooManyRestarts as error:
        world.report(Violated("the parent bears it", str(error)))
    tree.check_down()


class _Child:
    """A child that takes its time, or not, and knows how often it is up."""

    def __init__(self, world: World, name: str, restart: Restart) -> None:
        self.name = name
        self.restart = restart
        self.up = 0
        self.exited: Exited | None = None
        self._world = world
        self._fresh = True  # the first start succeeds, or there would be no tree
        self._slow = world.chance.random() < 0.5  # noqa: PLR2004

    def start(self, exited: Exited) -> Awaitable[None] | None:
        first, self._fresh = self._fresh, False
        if not first and self._world.chance.random() < 0.1:  # noqa: PLR2004
            raise ArithmeticError(self.name)
        if self._slow:
            return self._starting(exited, first=first)
        self._started(exited)
        return None

    async def _starting(self, exited: Exited, *, first: bool) -> None:
        await asyncio.sleep(_SLOW_S * self._world.chance.random())
        if not first and self._world.chance.random() < 0.1:  # noqa: PLR2004
            raise ArithmeticError(self.name)
        self._started(exited)

    def _started(self, exited: Exited) -> None:
        self.up += 1
        self.exited = exited
        if self.up != 1:
            self._world.report(Violated("one incarnation", f"{self.name} is up {self.up} times"))

    def stop(self, shutdown_s: float) -> Awaitable[None] | None:  # noqa: ARG002 - it is always quick enough
        if self._slow:
            return self._stopping()
        self._down()
        return None

    async def _stopping(self) -> None:
        await asyncio.sleep(_SLOW_S * self._world.chance.random())
        self._down()

    def _down(self) -> None:
        self.up, self.exited = 0, None

    def fall(self, exit_: Exit) -> None:
        """End by itself, and say so; now and then twice, as a late exit of an old incarnation would."""
        exited = self.exited
        if exited is None:
            return
        self._down()
        exited(exit_)
        if self._world.chance.random() < 0.2:  # noqa: PLR2004
            exited(exit_)


class _Tree:
    """A supervisor of such children, and those who disturb it."""

    def __init__(self, world: World, strategy: Strategy, exceeded: Exceeded) -> None:
        self._world = world
        self._draw = world.chance.random
        kinds = list(Restart)
        self.children = [
            _Child(world, f"c{number}", kinds[int(self._draw() * len(kinds))]) for number in range(_CHILDREN)
        ]
        specs = [ChildSpec(name=child.name, child=child, restart=child.restart) for child in self.children]
        self.supervisor = Supervisor(
            specs, strategy=strategy, intensity=_BORNE, exceeded=exceeded, chance=world.chance.random
        )
        self._desired = {child.name: Desired.RUNNING for child in self.children}

    def _one(self) -> _Child:
        return self.children[int(self._draw() * len(self.children))]

    async def fall(self) -> None:
        """Let children end by themselves, crashed or as they were meant to."""
        for _ in range(_ACTS):
            await asyncio.sleep(_PACE_S * self._draw())
            self._one().fall(Exit("crashed", normal=False) if self._draw() < 0.7 else Exit("normal", normal=True))  # noqa: PLR2004

    async def command(self) -> None:
        """Say what is wanted, and expect it to be so when that returns."""
        verbs = list(Verb)
        for _ in range(_ACTS):
            await asyncio.sleep(_PACE_S * self._draw())
            child, verb = self._one(), verbs[int(self._draw() * len(verbs))]
            try:
                desired = await self.supervisor.tell(child.name, verb)
            except SupervisionError:
                continue
            if desired in {Desired.STOPPED, Desired.QUARANTINED} and child.up:
                self._report("stopped is down", f"{child.name} was told to {verb}, and is up")

    async def ensure(self) -> None:
        """Want children to run; whoever is told that one does finds it up."""
        for _ in range(_ACTS):
            await asyncio.sleep(_PACE_S * self._draw())
            child = self._one()
            asking = [asyncio.create_task(self._ensured(child)) for _ in range(3)]
            done, pending = await asyncio.wait(asking, timeout=_PACE_S)
            for task in pending:
                task.cancel()
            for task in done:
                task.result()

    async def _ensured(self, child: _Child) -> None:
        try:
            await self.supervisor.ensure_running(child.name)
        except Exception as error:
            if isinstance(error, AssertionError | AttributeError):
                raise

    async def settle(self) -> None:
        """Wait until nothing moves any more, and compare what is with what is wanted."""
        await asyncio.sleep(_ACTS * _PACE_S + _QUIET_S)
        view = self.supervisor.view()
        if view.state != "running":
            self._report("a subtree that gives up is started anew", f"it is {view.state}")
        for child, seen in zip(self.children, view.children, strict=True):
            if seen.state in {"spawning", "stopping"}:
                self._report("all comes to rest", f"{child.name} is {seen.state} for ever")
            if (seen.state == "running") != bool(child.up):
                self._report("the slot tells the truth", f"{child.name} is {seen.state}, and up {child.up} times")
            if seen.state == "running" and seen.desired in {Desired.STOPPED, Desired.QUARANTINED}:
                self._report("what is wanted is what there is", f"{child.name} runs, {seen.desired}")
            wanted = seen.desired == Desired.RUNNING and child.restart is Restart.PERMANENT
            if wanted and seen.state != "running":
                self._report("what is wanted is what there is", f"{child.name} is {seen.state}, wanted running")

    def check_down(self) -> None:
        """Check that nothing is left when the tree has been left."""
        for child in self.children:
            if child.up:
                self._report("nothing is left", f"{child.name} is up")

    def _report(self, rule: str, what: str) -> None:
        self._world.report(Violated(rule, what))
