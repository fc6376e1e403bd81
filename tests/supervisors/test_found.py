"""What the kit has found in the runtime, each by itself, so that it stays found."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from looking import FAST, check_invariants, details, kinds, playing, said_under_two_hash_seeds, until

from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed
from turnkeeper.kernel.records import EdgeAppended, Record
from turnkeeper.testing import Fault, Faults, SimulatedWorld, run


class Refusing:
    """A store's `apply` that refuses commits, as a full disk does, while `left` is above zero."""

    def __init__(self, runtime: Runtime, *what: object) -> None:
        self._what = set(what)
        self._write = runtime._store.apply
        self.left = 0
        runtime._store.apply = self._apply  # type: ignore[method-assign]

    async def _apply(self, points: Sequence[Sequence[Record]]) -> object:
        kinds = {record.kind if isinstance(record, EdgeAppended) else type(record) for at in points for record in at}
        if self.left and kinds & self._what:
            self.left -= 1
            raise StorageFailed("store", "the disk is full")
        return await self._write(points)


async def test_a_duplicate_that_meets_a_failed_write_leaves_no_gap_in_the_edges(path: Path) -> None:
    """What memory holds of the turn is ahead of the store then: the duplicate's edge is numbered by the store."""

    @tool(effect=Effect.EFFECTFUL)
    async def act() -> str:
        return "acted"

    async def play(turn: Turn) -> str:
        return await turn.call(act)

    async with Runtime(path, [playing(play)], settings=FAST) as runtime:
        refusing = Refusing(runtime, "step_intended", "turn_requeued")
        refusing.left = 2  # the intent, and the first try to take the turn back
        first = await runtime.tell("s", "play", None, key="k")
        await until(lambda: not refusing.left)
        second = await runtime.tell("s", "play", None, key="k")
        with anyio.fail_after(5):
            result = await first.deliverable()

        assert (second.duplicate, second.turn_id, result.value) == (True, first.turn_id, "acted")
    assert kinds(path).count("duplicate_dropped") == 1
    assert details(path, "turn_requeued")[0].reason == "storage"
    check_invariants(path)


async def test_an_actor_that_is_being_spoken_to_does_not_leave_memory(path: Path) -> None:
    """With room for one idle actor, forty that are spoken to again and again all answer; no key is taken."""
    settings = Settings(synchronous="OFF", idle_agents_max=1)

    @agent("echo")
    async def echo(turn: Turn) -> object:
        return turn.input

    async with Runtime(path, [echo], settings=settings) as runtime:

        async def speak(number: int) -> list[object]:
            asked = [runtime.ask(f"s{number}", "echo", number, key=f"k{again % 2}") for again in range(4)]
            return [result.value for result in await asyncio.gather(*asked)]

        for _ in range(3):
            assert await asyncio.gather(*map(speak, range(40))) == [[number] * 4 for number in range(40)]
        await until(lambda: runtime.statistics().agents <= 1)

        assert runtime.statistics().accepted == 80
    check_invariants(path)


def test_a_heartbeat_that_fails_is_tried_again_before_the_next_is_due() -> None:
    """A short trouble with the disk costs no lease: the beat of second 15 fails, and is made up for in second 16."""
    leases = []

    async def life(world: SimulatedWorld) -> None:
        async with world.runtime([]):
            await asyncio.sleep(20.0)
            leases.append(world.disk.nodes[1].lease_until - world.disk.nodes[1].started_at)

    run(life, faults=Faults(at={2: Fault.FAIL}, latency_s=0.0))

    assert leases == [pytest.approx(16.0 + 45.0, abs=0.1)]


async def test_closing_leaves_no_task_behind_that_brings_an_actor_into_memory(path: Path) -> None:
    """It waits for no read, and the read's task is over all the same; who asked is told that the runtime closes."""
    runtime = Runtime(path, [agent("echo")(echoing)], settings=FAST)
    before = asyncio.all_tasks()
    await runtime.__aenter__()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    runtime._store.actor_id = never  # type: ignore[method-assign]
    telling = asyncio.create_task(runtime.tell("s", "echo", None))
    await until(lambda: runtime._reception._opening)
    with anyio.fail_after(5):
        await runtime.aclose()
    left = asyncio.all_tasks() - before - {telling}
    with pytest.raises(ShuttingDown):
        await telling

    assert not left


FORGOTTEN = """
import asyncio
from turnkeeper import Effect, Settings, agent, tool
from turnkeeper.testing import run

@tool(effect=Effect.IDEMPOTENT)
async def book(seat: str) -> None:
    await asyncio.sleep(0.01)

@agent("booking")
async def booking(turn):
    await asyncio.gather(*(turn.call(book.keyed(seat), seat) for seat in ("1A", "1B", "1C", "1D", "1E")))

async def life(world):
    for pause_s in (0.001, 0.003, 100.0):
        async with world.runtime([booking], settings=Settings(shutdown_s=0.001)) as runtime:
            await runtime.tell("s", "booking", None, key="k")
            await asyncio.sleep(pause_s)

print([run(life, seed=seed).digest for seed in range(60)])
"""


def test_what_is_written_of_steps_never_called_does_not_depend_on_how_strings_hash() -> None:
    """Closing cuts off five intents, whose names go into one edge: in their order, not in a set's."""

    assert len(said_under_two_hash_seeds(FORGOTTEN)) == 1


async def echoing(turn: Turn) -> object:
    return turn.input
