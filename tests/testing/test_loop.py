"""The seeded loop: time that costs nothing, order that a seed chooses, and an end for whatever would never end."""

import asyncio
import gc
import re
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from looking import said_under_two_hash_seeds
from looping import looped, now_s

from turnkeeper.testing import Deadlocked, ReplayedSchedule, SeededLoop, SeededSchedule, Stalled, Violated
from turnkeeper.testing.loop import waiting_tasks
from turnkeeper.testing.violated import Killed

# ---------------------------------------------------------------- time


def test_an_hour_of_sleep_costs_nothing() -> None:
    """Time jumps to the next timer when nothing is ready."""

    async def main() -> float:
        for _ in range(60):
            await asyncio.sleep(60)
        return now_s()

    begun = time.perf_counter()

    assert looped(main) == 3_600
    assert time.perf_counter() - begun < 0.5


def test_time_begins_where_it_is_told_to() -> None:
    """`start_s` is the first moment, and the limit counts from there."""

    async def main() -> float:
        await asyncio.sleep(9)
        return now_s()

    assert looped(main, start_s=100.0, limit_s=10.0) == 109


@pytest.mark.parametrize("seed", range(4))
def test_timers_ring_in_the_order_of_their_moments(seed: int) -> None:
    """Whatever the schedule, what is due earlier runs earlier."""

    async def main() -> list[float]:
        rung: list[float] = []
        for number in (5, 1, 4, 2, 3):
            asyncio.get_running_loop().call_later(number, rung.append, number)
        await asyncio.sleep(10)
        return rung

    assert looped(main, seed) == [1, 2, 3, 4, 5]


def test_timers_of_one_moment_all_ring_in_it_and_in_an_order_of_the_seed() -> None:
    """A tie is for the schedule to decide: equal seeds agree, others differ; no timer is lost or late."""

    async def main() -> tuple[list[int], float]:
        rung: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(6):
            loop.call_at(1.0, rung.append, number)
        await asyncio.sleep(1)
        moment = loop.time()
        while len(rung) < 6:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)
        assert loop.time() == moment == 1
        return rung, moment

    orders = [tuple(looped(main, seed)[0]) for seed in range(20)]

    assert orders == [tuple(looped(main, seed)[0]) for seed in range(20)]
    assert len(set(orders)) > 5
    assert all(sorted(order) == list(range(6)) for order in orders)


def test_cancelled_timers_do_not_ring_and_do_not_stay() -> None:
    """Thousands of timers that are set and cancelled leave no more than a few hundred behind."""

    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        rung: list[int] = []
        most = 0
        for number in range(3_000):
            loop.call_later(50_000, rung.append, number).cancel()
            if number % 10 == 0:
                await asyncio.sleep(0.001)
            most = max(most, len(loop._scheduled))
        await asyncio.sleep(60_000)

        assert rung == []
        return most

    assert looped(main) < 300


def test_a_timer_cancelled_by_what_rings_with_it_does_not_ring() -> None:
    """Cancelling works until the very step: also where both were due at one moment."""

    async def main() -> list[str]:
        loop, rung = asyncio.get_running_loop(), []
        timers: list[Any] = []

        def ring(me: int) -> None:
            rung.append("ring")
            timers[1 - me].cancel()

        timers += [loop.call_at(1, ring, 0), loop.call_at(1, ring, 1)]
        await asyncio.sleep(2)
        return rung

    assert [looped(main, seed) for seed in range(8)] == [["ring"]] * 8


def test_whoever_looks_before_time_passes_looks_at_every_jump_and_may_end_the_run() -> None:
    """Called when nothing is ready; not called while something is; what it raises comes out."""

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            await asyncio.sleep(1)

    loop = SeededLoop(SeededSchedule(0))
    looks: list[float] = []

    def look() -> None:
        looks.append(loop.time())
        if loop.time() == 2:
            raise Violated("looking", "seen")

    loop.before_time_passes.append(look)
    with pytest.raises(Violated, match="looking"):
        loop.run_until_complete(main())
    loop.abandon()

    assert looks == [0, 1, 2]


def test_what_a_look_makes_ready_runs_before_time_passes() -> None:
    """A look may speak: then it is no moment for time to go on."""

    async def main() -> float:
        loop: Any = asyncio.get_running_loop()
        said = loop.create_future()
        loop.before_time_passes.append(lambda: said.done() or said.set_result(loop.time()))
        loop.call_later(5, int)
        return await said + loop.time()

    assert looped(main) == 0


# ---------------------------------------------------------------- who runs next


async def three() -> str:
    order: list[str] = []

    async def say(word: str) -> None:
        order.append(word)

    await asyncio.gather(*(say(word) for word in "abc"))
    return "".join(order)


def test_some_seed_gives_each_order_of_three_tasks() -> None:
    """No order is out of reach."""

    assert {looped(three, seed) for seed in range(60)} == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_one_seed_always_gives_the_same_order() -> None:
    """What happens follows from the schedule, and from nothing else."""

    assert all(len({looped(three, seed) for _ in range(5)}) == 1 for seed in range(20))


def test_without_upsets_the_order_is_that_of_arrival() -> None:
    """A schedule that always takes the first in line gives asyncio's own order."""
    loop = SeededLoop(ReplayedSchedule({}))

    assert loop.run_until_complete(three()) == "abc"

    loop.abandon()


def test_sets_of_tasks_and_futures_are_walked_alike_in_every_run() -> None:
    """Their place in a set follows from their number, wherever the allocator puts them."""

    async def main() -> list[str]:
        async def wait() -> None:
            await asyncio.sleep(1)

        tasks = {asyncio.create_task(wait()) for _ in range(50)}
        done, _ = await asyncio.wait(tasks)
        return [task.get_name() for task in (*tasks, *done)]

    ballast: list[Any] = []

    def walk() -> list[str]:
        ballast.append([object() for _ in range(len(ballast) * 1_000)])
        return looped(main, 3)

    first = walk()

    assert all(walk() == first for _ in range(5))


def test_tasks_are_listed_in_the_order_of_their_creation() -> None:
    """Those that are done are left out."""

    async def main() -> list[str]:
        loop: Any = asyncio.get_running_loop()
        started = [asyncio.create_task(asyncio.sleep(number % 2), name=f"{number}") for number in range(9)]
        await asyncio.sleep(0.5)
        found = [task.get_name() for task in loop.tasks()[1:]]
        await asyncio.gather(*started)
        return found

    assert looped(main) == ["1", "3", "5", "7"]


def test_a_task_without_a_name_is_named_by_its_coroutine() -> None:
    """The name is the same in every run, so it can stand in a message."""

    async def main() -> list[str]:
        async def errand() -> None: ...

        tasks = [asyncio.create_task(errand()), asyncio.create_task(errand(), name="mine")]
        await asyncio.gather(*tasks)
        return [task.get_name() for task in tasks]

    unnamed, named = looped(main)

    assert "errand-" in unnamed
    assert named == "mine"


MIXED = """
import asyncio
from turnkeeper import Effect, agent, tool
from turnkeeper.testing import Faults, Load, run

@tool(effect=Effect.IDEMPOTENT)
async def lift(word: str) -> str:
    await asyncio.sleep(0.01)
    return word.upper()

@agent("echo")
async def echo(turn):
    return await asyncio.gather(*(turn.call(lift.keyed(word), word) for word in turn.input))

async def life(world):
    async with world.runtime([echo]) as runtime, asyncio.timeout(500), asyncio.TaskGroup() as group:
        tasks = {group.create_task(runtime.ask(f"s{n % 3}", "echo", list("abc"), key=str(n))) for n in range(9)}
        for task in tasks:
            await task

print([run(life, seed=seed, faults=Faults(crash_rate=0.02)).digest for seed in range(6)])
"""


def test_equal_runs_in_two_processes_have_equal_digests() -> None:
    """Not even the hashes of strings make a difference."""
    said = said_under_two_hash_seeds(MIXED)

    assert len(said) == 1
    assert len(set(eval(said.pop()))) == 6


# ---------------------------------------------------------------- what never ends


def test_a_deadlock_names_every_waiting_task_and_its_place() -> None:
    """Nothing is ready, no timer is set: the innermost place is said, through every await."""

    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    async def main() -> None:
        held = [asyncio.create_task(outer(), name="first"), asyncio.create_task(outer(), name="second")]
        await asyncio.gather(*held)

    with pytest.raises(Deadlocked) as caught:
        looped(main)

    assert caught.value.rule == "no deadlock"
    for name in ("first", "second"):
        assert re.search(rf"{name} waits in .*inner \(test_loop.py:\d+\)", caught.value.what)
    assert "main" in caught.value.what


def test_a_deadlock_of_many_names_some_and_counts_the_rest() -> None:
    """A message stays short enough to be read."""

    async def main() -> None:
        gate = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(gate.wait(), name=f"waiter {number}")

    with pytest.raises(Deadlocked, match="and 21 more") as caught:
        looped(main)

    assert len(caught.value.what.splitlines()) == 22


def test_a_task_that_has_not_begun_waits_before_its_first_step() -> None:
    """Its coroutine stands nowhere yet."""

    async def main() -> str:
        loop: Any = asyncio.get_running_loop()
        task = asyncio.create_task(asyncio.sleep(0), name="later")
        said = waiting_tasks(loop)
        await task
        return said

    loop = SeededLoop(SeededSchedule(0))
    said = waiting_tasks(loop)
    loop.abandon()

    assert "later waits" in looped(main)
    assert said == "no task waits"


def test_what_goes_round_without_time_passing_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy loop ends after so many steps; steps count anew whenever time passes."""
    monkeypatch.setattr("turnkeeper.testing.loop._STEPS_WITHOUT_TIME_MAX", 1_000)

    async def patient() -> str:
        for number in range(3_000):
            await asyncio.sleep(0.001 * (number % 500 == 0))
        return "ended"

    async def busy() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    assert looped(patient) == "ended"

    with pytest.raises(Stalled, match=r"1,000 steps without time passing.*\n.*busy"):
        looped(busy)


def test_what_takes_longer_than_its_virtual_time_is_stalled() -> None:
    """The limit is a promise to whoever waits for the run."""

    async def main() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(7)

    with pytest.raises(Stalled, match="not over after 1,000 virtual seconds") as caught:
        looped(main, limit_s=1_000.0)

    assert caught.value.rule == "no stall"
    assert "main" in caught.value.what


# ---------------------------------------------------------------- killed


def test_a_kill_ends_the_run_after_the_step_that_is_under_way() -> None:
    """What stands in the same step still happens; nothing of any other step does."""
    seen: list[str] = []

    async def other() -> None:
        while True:
            await asyncio.sleep(0)
            seen.append("other")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        held = asyncio.create_task(other())
        await asyncio.sleep(0)
        loop.kill()
        seen.append("this step")
        await asyncio.sleep(0)
        seen.append(f"never {held}")

    with pytest.raises(Killed):
        looped(main)

    assert seen[-1] == "this step"


class Abandoned:
    """Tasks in every state: begun, not begun, in a group, shielded, all with words left to say."""

    def __init__(self) -> None:
        self.went_on: list[str] = []

    @asynccontextmanager
    async def lock(self) -> Any:
        try:
            yield
        finally:
            await asyncio.sleep(1)
            self.went_on.append("lock")

    async def polite(self) -> None:
        try:
            async with self.lock():
                await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.went_on.append("polite")

    async def starting(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.more = asyncio.create_task(self.polite())
            self.went_on.append("starting")

    async def grouped(self) -> None:
        async with asyncio.TaskGroup() as group, asyncio.timeout(100):
            group.create_task(self.polite())
            group.create_task(asyncio.sleep(100))
            await asyncio.shield(asyncio.create_task(self.polite()))

    async def scoped(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.polite)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(100)

    async def main(self) -> None:
        tasks = [asyncio.create_task(task()) for task in (self.polite, self.starting, self.grouped, self.scoped)]
        await asyncio.sleep(1)
        tasks += [asyncio.create_task(self.polite()), asyncio.create_task(self.grouped())]
        loop: Any = asyncio.get_running_loop()
        loop.kill()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(6))
def test_an_abandoned_loop_resumes_nothing_and_warns_of_nothing(
    seed: int, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever state its tasks are in, and whatever they have left to say."""
    abandoned, loop = Abandoned(), SeededLoop(SeededSchedule(seed))
    with pytest.raises(Killed):
        loop.run_until_complete(abandoned.main())
    loop.abandon()
    mishaps = loop.mishaps
    del loop
    gc.collect()

    assert abandoned.went_on == []
    assert mishaps == []
    assert list(recwarn) == []
    assert caplog.records == []
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_abandoning_runs_the_finally_blocks_and_closes_the_loop() -> None:
    """As far as they get without anybody answering: what they do not wait for happens."""
    said: list[str] = []

    async def task() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            said.append("first word")
            await asyncio.sleep(1)
            said.append("never")

    async def main() -> None:
        held = asyncio.create_task(task())
        await asyncio.sleep(1)
        asyncio.get_running_loop().kill()  # type: ignore[attr-defined]
        await held

    loop = SeededLoop(SeededSchedule(0))
    with pytest.raises(Killed):
        loop.run_until_complete(main())
    loop.abandon()

    assert said == ["first word"]
    assert loop.is_closed()


def test_an_async_generator_that_is_closing_is_abandoned_like_any_other() -> None:
    """Its closing is a task of the loop's own, whose coroutine is none."""

    async def pages() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(100)

    async def main() -> None:
        async for _ in pages():
            break
        gc.collect()
        await asyncio.sleep(1)
        asyncio.get_running_loop().kill()  # type: ignore[attr-defined]

    loop = SeededLoop(SeededSchedule(0))
    with pytest.raises(Killed):
        loop.run_until_complete(main())
    try:
        loop.abandon()
    finally:
        loop.close()


INSIDE = """
import asyncio
from turnkeeper.testing import run

async def life(world): ...

async def main():
    try:
        run(life)
    except RuntimeError as error:
        print(error)
    await asyncio.sleep(0.001)
    print("goes on")

asyncio.run(main())
"""


def test_a_world_run_inside_another_loop_is_refused_and_leaves_it_alone() -> None:
    """A run has a loop of its own: in an async test it cannot run, and the test can go on."""
    command = [sys.executable, "-c", INSIDE]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)

    assert "another loop is running" in said.stdout
    assert "goes on" in said.stdout
