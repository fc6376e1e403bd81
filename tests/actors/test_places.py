"""Places: a log names where a task stands and where an error was raised, in the code that people wrote."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from looking import until

from turnkeeper.actors.places import digest, place, raised_at, stands_at
from turnkeeper.kernel.errors import StepFailed
from turnkeeper.kernel.names import StepName


async def outer() -> None:
    await inner()


async def inner() -> None:
    await asyncio.sleep(100)


async def stream() -> AsyncIterator[int]:
    await inner()
    yield 1


async def consumer() -> None:
    async for _ in stream():
        pass


async def gathered() -> None:
    await asyncio.gather(inner(), inner())


@pytest.mark.parametrize(("work", "where"), [(outer, "inner"), (consumer, "consumer"), (gathered, "gathered")])
async def test_a_task_that_waits_stands_at_its_innermost_place(work, where: str) -> None:
    """Through coroutines, and not in asyncio itself; Python does not show what an asynchronous generator waits for."""
    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)

    assert stands_at(task).startswith(f"{__file__}:")
    assert stands_at(task).endswith(f" in {where}")

    task.cancel()
    await until(task.done)
    assert stands_at(task) == ""


def test_a_frame_is_named_by_file_line_and_function() -> None:
    """As editors find it."""
    frame = sys._getframe()

    assert place(frame) == f"{__file__}:{frame.f_lineno} in test_a_frame_is_named_by_file_line_and_function"


def test_an_error_is_placed_where_it_was_raised() -> None:
    """A step's failure where its tool raised; an error that was never raised nowhere."""

    def boom() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        boom()
    failed = StepFailed(StepName("act", "#0"), "pure", "ValueError", "no")
    failed.__cause__ = caught.value

    assert raised_at(caught.value).endswith(" in boom")
    assert raised_at(failed) == raised_at(caught.value)
    assert raised_at(ValueError()) == ""
    assert digest(caught.value) != digest(ValueError())
