"""The lag probe: what blocks the event loop is named, and not restarted; what does not block it is left alone."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from looking import Said, passed, until

from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.supervisors.lag import LagProbe, stood_still
from turnkeeper.testing import SimulatedWorld

LAG_S = 0.1
SETTINGS = Settings(synchronous="OFF", shutdown_s=0.02, lag_s=LAG_S)


class Hand:
    """A clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the runtimes of this test say."""
    said = Said()
    monkeypatch.setattr("turnkeeper.actors.node.logger", lambda: said)
    return said


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "turnkeeper-lag"]


def block(seconds: float) -> None:
    time.sleep(seconds)  # the very thing that must not be done


# ---------------------------------------------------------------- the probe, on a clock in our hands


async def test_a_loop_that_does_not_beat_is_said_to_be_blocked_once_and_to_be_back() -> None:
    """At `lag_s` and not before; once for each time; and how long it was at the end."""
    clock, said = Hand(), Said()
    probe = LagProbe(1.0, said, lambda _: {}, clock)
    clock.now += 0.99
    probe.look()
    assert said.events == []

    for _ in range(3):
        clock.now += 0.5
        probe.look()
    clock.now += 0.01
    probe.beat()
    probe.beat()

    assert said.events == ["loop.blocked", "loop.resumed"]
    assert said.lines[0][1]["blocked_s"] == pytest.approx(1.49)
    assert said.lines[1][1]["blocked_s"] == pytest.approx(2.5)

    clock.now += 2
    probe.look()
    assert said.events[2:] == ["loop.blocked"]


async def test_a_loop_that_beats_is_never_blocked() -> None:
    """However long it lives."""
    clock, said = Hand(), Said()
    probe = LagProbe(1.0, said, lambda _: {}, clock)
    for _ in range(100):
        clock.now += 0.9
        probe.look()
        probe.beat()

    assert said.lines == []


async def test_what_blocks_is_named_by_its_place_and_its_turn() -> None:
    """The innermost frame of the loop's thread, how it came there, and what the runtime knows of the task."""
    clock, said = Hand(), Said()
    own = asyncio.current_task()
    probe = LagProbe(1.0, said, lambda task: {"turn_id": 7} if task is own else {}, clock)
    clock.now += 1
    looking = threading.Thread(target=probe.look)
    looking.start()
    looking.join()

    ((_, fields),) = said.lines
    assert fields["turn_id"] == 7
    assert fields["at"].endswith(" in join") or "threading.py" in fields["at"]
    assert "test_lag.py" in fields["through"]


async def test_a_look_that_the_runtime_cannot_answer_still_names_the_place() -> None:
    """What it looks through may change under it, once the loop is back."""

    def changed(_: object) -> dict[str, Any]:
        raise RuntimeError("dictionary changed size during iteration")

    clock, said = Hand(), Said()
    probe = LagProbe(1.0, said, changed, clock)
    clock.now += 1
    probe.look()

    assert "turn_id" not in said.lines[0][1]
    assert "lag.py" in said.lines[0][1]["at"]


# ---------------------------------------------------------------- the probe of a runtime


@pytest.mark.parametrize("beside", [False, True])
async def test_a_handler_that_blocks_the_loop_is_named_and_goes_on(path: Path, said: Said, beside: bool) -> None:
    """In its own task, or in a step beside it: logged with its turn and address; it is not run again."""

    @tool(effect=Effect.PURE)
    async def think() -> None:
        block(4 * LAG_S)

    @agent("play")
    async def play(turn: Turn) -> int:
        await asyncio.sleep(LAG_S)
        if beside:
            await turn.gather(turn.call(think), turn.step("other", int))
        else:
            block(4 * LAG_S)
        return turn.attempt

    async with Runtime(path, [play], settings=SETTINGS) as runtime:
        result = await runtime.ask("s", "play", None)
        await until(lambda: said.of("loop.resumed"))

    blocked, resumed = said.of("loop.blocked"), said.of("loop.resumed")
    assert result.value == 1
    assert [(one["turn_id"], one["address"]) for one in blocked] == [(result.turn_id, "s/play")]
    assert "test_lag.py" in blocked[0]["at"]
    assert blocked[0]["at"].endswith(" in block")
    assert LAG_S <= blocked[0]["blocked_s"] <= 4 * LAG_S
    assert resumed[0]["blocked_s"] >= 3 * LAG_S


async def test_a_handler_that_waits_blocks_nothing(path: Path, said: Said) -> None:
    """A slow model is no lag."""

    @agent("play")
    async def play(_: Turn) -> None:
        await passed(3 * 1.0)

    async with Runtime(path, [play], settings=Settings(synchronous="OFF", lag_s=1.0)) as runtime:
        await runtime.ask("s", "play", None)

    assert said.of("loop.blocked") == []


async def test_the_probe_ends_with_its_runtime_and_is_not_there_where_it_is_off(path: Path) -> None:
    """One thread a runtime; none with `lag_s=0`, and none under a clock of the application's own."""

    class Clock:
        def time(self) -> float:
            return 1_000_000.0

    before = len(watchers())
    async with Runtime(path, [], settings=SETTINGS):
        await until(lambda: len(watchers()) == before + 1)
    await until(lambda: len(watchers()) == before)
    async with Runtime(path, [], settings=Settings(synchronous="OFF", lag_s=0)):
        await passed(0.05)
        assert len(watchers()) == before
    async with Runtime(path, [], settings=SETTINGS, clock=Clock()):
        await passed(0.05)
        assert len(watchers()) == before


async def test_nothing_is_late_in_virtual_time(world: SimulatedWorld, runtime: Any) -> None:
    """A simulated world has no probe: no thread, and no timer that a schedule would have to take."""
    before = len(watchers())
    async with runtime([]):
        await asyncio.sleep(3600)
        assert len(watchers()) == before


@pytest.mark.parametrize(
    ("late_s", "used_s", "still"),
    [
        (0.0, 0.0, False),  # the thread was on time: whatever blocks, it is the loop alone
        (0.49, 0.0, False),
        (30.0, 0.01, True),  # SIGSTOP, or a suspended machine
        (30.0, 29.0, False),  # something held the interpreter, and computed
    ],
)
def test_a_process_that_stood_still_is_told_from_one_that_computes(late_s: float, used_s: float, still: bool) -> None:
    """Or a handler that holds the interpreter would be blocked without a word."""
    assert stood_still(late_s, used_s, 1.0) is still
