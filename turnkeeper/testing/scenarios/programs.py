"""Random programs with a known answer: agents that tell, ask, step, fail and retry over many sessions.

A program is a tree of turns drawn from the seed. Each turn adds some units, each in a step of its own, and brings
other turns about; sums and total are known before anything runs. Whatever the schedule and the kills, every
deliverable must be its turn's sum, and the units counted out in the world the total.
"""

import asyncio
from random import Random
from typing import Any, Final

import msgspec

from turnkeeper.actors.agent import agent
from turnkeeper.actors.tool import DidNotHappen, Happened, step_context, tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import Effect, OnDoubt
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.scenarios.patience import patiently
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["Part", "life", "program", "total"]

_SETTINGS: Final = Settings(
    retries_max=10_000, recoveries_max=10_000, mailbox_len_max=8, idle_agents_max=3, storm_ends_max=0
)
_SESSIONS: Final = 4
_AGENTS: Final = ("ann", "bob")
_TENANTS: Final = ("", "acme")
_ROOTS: Final = 6
_DEPTH: Final = 3


class Part(msgspec.Struct, frozen=True):
    """One turn of a program. `failures` is how many of its first runs raise, after as many of its acts."""

    number: int
    session: int
    agent: int
    tenant: int
    acts: list["Act"]
    failures: int

    @property
    def sum(self) -> int:
        """Return what its deliverable must be: its own units, and those of the turns it asked."""
        return sum(act.units + (act.part.sum if act.kind == "ask" and act.part else 0) for act in self.acts)


class Act(msgspec.Struct, frozen=True):
    """One thing that a turn does: add units, bring another turn about, or both side by side."""

    kind: str
    units: int = 0
    part: Part | None = None


_KINDS: Final = (
    "effect",
    "effect",
    "guarded",
    "idempotent",
    "pure",
    "pair",
    "several",
    "flaky",
    "retried",
    "tell",
    "ask",
    "wait",
)


def program(seed: int) -> list[Part]:
    """Return the program of a seed: turns that come from outside, with all that follows from them."""
    draw = Random(f"program {seed}")
    numbers = iter(range(1_000_000))

    def part(depth: int, session: int) -> Part:
        number = next(numbers)
        acts = []
        for _ in range(draw.randrange(1, 4)):
            kind = draw.choice(_KINDS)
            brings = kind in {"tell", "ask"} and depth < _DEPTH and session < _SESSIONS - 1
            # Only higher sessions are asked, so no ring of turns waits for itself.
            child = part(depth + 1, draw.randrange(session + 1, _SESSIONS)) if brings else None
            acts.append(Act(kind if brings or kind not in {"tell", "ask"} else "effect", draw.randrange(1, 10), child))
        failures = draw.choice((0, 0, 0, 1, 2))
        return Part(number, session, draw.randrange(len(_AGENTS)), draw.randrange(len(_TENANTS)), acts, failures)

    return [part(0, draw.randrange(_SESSIONS)) for _ in range(_ROOTS)]


def total(parts: list[Part]) -> int:
    """Return the units that a program adds, its told turns included."""
    return sum(act.units + (total([act.part]) if act.part else 0) for part in parts for act in part.acts)


async def life(world: World) -> None:
    """Send what comes from outside, wait for every turn, and compare with what was known."""
    parts = program(world.seed)
    machine = _Machine(world)
    async with world.runtime(machine.agents(), settings=_SETTINGS) as runtime:
        machine.runtime = runtime
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(machine.finish(part))
                if world.chance.random() < 0.2:  # noqa: PLR2004 - some come twice
                    group.create_task(machine.finish(part))
    counted = sum(
        act.units * world.happened(_unit(part, at)) for part in _all(parts) for at, act in enumerate(part.acts)
    )
    if counted != total(parts):
        world.report(Violated("the known total", f"{counted} units were added, of {total(parts)}"))


def _all(parts: list[Part]) -> list[Part]:
    return [one for part in parts for one in (part, *_all([act.part for act in part.acts if act.part]))]


def _unit(part: Part, at: int) -> str:
    return f"units of part {part.number}, act {at}"


class _Machine:
    """What runs a program: two agents with the same handler, and a tool for each way of adding."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[int, int] = {}
        self.runtime: Runtime

    def agents(self) -> list[Any]:
        """Return the agents."""
        world = self._world

        async def look(unit: str) -> Happened | DidNotHappen:
            await asyncio.sleep(0)
            return Happened() if world.happened(unit) else DidNotHappen()

        async def add(unit: str) -> None:
            await asyncio.sleep(0.001)
            world.happen(unit)
            await asyncio.sleep(0.001)

        async def add_once(unit: str) -> None:
            await asyncio.sleep(0.001)
            if not world.happened(unit):
                world.happen(unit)
            await asyncio.sleep(0.001)

        self._effect = tool(effect=Effect.EFFECTFUL, on_doubt=look, name="effect")(add)
        self._guarded = tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.RETRY, name="guarded")(add_once)
        self._idempotent = tool(effect=Effect.IDEMPOTENT, name="idempotent")(add_once)
        self._flaky = tool(effect=Effect.IDEMPOTENT, name="flaky")(self._fail_then_add)
        patient = Retry(retries_max=2, base_s=0.01)
        self._retried = tool(effect=Effect.EFFECTFUL, on_doubt=look, retry=patient, name="retried")(self._add_at_last)
        self._tell = tool(effect=Effect.IDEMPOTENT, name="tell")(self._told)
        self._ask = tool(effect=Effect.PURE, name="ask")(self._asked)
        return [agent(name)(self._run) for name in _AGENTS]

    async def _run(self, turn: Turn) -> int:
        part = msgspec.convert(turn.input, Part)
        if (turn.session_id, turn.agent_id, turn.tenant) != _address(part):
            self._world.report(Violated("a turn runs at its address", f"part {part.number} ran at {turn.session_id}"))
        result = 0
        for at, act in enumerate(part.acts):
            if at == min(part.failures, len(part.acts) - 1) and self._fails_again(part):
                raise ArithmeticError(f"part {part.number} fails, as planned")
            result += act.units + await self._act(turn, act, _unit(part, at))
        return result

    def _fails_again(self, part: Part) -> bool:
        """Say whether this run of a part is one of those that fail; a new process starts the count anew."""
        runs = self._runs[part.number] = self._runs.get(part.number, 0) + 1
        return runs <= part.failures

    async def _act(self, turn: Turn, act: Act, unit: str) -> int:
        """Do one act; return what an asked turn answered."""
        match act.kind:
            case "effect":
                await turn.call(self._effect, unit)
            case "guarded":
                await turn.call(self._guarded, unit)
            case "flaky":
                await turn.call(self._flaky, unit)
            case "retried":
                await turn.call(self._retried, unit)
            case "several":
                await turn.gather(
                    turn.step("beside", asyncio.sleep, 0.002),
                    turn.call(self._effect.keyed(unit), unit),
                    turn.step("beside", asyncio.sleep, 0.001),
                )
            case "pair":
                await asyncio.gather(
                    turn.call(self._effect.keyed(unit), unit), turn.step("beside", asyncio.sleep, 0.001)
                )
            case "wait":
                await turn.step("wait", asyncio.sleep, 30.0)
                await turn.call(self._idempotent, unit)
            case "tell" if act.part is not None:
                await turn.call(self._tell, act.part)
                await turn.call(self._idempotent, unit)
            case "ask" if act.part is not None:
                await turn.call(self._idempotent, unit)
                return await turn.call(self._ask, act.part)
            case _:
                await turn.call(self._idempotent, unit)
        return 0

    async def _fail_then_add(self, unit: str) -> None:
        if step_context().attempt == 1:
            raise ConnectionError(unit)
        if not self._world.happened(unit):
            self._world.happen(unit)

    async def _add_at_last(self, unit: str) -> None:
        if not self._world.happened(f"a first try of {unit}"):
            self._world.happen(f"a first try of {unit}")
            raise ConnectionError(unit)
        self._world.happen(unit)

    async def _told(self, part: Part) -> None:
        session, agent_id, tenant = _address(part)
        await patiently(lambda: self.runtime.tell(session, agent_id, part, key=f"part {part.number}", tenant=tenant))

    async def _asked(self, part: Part) -> int:
        session, agent_id, tenant = _address(part)
        key = f"part {part.number}"
        result = await patiently(lambda: self.runtime.ask(session, agent_id, part, key=key, tenant=tenant))
        if result.outcome != "completed" or result.value != part.sum:
            said = f"part {part.number} of {result.turn_id} answered {result}, not {part.sum}"
            self._world.report(Violated("the known answer", said))
        return part.sum

    async def finish(self, part: Part) -> None:
        """Bring a part, and all that follows from it, to its end."""
        await self._asked(part)
        for act in part.acts:
            if act.part is not None:
                await self.finish(act.part)


def _address(part: Part) -> tuple[str, str, str]:
    return f"session {part.session}", _AGENTS[part.agent], _TENANTS[part.tenant]
