"""Gathering: steps and waits side by side with a limit, or until the first fails, end the same way in every run."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import check_invariants, kinds, until

from turnkeeper import Agent, Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.kernel.errors import StepFailed, StepLimitExceeded, TurnUnsuccessful, WaitExpired
from turnkeeper.testing import World, each_crash

SETTINGS = Settings(synchronous="OFF", retry_base_s=0.001, retries_max=0, shutdown_s=0.02, suspend_s=0.001)


@tool(effect=Effect.EFFECTFUL)
async def slow(wait_s: float) -> str:
    await asyncio.sleep(wait_s)
    return "slow"


@tool(effect=Effect.EFFECTFUL)
async def fails(wait_s: float, what: str) -> None:
    await asyncio.sleep(wait_s)
    raise ValueError(what)


@agent("late", tools=[slow])
async def late(turn: Turn) -> str:
    return await turn.call(slow, turn.input)


@agent("stays")
async def stays(turn: Turn) -> None:
    await turn.sleep(3_600)


def gathering(seen: list[Any], gather: Callable[[Turn], Awaitable[Any]]) -> Agent:
    """An agent that gathers, notes what came of that in each run, and is suspended behind it."""

    @agent("play", tools=[slow, fails])
    async def play(turn: Turn) -> Any:
        try:
            came = await gather(turn)
        except WaitExpired:
            came = "expired"
        except StepFailed as error:
            came = error.message
        seen.append(came)
        await turn.sleep(0.3)
        return came

    return play


GATHERINGS: dict[str, tuple[Callable[[Turn], Awaitable[Any]], Any]] = {
    "an effect outlasts it": (lambda turn: turn.gather(turn.call(slow, 0.1), timeout_s=0.02), "expired"),
    "a child's effect does": (lambda turn: turn.gather(turn.ask("late", 0.1), timeout_s=0.02), "expired"),
    "all are in time": (
        lambda turn: turn.gather(turn.call(slow, 0.0), turn.sleep(0.01), timeout_s=0.2),
        ["slow", None],
    ),
    "one fails": (
        lambda turn: turn.gather(turn.ask("late", 9.0), turn.call(fails, 0.0, "no"), fail_fast=True),
        "no",
    ),
    "one fails, and one that is waited for": (
        lambda turn: turn.gather(turn.call(fails, 0.05, "first"), turn.call(fails, 0.0, "no"), fail_fast=True),
        "first",
    ),
    "one fails before an effect outlasts it": (
        lambda turn: turn.gather(turn.call(slow, 0.1), turn.call(fails, 0.0, "no"), fail_fast=True, timeout_s=0.03),
        "no",
    ),
}


@pytest.mark.parametrize(("gather", "comes_to"), GATHERINGS.values(), ids=GATHERINGS)
async def test_a_gathering_comes_to_the_same_end_in_every_run(
    path: Path, gather: Callable[[Turn], Awaitable[Any]], comes_to: Any
) -> None:
    """Whatever its calls have come to by then."""
    seen: list[Any] = []
    async with Runtime(path, [gathering(seen, gather), late], settings=SETTINGS) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)

    assert len(seen) > 1
    assert seen == [comes_to] * len(seen)
    assert result.value == comes_to
    check_invariants(path)


async def test_a_step_that_was_cut_does_not_fail_in_the_place_of_the_first_one_in_a_later_run(path: Path) -> None:
    """It runs again there, and may be faster."""
    seen: list[Any] = []

    async def read() -> None:
        if not seen:
            await asyncio.sleep(9.0)
        raise ValueError("cut before")

    def gather(turn: Turn) -> Awaitable[Any]:
        return turn.gather(turn.step("read", read), turn.call(fails, 0.0, "no"), fail_fast=True)

    async with Runtime(path, [gathering(seen, gather)], settings=SETTINGS) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)

    assert (result.value, seen) == ("no", ["no", "no"])


async def test_a_gathering_that_failed_fast_may_succeed_when_its_turn_is_retried(path: Path) -> None:
    """What was recorded as the first failure is none any more."""
    tried: list[str] = []

    async def shaky() -> str:
        tried.append("shaky")
        if len(tried) == 1:
            raise ValueError("not yet")
        return "came"

    @agent("play", tools=[slow])
    async def play(turn: Turn) -> Any:
        return await turn.gather(turn.step("shaky", shaky), turn.call(slow, 0.0), fail_fast=True, timeout_s=60)

    settings = Settings(synchronous="OFF", retry_base_s=0.001, retries_max=2, suspend_s=0.001)
    async with Runtime(path, [play], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)

    assert result.value == ["came", "slow"]


async def test_the_limit_of_a_gathering_is_a_step_and_fails_as_one(path: Path) -> None:
    """It is not mistaken for the time being over."""
    failed: list[BaseException] = []

    @agent("play")
    async def play(turn: Turn) -> None:
        try:
            await turn.gather(turn.signal("go"), timeout_s=60)
        except StepLimitExceeded as error:
            failed.append(error)

    async with Runtime(path, [play], settings=Settings(synchronous="OFF", steps_max=1)) as runtime:
        with anyio.fail_after(5):
            await runtime.ask("s", "play", None)

    assert len(failed) == 1


def test_a_gathering_has_one_end_under_a_kill_at_every_point() -> None:
    """The effects of one branch happen, and never those of the other."""
    said: list[str] = []

    @tool(effect=Effect.IDEMPOTENT)
    async def say(what: str) -> None:
        said.append(what)

    @agent("play", tools=[say])
    async def play(turn: Turn) -> str:
        try:
            await turn.gather(turn.step("work", asyncio.sleep, 0.2), turn.signal("go"), timeout_s=0.2)
            came = "in time"
        except WaitExpired:
            came = "expired"
        await turn.call(say, came)
        await turn.sleep(1.0)
        return came

    async def life(world: World) -> None:
        if not world.disk.turns:  # type: ignore[attr-defined]
            said.clear()
        async with world.runtime([play]) as runtime:
            await runtime.signal("s", "play", "go", key="once")
            result = await runtime.ask("s", "play", None, key="k")
            assert set(said) == {result.value}

    assert len(each_crash(life)) > 10


# ---------------------------------------------------------------- a limit of the handler's own


@pytest.mark.parametrize("asked", ["child", "signal"])
async def test_a_wait_that_its_handler_has_given_up_stays_so_in_every_run(path: Path, asked: str) -> None:
    """Whatever becomes of the turn that was asked for: it is cancelled."""
    seen: list[str] = []

    @agent("play")
    async def play(turn: Turn) -> str:
        try:
            async with asyncio.timeout(0.02):
                await (turn.ask("stays") if asked == "child" else turn.signal("go"))
            came = "done"
        except TimeoutError:
            came = "given up"
        except TurnUnsuccessful as error:
            came = error.outcome
        seen.append(came)
        await turn.sleep(0.2)
        return came

    settings = Settings(synchronous="OFF", retry_base_s=0.001, retries_max=0, shutdown_s=0.02, suspend_s=0.05)
    async with Runtime(path, [play, stays], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)
        if asked == "child":
            await until(lambda: kinds(path, 2)[-1] == "turn_cancelled")

    assert len(seen) > 1
    assert (result.value, set(seen)) == ("given up", {"given up"})
    check_invariants(path)


def test_a_child_turn_that_was_given_up_is_cancelled_whenever_the_process_dies() -> None:
    """While its parent goes on."""

    @agent("play")
    async def play(turn: Turn) -> str:
        try:
            async with asyncio.timeout(0.02):
                await turn.ask("stays")
        except TimeoutError:
            await turn.sleep(1.0)
            return await turn.signal("go")
        return "done"

    async def life(world: World) -> None:
        async with world.runtime([play, stays]) as runtime:
            receipt = await runtime.tell("s", "play", None, key="k")
            await asyncio.sleep(2.0)
            children = [turn for turn in world.disk.turns.values() if turn.turn_id != receipt.turn_id]  # type: ignore[attr-defined]
            assert {turn.state for turn in children} <= {"cancelled"}
            await runtime.signal("s", "play", "go", "over", key="once")
            assert (await receipt.deliverable()).value == "over"

    assert len(each_crash(life)) > 10
