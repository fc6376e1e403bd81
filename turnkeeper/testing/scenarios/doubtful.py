"""Doubtful work: tools that hang, fail and fail for good, drawn into scripts whose end is known, and who answers.

A script is a list of stages; the acts of a stage run side by side. What a call did to the world has a name made of its
idempotency key, so that nobody has to remember which turn it was: a fork's call under its source's key is the same one.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import count
from random import Random
from types import MappingProxyType
from typing import Any, Final

import msgspec

from turnkeeper.actors.agent import Agent, agent
from turnkeeper.actors.tool import DidNotHappen, GiveUp, Happened, Tool, step_context, tool
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.errors import StorageFailed, WaitTokenInvalid
from turnkeeper.kernel.lookback.checkpoint import Doubt
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.step import Effect
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["AGENT", "FAILING", "RETRIES", "Act", "Operator", "Stages", "Work", "ends", "script"]

AGENT: Final = "doubtful"
RETRIES: Final = MappingProxyType({"flaky": 3, "tried": 4})
"""How often each tool with a policy of its own is called again; the others never are. More than they fail: a fork takes
over how often a call has failed, and what is pure fails anew in it."""
FAILING: Final = frozenset({"raises", "spoiled", "worn out"})
"""Kinds of acts after which a turn fails with StepFailed, whatever happens."""

_KINDS: Final = ("act", "act", "act", "hang", "hang", "flaky", "flaky", "tried", "probed", "repeated")
_GIVE_UP: Final = 0.15


class Act(msgspec.Struct, frozen=True):
    """One call. `times` is how often it hangs, or fails, before it does what it is for."""

    name: str
    kind: str
    times: int = 0
    keyed: bool = False


Stages = Sequence[Sequence[Act]]


def script(draw: Random, name: str) -> list[list[Act]]:
    """Draw a script of a few stages."""
    numbers = count()
    stages = []
    for _ in range(draw.randrange(1, 4)):
        kinds = [draw.choice(_KINDS) for _ in range(draw.choice((1, 1, 2, 3, 4)))]
        if draw.random() < 0.1:  # noqa: PLR2004 - few, or most turns would fail
            kinds.append(draw.choice(sorted(FAILING)))
        stages.append(
            [Act(f"{name}.{next(numbers)}", kind, draw.randrange(1, 3), draw.random() < 0.5) for kind in kinds]  # noqa: PLR2004
        )
    return stages


def ends(stages: Stages, *, given_up: bool) -> set[str]:
    """Return how a turn of a script may end: completed, or the types of failures it may have."""
    failed = {"StepFailed"} if any(act.kind in FAILING for stage in stages for act in stage) else set[str]()
    return failed | {"EffectInDoubt"} if given_up else failed or {"completed"}


class Work:
    """The agent and its tools. `pace` is how long a second of theirs takes, s."""

    def __init__(self, world: World, pace: float = 1.0) -> None:
        """Work in a world."""
        self._world = world
        self._pace = pace
        timeout_s, asked = 5.0 * pace, Effect.EFFECTFUL
        retry = {name: Retry(retries_max=often, base_s=0.5 * pace, cap_s=4.0 * pace) for name, often in RETRIES.items()}
        self._tools: dict[str, Tool[..., Any]] = {
            "act": tool(effect=asked, timeout_s=60.0 * pace)(self._act),
            "hang": tool(effect=asked, timeout_s=timeout_s)(self._hang),
            "probed": tool(effect=asked, on_doubt=self._look)(self._probed),
            "repeated": tool(effect=Effect.IDEMPOTENT)(self._repeated),
            "flaky": tool(effect=asked, retry=retry["flaky"])(self._flaky),
            "tried": tool(effect=Effect.PURE, retry=retry["tried"])(self._tried),
            "worn out": tool(effect=asked, name="flaky", retry=retry["flaky"])(self._worn_out),
            "raises": tool(effect=asked)(self._raises),
            "spoiled": tool(effect=Effect.IDEMPOTENT, retry=Retry())(self._spoiled),
        }

    def agent(self) -> Agent:
        """Return the agent that runs scripts."""

        @agent(AGENT)
        async def doubtful(turn: Turn) -> list[str]:
            done: list[str] = []
            for stage in msgspec.convert(turn.input, list[list[Act]]):
                done += await self._stage(turn, stage)
            return done

        return doubtful

    async def _stage(self, turn: Turn, stage: Sequence[Act]) -> list[str]:
        """Run a stage side by side. Acts with a key of their own are asked for in another order in each attempt."""
        keyed = [act for act in stage if act.keyed]
        Random(turn.attempt).shuffle(keyed)
        order = [keyed.pop() if act.keyed else act for act in stage]
        answers = await turn.gather(*(self._call(turn, act) for act in order))
        by_name = {act.name: answer for act, answer in zip(order, answers, strict=True)}
        return [by_name[act.name] for act in stage]

    def _call(self, turn: Turn, act: Act) -> Awaitable[str]:
        asked = self._tools[act.kind]
        return turn.call(asked.keyed(act.name) if act.keyed else asked, act.name, act.times)

    # ------------------------------------------------------------ the tools

    async def _act(self, effect: str, times: int) -> str:
        """Do it, and be long about it: what hangs beside it comes into doubt first."""
        draw = Random(f"{self._world.seed} {effect} {times}")
        if draw.random() < self._world.load.hang_rate and self._nth(effect) == 1:
            await asyncio.Event().wait()
        await self._sleep(7.0 * draw.random())
        self._world.happen(_done(effect))
        await self._sleep(3.0 * draw.random())
        return effect

    async def _hang(self, effect: str, times: int) -> str:
        """Hang the first times, after it has happened or before."""
        nth = self._nth(effect)
        if nth > times:
            await self._sleep(0.2)
            self._world.happen(_done(effect))
            return effect
        if Random(f"{self._world.seed} {effect} {nth}").random() < 0.4:  # noqa: PLR2004 - more often before
            self._world.happen(_done(effect))
        await asyncio.Event().wait()
        raise AssertionError

    async def _probed(self, effect: str, times: int) -> str:
        await self._sleep(0.1 * times)
        self._world.happen(_done(effect))
        await self._sleep(0.1)
        return effect

    async def _look(self, effect: str, times: int) -> Happened | DidNotHappen:
        await self._sleep(0.1 * times)
        return Happened(effect) if self._world.happened(_done(effect)) else DidNotHappen()

    async def _repeated(self, effect: str, times: int) -> str:
        await self._sleep(0.1 * times)
        if not self._world.happened(_done(effect)):
            self._world.happen(_done(effect))
        return effect

    async def _flaky(self, effect: str, times: int) -> str:
        """Fail the first times, and say so by raising: then nothing has happened."""
        await self._sleep(0.1)
        if self._nth(effect) <= times:
            raise ConnectionError(effect)
        self._world.happen(_done(effect))
        await self._sleep(0.1)
        return effect

    async def _tried(self, effect: str, times: int) -> str:
        await self._sleep(0.1)
        if self._nth(effect) <= times:
            raise ConnectionError(effect)
        return effect

    async def _worn_out(self, effect: str, times: int) -> str:
        await self._sleep(0.05 * times)
        raise ConnectionError(effect)

    async def _raises(self, effect: str, times: int) -> str:
        await self._sleep(0.1 * times)
        raise ArithmeticError(effect)

    async def _spoiled(self, effect: str, times: int) -> int:
        await self._sleep(0.1 * times)
        return effect  # type: ignore[return-value]

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)

    def _nth(self, effect: str) -> int:
        """Return which call of this step it is, from 1; the world remembers, whatever becomes of the process."""
        done = _done(effect)
        nth = next(number for number in count(1) if not self._world.happened(f"call {number} of {done}"))
        self._world.happen(f"call {nth} of {done}")
        return nth


def _done(effect: str) -> str:
    """Return what an act is called in the world when it has happened."""
    step = step_context()
    return f"{effect} under {step.idempotency_key or f'turn {step.turn_id}'}"


class Operator:
    """A person who looks at the doubts now and then, and says what has become of them; some cannot find out.

    At times it answers twice, or at once with itself, or with what it still has from an earlier doubt.
    """

    def __init__(
        self, world: World, runtime: Runtime, draw: Random, pace: float = 1.0, *, gives_up: bool = True
    ) -> None:
        """Watch a runtime."""
        self._world = world
        self._runtime = runtime
        self._draw = draw
        self._pace = pace
        self._gives_up = gives_up
        self._used: dict[int, list[str]] = {}

    async def watch(self) -> None:
        """Answer until cancelled."""
        while True:
            await asyncio.sleep(self._pace * self._draw.uniform(0.2, 4.0))
            try:
                standing = await self._runtime.doubts()
                for doubt in standing:
                    await self._answer(doubt)
            except StorageFailed:
                continue

    async def _answer(self, doubt: Doubt) -> None:
        for token in ("", *self._used.get(doubt.turn_id, ())):
            if token != doubt.token and self._draw.random() < 0.5:  # noqa: PLR2004 - not each time
                await self._try_again(doubt.turn_id, token)
        finding = self._finding(doubt)
        told = await asyncio.gather(
            *(
                self._runtime.resolve(doubt.turn_id, finding, token=doubt.token)
                for _ in range(self._draw.choice((1, 1, 2)))
            ),
            return_exceptions=True,
        )
        for error in told:
            if error is not None and not isinstance(error, WaitTokenInvalid | StorageFailed):
                raise error
        if told.count(None) > 1:
            self._world.report(Violated("a doubt is answered once", f"turn {doubt.turn_id}, {doubt.step}: twice"))
        if None in told:
            self._used.setdefault(doubt.turn_id, []).append(doubt.token)
            if self._draw.random() < 0.3:  # noqa: PLR2004 - not each time
                await self._try_again(doubt.turn_id, doubt.token)

    async def _try_again(self, turn_id: int, token: str) -> None:
        """Say of a used token that nothing has happened: it must settle nothing."""
        try:
            await self._runtime.resolve(turn_id, DidNotHappen(), token=token)
        except (WaitTokenInvalid, StorageFailed):
            return
        self._world.report(Violated("a used token settles nothing", f"turn {turn_id} took {token!r} once more"))

    def _finding(self, doubt: Doubt) -> Happened | DidNotHappen | GiveUp:
        effect = doubt.arguments["effect"]
        if self._gives_up and self._draw.random() < _GIVE_UP:
            return GiveUp()
        return Happened(effect) if self._world.happened(f"{effect} under {doubt.idempotency_key}") else DidNotHappen()
