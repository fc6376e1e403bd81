"""Rounds: siblings that stand on each other go down and come up together, whatever crosses that."""

import asyncio
from typing import Any

import pytest
from siblings import AT_ONCE, family, quiet

from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.noted import Note
from turnkeeper.kernel.supervision.strategy import Strategy
from turnkeeper.supervisors.chronicle import Unrecorded
from turnkeeper.supervisors.supervisor import Supervisor


@pytest.mark.parametrize("slow", ["", "abc"])
@pytest.mark.parametrize(
    ("strategy", "log_after"),
    [
        (Strategy.ONE_FOR_ONE, ["fell b", "start b"]),
        (Strategy.ONE_FOR_ALL, ["fell b", "stop c", "stop a", "start a", "start b", "start c"]),
        (Strategy.REST_FOR_ONE, ["fell b", "stop c", "start b", "start c"]),
    ],
)
async def test_a_strategy_says_who_is_started_anew(strategy: Strategy, log_after: list[str], slow: str) -> None:
    """They go down in reverse, and come up in order."""
    children, specs, log = family("abc", slow=slow)
    async with Supervisor(specs, strategy=strategy, intensity=AT_ONCE).running():
        log.clear()
        children["b"].fall()
        await quiet()

        assert log == log_after
        assert [child.up for child in children.values()] == [1, 1, 1]


async def test_several_that_fall_together_are_one_round() -> None:
    """Under one_for_all the second fall, in the middle of the round, starts no second round beside it."""
    children, specs, log = family("abc", slow="abc")
    async with Supervisor(specs, strategy=Strategy.ONE_FOR_ALL, intensity=AT_ONCE).running():
        log.clear()
        children["a"].fall()
        children["c"].fall()
        await quiet()

        assert [child.up for child in children.values()] == [1, 1, 1]
        assert log == ["fell a", "fell c", "stop b", "start a", "start b", "start c"]


async def test_a_child_that_is_removed_while_its_fall_waits_for_a_round_holds_nobody_up(virtual_clock: Any) -> None:
    """Those behind it come back."""
    children, specs, _ = family("ab")
    pauses = Intensity(pauses_s=(30.0,))
    async with Supervisor(specs, strategy=Strategy.REST_FOR_ONE, intensity=pauses).running() as supervisor:
        children["a"].fall()
        children["b"].fall()
        await supervisor.remove("a")
        await asyncio.gather(asyncio.sleep(300))

        assert (children["a"].up, children["b"].up) == (0, 1)


class SlowDisk(Unrecorded):
    """Keeps what is wanted once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def say(self, path: str, verb: Verb, note: Note) -> Desired:
        await self.gate.wait()
        return await super().say(path, verb, note)


@pytest.mark.parametrize("verb", [Verb.STOP, Verb.QUARANTINE, Verb.PAUSE])
async def test_those_behind_a_child_that_is_stopped_as_its_restart_fails_come_up(verb: Verb) -> None:
    """They waited for it to come back, and it will not."""
    children, specs, _ = family("ab")
    supervisor = Supervisor(specs, strategy=Strategy.REST_FOR_ONE, intensity=AT_ONCE)
    supervisor.adopt("", slow := SlowDisk())

    def start(exited: Exited) -> None:
        slow.gate.set()
        raise ArithmeticError("not now")

    async with supervisor.running():
        telling = asyncio.create_task(supervisor.tell("a", verb))
        await quiet()
        children["a"].start = start  # type: ignore[method-assign]
        children["a"].fall()
        await quiet()

        assert telling.done()
        assert children["b"].up == 1
