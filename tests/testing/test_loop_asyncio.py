"""The seeded loop has what asyncio promises: timeouts, groups, events, queues, locks, anyio's scopes."""

import asyncio
import gc
from typing import Any

import anyio
import pytest
from looping import Main, looped, now_s

from turnkeeper.testing import ReplayedSchedule, SeededLoop, Violated, run


async def timeout() -> object:
    try:
        async with asyncio.timeout(5):
            await asyncio.sleep(6)
    except TimeoutError:
        return now_s()
    return "no timeout"


async def group() -> object:
    async with asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(asyncio.sleep(number, number)) for number in range(4)]
    return [task.result() for task in found]


async def failing_group() -> object:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ArithmeticError

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(100))
            tasks.create_task(fail())
    except* ArithmeticError:
        pass
    return now_s()


async def scopes() -> object:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(anyio.sleep, 2)
        with anyio.move_on_after(1) as scope:
            await anyio.sleep(100)
    return scope.cancelled_caught, now_s()


async def event() -> object:
    gate = asyncio.Event()
    asyncio.get_running_loop().call_later(3, gate.set)
    await gate.wait()
    return now_s()


async def queue() -> object:
    letters: asyncio.Queue[int] = asyncio.Queue(2)

    async def fill() -> None:
        for number in range(6):
            await letters.put(number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fill())
        return [await letters.get() for _ in range(6)]


async def lock() -> object:
    guard, inside, most = asyncio.Lock(), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with guard:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(1)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(4)))
    return most, now_s()


async def shielded() -> object:
    work = asyncio.create_task(asyncio.sleep(2, "done"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(work), 1)
    return await work


async def threaded() -> object:
    return await asyncio.to_thread(lambda word, times: word * times, "ab", times=2), now_s()


async def failing_thread() -> object:
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)
    return now_s()


async def completed() -> object:
    return [await one for one in asyncio.as_completed([asyncio.sleep(number, number) for number in (3, 1, 2)])]


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (timeout, 5),
        (group, [0, 1, 2, 3]),
        (failing_group, 1),
        (scopes, (True, 2)),
        (event, 3),
        (queue, [0, 1, 2, 3, 4, 5]),
        (lock, (1, 4)),
        (shielded, "done"),
        (threaded, ("abab", 0)),
        (failing_thread, 0),
        (completed, [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_what_asyncio_has_works_as_it_does_everywhere(main: Main, expected: object, seed: int) -> None:
    """Timeouts, groups, locks, queues, shields and threads, under each kind of schedule."""

    assert looped(main, seed) == expected


def test_a_thread_that_is_cancelled_before_its_moment_is_not_run() -> None:
    """What nobody waits for any more does not begin."""
    ran: list[int] = []

    async def main() -> None:
        task = asyncio.create_task(asyncio.to_thread(ran.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)

    loop = SeededLoop(ReplayedSchedule({}))
    loop.run_until_complete(main())
    loop.abandon()

    assert ran == []


# ---------------------------------------------------------------- mishaps


def test_exceptions_that_nobody_retrieves_are_kept_as_mishaps() -> None:
    """Of tasks, of futures and of callbacks; what is retrieved is none."""

    async def fail(word: str) -> None:
        raise ArithmeticError(word)

    async def main() -> list[str]:
        loop: Any = asyncio.get_running_loop()
        asyncio.create_task(fail("of a task"))  # noqa: RUF006 - that is the point
        loop.create_future().set_exception(ArithmeticError("of a future"))
        loop.call_soon(lambda: 1 // 0)
        heard = asyncio.create_task(fail("heard"))
        await asyncio.wait([heard])
        heard.exception()
        await asyncio.sleep(1)
        return loop.mishaps

    mishaps = "\n".join(looped(main))

    assert "of a task" in mishaps
    assert "of a future" in mishaps
    assert "ZeroDivisionError" in mishaps
    assert "'heard'" not in mishaps


class Holding:
    """Starts a task of its own method and keeps it, as many classes do: a task that fails is part of a ring then."""

    def __init__(self) -> None:
        self.task = asyncio.create_task(self.fail())

    async def fail(self) -> None:
        raise ArithmeticError("unheard")


def test_an_exception_that_nobody_retrieves_is_heard_of_although_its_task_is_held_in_a_ring() -> None:
    """Whether something fails unheard may not depend on when the garbage collector runs."""

    async def life(world: object) -> None:
        Holding()
        await asyncio.sleep(1)

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Violated, match="nothing fails unheard"):
            run(life)
    finally:
        gc.enable()
        gc.collect()


def test_a_task_that_nobody_holds_lives_as_long_as_the_loop() -> None:
    """Equal runs are equal: what the garbage collector finds in one of them is not gone."""

    async def life(world: object) -> None:
        async def wait() -> None:
            await asyncio.Event().wait()

        asyncio.create_task(wait())  # noqa: RUF006 - that is the point
        await asyncio.sleep(1)
        gc.collect()
        await asyncio.sleep(1)

    run(life)
