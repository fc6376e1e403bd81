"""Child turns: asked for once, waited for, handed on to, limited; and never in a ring."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from families import STANDING, SUSPENDED, asking, both, handing, leaf, parents, refused
from looking import check_invariants, kinds, until
from msgspec import structs

from turnkeeper import Agent, Runtime, Settings, Turn, agent
from turnkeeper.actors.journal import Journal
from turnkeeper.kernel.errors import (
    Deadlock,
    FanOutExceeded,
    MailboxFull,
    RecursionDepthExceeded,
    TurnkeeperError,
    TurnUnsuccessful,
    WaitExpired,
)
from turnkeeper.testing import World, each_crash, run
from turnkeeper.testing.scenarios import waiting

# ---------------------------------------------------------------- asked


@both
async def test_a_child_turn_is_asked_for_and_its_deliverable_comes_back(path: Path, settings: Settings) -> None:
    """Through two levels: each turn knows its parent."""
    async with Runtime(path, [asking("a", "b", "leaf"), asking("b", "leaf"), leaf], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", None)

    assert result.value == ["a", "b", "leaf", "leaf"]
    assert parents(path) == [(1, None, "completed"), (2, 1, "completed"), (3, 2, "completed"), (4, 1, "completed")]
    check_invariants(path)


@both
async def test_children_side_by_side_are_joined_in_the_order_of_the_calls(path: Path, settings: Settings) -> None:
    """In sessions of their own, they run at once."""

    @agent("fork")
    async def fork(turn: Turn) -> Any:
        asked = (turn.ask("leaf", "wait", session_id=f"s{number}") for number in range(4))
        return await turn.gather(*asked)

    async with Runtime(path, [fork, leaf], settings=settings) as runtime:
        receipt = await runtime.tell("s", "fork", None)
        await until(lambda: len(parents(path)) == 5)
        for number in (3, 1, 0, 2):
            await runtime.signal(f"s{number}", "leaf", "go", number)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == [[0], [1], [2], [3]]
    check_invariants(path)


@both
async def test_a_child_that_fails_is_raised_in_its_parent(path: Path, settings: Settings) -> None:
    """Who may go on without it."""

    @agent("a")
    async def a(turn: Turn) -> Any:
        try:
            return await turn.ask("leaf", "raise")
        except TurnUnsuccessful as error:
            return [error.turn_id, error.outcome, error.reason]

    async with Runtime(path, [a, leaf], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", None)

    assert result.value == [2, "failed", "ValueError: no"]


@both
async def test_a_child_that_is_cancelled_is_raised_in_its_parent(path: Path, settings: Settings) -> None:
    """As its end."""
    async with Runtime(path, [asking("a", "leaf"), leaf], settings=settings) as runtime:
        receipt = await runtime.tell("s", "a", "wait")
        await until(lambda: len(parents(path)) == 2)
        await runtime.cancel(2, by="ann", reason="enough")
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.failure is not None
    assert result.failure.type == "TurnUnsuccessful"
    assert "by ann; enough" in result.failure.message


@both
async def test_a_child_that_is_late_is_cancelled(path: Path, settings: Settings) -> None:
    """And its parent goes on."""

    @agent("a")
    async def a(turn: Turn) -> Any:
        try:
            return await turn.ask("leaf", "wait", timeout_s=0.1)
        except WaitExpired:
            return "late"

    async with Runtime(path, [a, leaf], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", None)
        await until(lambda: parents(path)[1] == (2, 1, "cancelled"))

    assert result.value == "late"


@both
async def test_a_parent_that_ends_takes_its_children_with_it(path: Path, settings: Settings) -> None:
    """Whatever it ended with: nobody waits for them."""

    @agent("a")
    async def a(turn: Turn) -> Any:
        asked = asyncio.ensure_future(turn.ask("leaf", "wait"))
        await turn.signal("raise")
        asked.cancel()
        raise ValueError("enough")

    async with Runtime(path, [a, leaf], settings=settings) as runtime:
        receipt = await runtime.tell("s", "a", None)
        await until(lambda: len(parents(path)) == 2)
        await runtime.signal("s", "a", "raise")
        with anyio.fail_after(5):
            await receipt.deliverable()
        await until(lambda: parents(path) == [(1, None, "failed"), (2, 1, "cancelled")])
    check_invariants(path)


def test_a_child_is_accepted_once_under_a_kill_at_every_point() -> None:
    """The parent's record and the child are one commit."""

    async def life(world: World) -> None:
        async with world.runtime([asking("a", "leaf", "leaf"), leaf], settings=Settings(suspend_s=0.01)) as runtime:
            result = await runtime.ask("s", "a", None, key="k")
            assert result.value == ["a", "leaf", "leaf"]
            assert len(world.disk.turns) == 3  # type: ignore[attr-defined]

    outcomes = each_crash(life)

    assert len(outcomes) > 20


def test_a_parent_that_ended_before_a_crash_has_its_child_ended_after_it() -> None:
    """Recovery finds who has no parent any more, wherever the process was killed."""

    @agent("a")
    async def a(turn: Turn) -> None:
        asked = asyncio.ensure_future(turn.ask("leaf", "wait"))
        await turn.step("work", asyncio.sleep, 0.5)
        asked.cancel()

    async def life(world: World) -> None:
        async with world.runtime([a, leaf], settings=Settings(suspend_s=0.01)) as runtime:
            await runtime.ask("s", "a", None, key="k")
            await asyncio.sleep(1.0)
            states = {turn.turn_id: turn.state for turn in world.disk.turns.values()}  # type: ignore[attr-defined]
            assert set(states.values()) <= {"completed", "cancelled"}

    assert len(each_crash(life)) > 10


# ---------------------------------------------------------------- rings


@pytest.mark.parametrize("size", [1, 2, 3])
@both
async def test_a_ring_of_actors_is_refused_when_it_would_be_made(path: Path, size: int, settings: Settings) -> None:
    """It names them; every turn of the ring ends."""
    names = "abc"[:size]
    agents = [asking(name, names[(place + 1) % size]) for place, name in enumerate(names)]
    async with Runtime(path, agents, settings=settings) as runtime:
        with anyio.fail_after(10):
            await runtime.ask("s", "a", None)
    failures = [result.failure for result in await ended(path, agents, settings)]

    ring = " -> ".join(f"s/{name}" for name in [names[-1], *names])
    assert failures[-1].type == Deadlock.__name__
    assert failures[-1].message == f"would wait for itself: {ring}"
    assert len(parents(path)) == size
    check_invariants(path)


async def ended(path: Path, agents: list[Agent], settings: Settings) -> list[Any]:
    """Return what each turn came to, in the order of acceptance."""
    async with Runtime(path, agents, settings=settings) as runtime:
        return [await runtime.cancel(turn_id) for turn_id, _, _ in parents(path)]


@both
async def test_a_ring_through_a_queued_turn_is_found(path: Path, settings: Settings) -> None:
    """a asks b while b, ahead of that, waits for a turn in a's queue."""

    @agent("b")
    async def b(turn: Turn) -> Any:
        return await turn.ask("a", "from b") if turn.input == "ask" else ["b"]

    @agent("a")
    async def a(turn: Turn) -> Any:
        if turn.input == "from b":
            return ["a"]
        await turn.signal("go")
        try:
            return await turn.ask("b")
        except Deadlock as error:
            return error.cycle

    async with Runtime(path, [a, b], settings=settings) as runtime:
        first = await runtime.tell("s", "a", "first")
        second = await runtime.tell("s", "b", "ask")
        await until(lambda: len(parents(path)) == 3)
        await runtime.signal("s", "a", "go")
        with anyio.fail_after(10):
            assert (await first.deliverable()).value == "s/a -> s/b -> s/a"
            assert (await second.deliverable()).value == ["a"]
    check_invariants(path)


async def test_a_ring_is_found_after_a_restart_through_turns_that_have_left_memory(path: Path) -> None:
    """And a rerun is told the same as the run before."""
    told: list[str] = []

    @agent("a")
    async def a(turn: Turn) -> Any:
        return await turn.ask("b")

    @agent("b")
    async def b(turn: Turn) -> Any:
        await turn.signal("go")
        try:
            await turn.ask("a")
        except Deadlock as error:
            told.append(str(error))
        return await turn.signal("end")

    async with Runtime(path, [a, b], settings=SUSPENDED) as runtime:
        await runtime.tell("s", "a", None, key="k")
        await until(lambda: [state for *_, state in parents(path)] == ["suspended", "suspended"])
    async with Runtime(path, [a, b], settings=SUSPENDED) as runtime:
        await runtime.signal("s", "b", "go")
        await until(lambda: kinds(path, 2).count("turn_suspended") == 2)
        await runtime.signal("s", "b", "end", "over")
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", None, key="k")

    assert result.value == "over"
    assert told == ["would wait for itself: s/b -> s/a -> s/b"] * 2


async def test_a_ring_is_found_through_an_agent_that_this_runtime_was_not_given(path: Path) -> None:
    """It would be one as soon as the agent is back."""

    @agent("c")
    async def c(turn: Turn) -> Any:
        await turn.signal("go")
        try:
            return await turn.ask("a")
        except Deadlock as error:
            return [str(error)]

    a, b = asking("a", "b"), asking("b", "c")
    async with Runtime(path, [a, b, c], settings=SUSPENDED) as runtime:
        await runtime.tell("s", "a", None, key="k")
        await until(lambda: [state for *_, state in parents(path)] == ["suspended"] * 3)
    async with Runtime(path, [a, c], settings=SUSPENDED) as runtime:
        await runtime.signal("s", "c", "go")
        await until(lambda: parents(path)[2][2] == "completed")
    async with Runtime(path, [a, b, c], settings=SUSPENDED) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", None, key="k")

    assert result.value == ["a", "b", "would wait for itself: s/c -> s/a -> s/b -> s/c"]
    assert len(parents(path)) == 3


async def test_a_child_turn_that_cannot_be_begun_leaves_nothing_at_its_agent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what comes next."""

    def broken(*_: object) -> None:
        raise OverflowError

    monkeypatch.setattr(Journal, "opening", broken)
    async with Runtime(path, [asking("a", "leaf"), leaf], settings=STANDING) as runtime:
        with anyio.fail_after(5):
            failed = await runtime.ask("s", "a", None)
            result = await runtime.ask("s", "leaf", None)

    assert failed.failure is not None
    assert (failed.failure.type, result.value) == ("OverflowError", ["leaf"])


@both
async def test_a_diamond_is_no_ring(path: Path, settings: Settings) -> None:
    """Two who wait for a third one, and the same two agents in another session."""

    @agent("top")
    async def top(turn: Turn) -> Any:
        return await turn.gather(turn.ask("left"), turn.ask("right"), turn.ask("left", session_id="t"))

    agents = [top, asking("left", "leaf"), asking("right", "leaf"), leaf]
    async with Runtime(path, agents, settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "top", None)

    assert result.value == [["left", "leaf"], ["right", "leaf"], ["left", "leaf"]]


async def test_a_loop_of_handoffs_is_refused_with_their_names(path: Path) -> None:
    """The one that would close it fails, and with it those before."""
    settings = structs.replace(STANDING, handoff_cooldown_s=0.0)
    failure = await refused(path, [handing("a", "b"), handing("b", "c"), handing("c", "a")], settings=settings)

    assert failure.type == Deadlock.__name__
    assert "s/c -> s/a -> s/b -> s/c" in failure.message


# ---------------------------------------------------------------- limits


def catching(agent_id: str, ask: Callable[[Turn], Any]) -> Agent:
    """An agent that returns the name of what it was refused with."""

    @agent(agent_id)
    async def catch(turn: Turn) -> Any:
        try:
            return await ask(turn)
        except TurnkeeperError as error:
            return type(error).__name__

    return catch


async def test_calls_may_be_nested_so_deep(path: Path) -> None:
    """One level more is refused, before anything is written."""
    agents = [asking("a", "b"), asking("b", "c"), catching("c", lambda turn: turn.ask("d")), asking("d")]
    async with Runtime(path, agents, settings=structs.replace(STANDING, depth_max=2)) as runtime:
        result = await runtime.ask("s", "a", None)

    assert result.value == ["a", "b", *RecursionDepthExceeded.__name__]
    assert len(parents(path)) == 3


async def test_a_turn_may_wait_for_so_many_at_once(path: Path) -> None:
    """One more is refused, before anything is written; after one has ended there is room again."""

    async def ask(turn: Turn) -> Any:
        first = asyncio.ensure_future(turn.ask("leaf", "wait", session_id="t"))
        second = asyncio.ensure_future(turn.ask("leaf", "wait", session_id="u"))
        await turn.signal("go")
        try:
            await turn.ask("leaf", session_id="v")
        except FanOutExceeded as error:
            await first
            return [type(error).__name__, await turn.ask("leaf", session_id="w"), await second]

    settings = structs.replace(STANDING, children_max=2)
    async with Runtime(path, [catching("a", ask), leaf], settings=settings) as runtime:
        receipt = await runtime.tell("s", "a", None)
        await until(lambda: len(parents(path)) == 3)
        await runtime.signal("s", "a", "go")
        await runtime.signal("t", "leaf", "go", 1)
        await until(lambda: len(parents(path)) == 4)
        await runtime.signal("u", "leaf", "go", 2)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == [FanOutExceeded.__name__, ["leaf"], [2]]


async def test_a_full_mailbox_of_the_child_is_raised_in_the_parent(path: Path) -> None:
    """Nothing is written."""
    settings = structs.replace(STANDING, mailbox_len_max=1)
    async with Runtime(path, [catching("a", lambda turn: turn.ask("leaf")), leaf], settings=settings) as runtime:
        for _ in range(2):
            await runtime.tell("s", "leaf", "wait")
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", None)

    assert result.value == MailboxFull.__name__
    assert len(parents(path)) == 3
    assert "step_intended" not in kinds(path, 3)


# ---------------------------------------------------------------- the three agents


def test_the_three_agents_come_to_the_same_answer_whatever_point_they_are_killed_at() -> None:
    """In the simulated world; tests/testing/test_each_kill.py kills a process with it."""
    outcomes = each_crash(waiting.small)

    assert len(outcomes) > 60
    assert {outcome.live for outcome in outcomes} == {0}
    assert run(waiting.small).turns == outcomes[-1].turns
