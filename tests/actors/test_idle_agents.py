"""Idle session agents: thousands cost a few hundred bytes each and no task, and each goes on with its next inbound."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from looking import passed, until

from turnkeeper import Runtime, Settings, Turn, agent

pytestmark = pytest.mark.anyio

IDLE = 2_000
BYTES_MAX = 500
WARM = 500
"""Visits before the count: what is cached once belongs to no agent."""

SETTINGS = Settings(synchronous="OFF", shutdown_s=0.02, idle_agents_max=IDLE + WARM, lag_s=0)


@agent("support")
async def support(turn: Turn) -> object:
    return turn.input


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def settled(each: Callable[[], float]) -> float:
    """Return what an agent holds once who asked last has gone; after 10 s, what it holds still."""
    for _ in range(100):
        if each() <= BYTES_MAX:
            break
        await passed(0.1)
    return each()


async def visit(runtime: Runtime, sessions: int, since: int = 0) -> None:
    """Have a turn in each of so many sessions, whose ids have 20 characters."""
    for first in range(since, since + sessions, 500):
        visits = (runtime.ask(f"session-{number:012}", "support", 1) for number in range(first, first + 500))
        await asyncio.gather(*visits)


async def test_an_idle_session_agent_costs_few_bytes_and_no_task(path: Path) -> None:
    """All that is held of it is counted: itself, its address with its id, and its places in the reception."""
    with anyio.fail_after(60):
        async with Runtime(path, [support], settings=SETTINGS) as runtime:
            await visit(runtime, WARM)
            tasks = len(asyncio.all_tasks())
            tracemalloc.start()
            try:
                before = traced()
                await visit(runtime, IDLE, WARM)
                each = await settled(lambda: (traced() - before) / IDLE)
            finally:
                tracemalloc.stop()

            assert runtime.statistics().agents == IDLE + WARM
            assert len(asyncio.all_tasks()) <= tasks
            assert each <= BYTES_MAX


async def test_an_idle_session_agent_takes_its_next_turns_in_their_order(path: Path) -> None:
    """One that had let go of its mailbox has one again: for several at once, for a key that comes twice, each time."""
    async with Runtime(path, [support], settings=SETTINGS) as runtime:
        for visit_number in range(3):
            receipts = [await runtime.tell("s", "support", number) for number in range(10)]
            first = await runtime.tell("s", "support", "keyed", key=f"key {visit_number}")
            again = await runtime.tell("s", "support", "keyed", key=f"key {visit_number}")
            ended = [(await receipt.deliverable()).value for receipt in receipts]

            assert ended == list(range(10))
            assert (again.turn_id, again.duplicate) == (first.turn_id, True)
            assert (await again.deliverable()).value == "keyed"
            await until(lambda: runtime.statistics().running == 0)


async def test_idle_session_agents_share_nothing_that_could_be_written_to(path: Path) -> None:
    """Turns of one session never stand in another's mailbox."""
    async with Runtime(path, [support], settings=SETTINGS) as runtime:
        await visit(runtime, 500)
        held = [agent for agent in runtime._reception.agents() if agent.idle]
        assert len(held) == 500
        with pytest.raises(AttributeError):
            held[0]._queue.append(None)
        with pytest.raises(TypeError):
            held[0]._by_key["key"] = None
        await runtime.say("agents/support", "pause")
        await runtime.tell("session-000000000000", "support", 1, key="mine")

        assert [agent.address.session_id for agent in held if agent.open_turns()] == ["session-000000000000"]
        assert all(agent.open_turn("mine") is None for agent in held[1:])
