"""Waits: each answered in the run, after a suspension, after a restart and early; deadlines, and what a wait costs."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import check_invariants, kinds, passed, rows, until
from msgspec import structs
from ways import (
    STANDING,
    SUSPENDED,
    WAYS,
    Way,
    each,
    suspended,
    token,
    waiting,
)

from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.kernel.errors import (
    TurnkeeperError,
    WaitExpired,
    WaitTokenInvalid,
)
from turnkeeper.testing import World, run

# ---------------------------------------------------------------- answers


@each
async def test_a_wait_is_answered_in_its_run(path: Path, way: Way) -> None:
    """The turn is never suspended."""
    async with Runtime(path, waiting(way), settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == way.comes_to
    assert "turn_suspended" not in kinds(path)
    check_invariants(path)


@each
async def test_a_wait_is_answered_after_its_turn_was_suspended(path: Path, way: Way) -> None:
    """Its handler runs twice; while it is suspended its waits are there, and not before or after."""
    runs: list[int] = []
    async with Runtime(path, waiting(way, runs), settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        stood = rows(path, "SELECT turn_id, issued FROM waits WHERE turn_id = 1")
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == way.comes_to
    assert stood == [(1, 0)]
    assert rows(path, "SELECT * FROM waits") == []
    assert runs == [1, 1]
    check_invariants(path)


@each
async def test_a_wait_is_answered_after_a_restart(path: Path, way: Way) -> None:
    """Nothing of the turn was in memory."""
    async with Runtime(path, waiting(way), settings=SUSPENDED) as runtime:
        await runtime.tell("s", "play", None, key="k")
        await suspended(path)
    async with Runtime(path, waiting(way), settings=SUSPENDED) as runtime:
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None, key="k")

    assert result.value == way.comes_to
    check_invariants(path)


async def test_a_signal_that_comes_before_anything_else_of_its_actor_is_kept_across_a_restart(path: Path) -> None:
    """And is given to one wait."""
    way = WAYS["signal"]
    async with Runtime(path, waiting(way), settings=STANDING) as runtime:
        new = [await runtime.signal("s", "play", "go", [1], key="once") for _ in range(2)]
    async with Runtime(path, waiting(way), settings=SUSPENDED) as runtime:
        with anyio.fail_after(5):
            first = await runtime.ask("s", "play", None)
        await runtime.tell("s", "play", None)
        await suspended(path, 2)

    assert new == [True, False]
    assert first.value == [1]


@pytest.mark.parametrize("settings", [STANDING, SUSPENDED], ids=["standing", "suspended"])
async def test_two_waits_of_one_name_side_by_side_have_a_signal_each(path: Path, settings: Settings) -> None:
    """However they came: before both, between them, at once."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        return await turn.gather(turn.signal("go"), turn.signal("go"), turn.signal("go"))

    async with Runtime(path, [play], settings=settings) as runtime:
        await runtime.signal("s", "play", "go", 1)
        await runtime.signal("s", "play", "go", 2)
        receipt = await runtime.tell("s", "play", None)
        await runtime.signal("s", "play", "go", 3)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert sorted(result.value) == [1, 2, 3]
    check_invariants(path)


async def test_a_signal_without_a_name_is_refused_at_both_ends(path: Path) -> None:
    """It could be taken for the answer of a wait that has no name."""
    refused: list[TurnkeeperError] = []

    @agent("play")
    async def play(turn: Turn) -> None:
        try:
            await turn.signal("")
        except TurnkeeperError as error:
            refused.append(error)

    async with Runtime(path, [play], settings=STANDING) as runtime:
        await runtime.ask("s", "play", None)
        with pytest.raises(TurnkeeperError):
            await runtime.signal("s", "play", "")

    assert len(refused) == 1


async def test_an_answer_that_comes_while_a_step_runs_beside_the_wait_is_kept(path: Path) -> None:
    """There is no suspension meanwhile, however short `suspend_s` is."""
    gate = asyncio.Event()

    @agent("play")
    async def play(turn: Turn) -> Any:
        approval, _ = await turn.gather(turn.approval("pay"), turn.step("work", gate.wait))
        return approval.by

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await runtime.approve(await token(path), by="ann")
        await passed(0.05)
        gate.set()
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == "ann"
    assert "turn_suspended" not in kinds(path)


async def test_waits_side_by_side_are_resumed_in_order_and_steps_beside_them_run_once(path: Path) -> None:
    """One answer resumes the turn, which stands on the others again; nothing is done twice."""
    done: list[str] = []

    @tool(effect=Effect.EFFECTFUL)
    async def act(name: str) -> str:
        done.append(name)
        return name

    @agent("play")
    async def play(turn: Turn) -> Any:
        before = await turn.call(act, "before")
        sums = await turn.gather(turn.signal("a"), turn.call(act, "beside"), turn.signal("b"))
        return [before, *sums, await turn.call(act, "after")]

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        await runtime.signal("s", "play", "b", 2)
        await until(lambda: kinds(path).count("turn_suspended") == 2)
        await runtime.signal("s", "play", "a", 1)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == ["before", 1, "beside", 2, "after"]
    assert done == ["before", "beside", "after"]
    check_invariants(path)


def test_an_answer_and_the_deadline_at_one_moment_have_one_winner() -> None:
    """Under many schedules: the turn is told one of the two, and a signal that came too late is still there."""
    outcomes = set()

    def life_of(late: list[bool]) -> Callable[[World], Awaitable[None]]:
        @agent("play")
        async def play(turn: Turn) -> Any:
            try:
                return await turn.signal("go", timeout_s=10.0)
            except WaitExpired:
                return "late"

        async def life(world: World) -> None:
            async with world.runtime([play]) as runtime:
                receipt = await runtime.tell("s", "play", None, key="k")
                due_at = 10.0
                while not world.disk.waits:  # type: ignore[attr-defined]  # noqa: ASYNC110 - virtual time
                    await asyncio.sleep(0.01)
                due_at = next(iter(world.disk.waits[1].values())).due_at  # type: ignore[attr-defined]
                await asyncio.sleep(due_at - world.clock.time())  # type: ignore[attr-defined]
                await runtime.signal("s", "play", "go", "in time", key="s")
                result = await receipt.deliverable()
                taken = [signal.taken_by for signal in world.disk.signals.values()]  # type: ignore[attr-defined]
                assert taken == ([None] if result.value == "late" else [1])
                late.append(result.value == "late")

        return life

    for seed in range(60):
        late: list[bool] = []
        run(life_of(late), seed=seed)
        outcomes.add(late[0])

    assert outcomes == {True, False}


# ---------------------------------------------------------------- what is refused


async def test_a_wait_within_a_step_is_refused(path: Path) -> None:
    """A step cannot be left and come back to."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        return await turn.step("inner", turn.signal, "go")

    async with Runtime(path, [play], settings=structs.replace(STANDING, retries_max=0)) as runtime:
        result = await runtime.ask("s", "play", None)

    assert result.failure is not None
    assert "within a step" in result.failure.message
    assert rows(path, "SELECT * FROM waits") == []


async def test_a_rerun_that_asks_for_something_else_is_refused(path: Path) -> None:
    """What was approved is what was asked then."""
    cents = 5

    @agent("play")
    async def play(turn: Turn) -> Any:
        return (await turn.approval("pay", {"cents": cents})).by

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        cents = 500
        await runtime.approve(await token(path), by="ann")
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.failure is not None
    assert result.failure.type == "ReplayDivergence"


async def test_a_second_answer_and_a_wrong_one_are_refused(path: Path) -> None:
    """The wait stands as it was, or is over."""
    async with Runtime(path, waiting(WAYS["approval"]), settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        right = await token(path)
        for wrong in (f"{right}0", "1.0.", "", right.replace("1.0", "1.7", 1), right.replace("1.", "9.", 1)):
            with pytest.raises(WaitTokenInvalid):
                await runtime.approve(wrong, by="eve")
        answers = [runtime.approve(right, by=f"ann {number}") for number in range(10)]
        told = await asyncio.gather(*answers, return_exceptions=True)
        result = await receipt.deliverable()

    assert [type(one) for one in told].count(WaitTokenInvalid) == 9
    assert result.value == next(f"ann {number}" for number, one in enumerate(told) if one is None)


# ---------------------------------------------------------------- time


async def test_what_a_turn_spends_suspended_does_not_count(path: Path) -> None:
    """A limit of half a second is no limit on a wait of one."""

    @agent("play", turn_s=0.4)
    async def play(turn: Turn) -> Any:
        await turn.sleep(0.8)
        return "done"

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)

    assert result.value == "done"


def test_all_runs_of_a_turn_count_together() -> None:
    """Each is within the limit, and both together are not."""

    @agent("play", turn_s=1.0)
    async def play(turn: Turn) -> Any:
        await turn.step("work", asyncio.sleep, 0.7)
        await turn.sleep(100.0)
        await turn.step("more work", asyncio.sleep, 0.7)

    async def life(world: World) -> None:
        async with world.runtime([play]) as runtime:
            result = await runtime.ask("s", "play", None, key="k")
            assert result.failure is not None
            assert result.failure.type == "DeadlineExceeded"

    run(life)


async def test_a_suspended_turn_leaves_no_task_and_no_timer(path: Path) -> None:
    """However many there are."""
    loop = asyncio.get_running_loop()

    def held() -> tuple[int, int]:
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        return len(asyncio.all_tasks()), len(timers)

    async with Runtime(path, waiting(WAYS["approval"]), settings=SUSPENDED) as runtime:
        await runtime.tell("s", "play", None)
        await until(lambda: runtime.statistics().suspended == 1)
        await until(lambda: held()[0] <= 12)
        before = held()
        for number in range(50):
            await runtime.tell(f"s{number}", "play", None)
        await until(lambda: runtime.statistics().suspended == 51)
        await until(lambda: held()[0] <= before[0])

        assert held()[1] <= before[1] + 2
        assert rows(path, "SELECT count(*) FROM waits") == [(51,)]
