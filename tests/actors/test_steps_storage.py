"""Steps on a store that fails: no effect without its intent, nothing lost, nothing repeated, and on it goes."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from looking import check_invariants, kinds, passed, rows, token, until

from turnkeeper import (
    Agent,
    DidNotHappen,
    Effect,
    Happened,
    Receipt,
    Runtime,
    Settings,
    Turn,
    agent,
    step_context,
    tool,
)
from turnkeeper.kernel.edge import EdgeKind
from turnkeeper.kernel.errors import StorageFailed, WaitTokenInvalid

FAST = Settings(synchronous="OFF", retry_base_s=0.001, shutdown_s=0.02)


def playing(handler: Callable, **options: object) -> Agent:
    return agent("play", **options)(handler)


class Disk:
    """Makes the disk of a runtime full, by SQLite's own limit on the writing connection, and gives room again."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._writer = runtime._store._writer

    async def fill(self) -> None:
        """Allow no further page, and use up what the pages still hold."""
        ((pages,),) = await self._writer.execute_fetchall("PRAGMA page_count")
        await self._writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFailed, match="full"):
            await self._use_up()

    async def _use_up(self) -> None:
        for number in range(1000):
            await self._runtime.tell(f"filler {number}", "filler", None)

    async def make_room(self) -> None:
        await self._writer.execute_fetchall("PRAGMA max_page_count = 1000000")


@agent("filler")
async def filler(turn: Turn) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_disk_that_is_full_in_the_middle_of_a_turn_loses_and_repeats_nothing(path: Path, size: int) -> None:
    """No effect runs without its intent; callers are refused; with room again the turn ends by itself."""
    reached, gate = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @tool(effect=Effect.EFFECTFUL)
    async def act(number: int, text: str) -> int:
        ran.append(f"act {number}")
        return number

    async def play(turn: Turn) -> list:
        first = await turn.step("first", lambda: ran.append("first") or 1)
        before = await turn.call(act, 2, "")
        reached.set()
        await gate.wait()
        return [first, before, await turn.call(act, 3, "x" * size)]

    settings = Settings(synchronous="OFF", retry_base_s=0.01, retry_cap_s=0.02, recoveries_max=5, shutdown_s=0.02)
    async with Runtime(path, [playing(play), filler], settings=settings) as runtime:
        disk = Disk(runtime)
        asking = asyncio.create_task(runtime.ask("s", "play", None))
        await reached.wait()
        await disk.fill()
        gate.set()
        with pytest.raises(StorageFailed):
            await runtime.tell("s", "play", "y" * 10_000)
        await passed(0.2)

        await until(
            lambda: runtime.statistics().persistence.failing
        )  # what is small may still fit between two failures
        assert ran == ["first", "act 2"]
        assert not asking.done()

        await disk.make_room()
        with anyio.fail_after(5):
            result = await asking
    check_invariants(path)

    assert result.value == [1, 2, 3]
    assert ran == ["first", "act 2", "act 3"]


async def test_a_result_that_could_not_be_recorded_stops_the_run_at_its_next_step(path: Path) -> None:
    """Results are not waited for: where one is lost the record would have a hole, so no effect follows it."""
    failed = asyncio.Event()
    ran: list[str] = []

    @tool(effect=Effect.EFFECTFUL)
    async def act() -> int:
        ran.append(f"act {step_context().attempt}")
        return 2

    async def play(turn: Turn) -> list:
        first = await turn.step("first", lambda: ran.append(f"first {turn.attempt}") or 1)
        await failed.wait()
        return [first, await turn.call(act)]

    async with Runtime(path, [playing(play)], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "play", None)
        write = runtime._store.apply

        async def failing(points: list) -> object:
            if failed.is_set():
                return await write(points)
            failed.set()
            raise StorageFailed("store", "an I/O error")

        runtime._store.apply = failing  # type: ignore[method-assign]
        with anyio.fail_after(5):
            result = await receipt.deliverable()
    check_invariants(path)

    assert result.value == [1, 2]
    assert ran == ["first 1", "first 2", "act 2"]


async def test_a_full_disk_does_not_use_up_a_turns_attempts(path: Path) -> None:
    """Where a large intent finds no room and a small requeue does, the turn waits, and is not quarantined."""
    ran, starts = [], []

    @tool(effect=Effect.EFFECTFUL)
    async def act(text: str) -> int:
        ran.append(1)
        return len(text)

    async def play(turn: Turn) -> int:
        starts.append(turn.attempt)
        return await turn.call(act, "x" * 100_000)

    settings = Settings(synchronous="OFF", retry_base_s=0.01, recoveries_max=5, shutdown_s=0.02)
    async with Runtime(path, [playing(play)], settings=settings) as runtime:
        await runtime._store._writer.execute_fetchall("PRAGMA max_page_count = 1")
        asking = asyncio.create_task(runtime.ask("s", "play", None))
        await passed(0.3)

        assert not asking.done()
        assert len(starts) < 10

        await Disk(runtime).make_room()
        with anyio.fail_after(5):
            assert (await asking).value == 100_000
        assert ran == [1]
    check_invariants(path)


async def test_a_duplicate_that_could_not_be_counted_leaves_no_gap(path: Path) -> None:
    """What the store refused is in no turn's history, and the next edge takes its place."""
    gate = asyncio.Event()

    async def play(turn: Turn) -> int:
        await gate.wait()
        return await turn.step("one", lambda: 1)

    async with Runtime(path, [playing(play), filler], settings=FAST) as runtime:
        for number in range(2):
            await runtime.tell("s", "play", None, key=str(number))
        disk = Disk(runtime)
        await disk.fill()
        for number in range(2):
            with suppress(StorageFailed):
                while True:
                    await runtime.tell("s", "play", None, key=str(number))
        await disk.make_room()
        gate.set()
        with anyio.fail_after(5):
            results = [await runtime.ask("s", "play", None, key=str(number)) for number in range(2)]

    assert [result.value for result in results] == [1, 1]
    check_invariants(path)


async def test_a_finding_that_could_not_be_stored_may_be_sent_again(path: Path) -> None:
    """`resolve` on a full disk raises, and the turn stands as before."""
    calls = []

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def act() -> str:
        calls.append(1)
        await asyncio.Event().wait()
        return "never"

    async def play(turn: Turn) -> str:
        return await turn.call(act)

    async with Runtime(path, [playing(play), filler], settings=FAST) as runtime:
        await runtime.tell("s", "play", None, key="k")
        await until(lambda: runtime.statistics().suspended == 1)
        disk = Disk(runtime)
        await disk.fill()
        with pytest.raises(StorageFailed):
            await runtime.resolve(1, Happened("x" * 10_000), token=await token(runtime, 1))
        await disk.make_room()
        await until(lambda: runtime.statistics().suspended == 1)
        await runtime.resolve(1, Happened("said so"), token=await token(runtime, 1))
        with anyio.fail_after(5):
            assert (await runtime.ask("s", "play", None, key="k")).value == "said so"

    assert len(calls) == 1
    check_invariants(path)


async def test_a_finding_that_comes_while_a_suspension_fails_is_refused(path: Path) -> None:
    """It is judged by where the turn stands once the store has said so, not by where it would have stood."""
    reading, read = asyncio.Event(), asyncio.Event()

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def act() -> None:
        await asyncio.Event().wait()

    async def play(turn: Turn) -> None:
        await turn.call(act)

    settings = Settings(synchronous="OFF", retry_base_s=60.0, shutdown_s=0.02)
    async with Runtime(path, [playing(play)], settings=settings) as runtime:
        await runtime.tell("s", "play", None)
        await until(lambda: runtime.statistics().suspended == 1)
        store, used = runtime._store, await token(runtime, 1)
        apply, edges, late = store.apply, store.edges, None

        async def slow(turn_id: int) -> object:
            store.edges = edges  # type: ignore[method-assign]
            found = await edges(turn_id)
            reading.set()
            await read.wait()
            return found

        async def failing(points: list) -> object:
            nonlocal late
            if EdgeKind.TURN_SUSPENDED not in [getattr(record, "kind", None) for point in points for record in point]:
                return await apply(points)
            store.apply, store.edges = apply, slow  # type: ignore[method-assign]
            late = asyncio.create_task(runtime.resolve(1, DidNotHappen(), token=used))
            await asyncio.wait([late, asyncio.create_task(reading.wait())], timeout=0.05)
            raise StorageFailed("store", "an I/O error")

        store.apply = failing  # type: ignore[method-assign]
        await runtime.resolve(1, DidNotHappen(), token=used)
        await until(lambda: "turn_requeued" in kinds(path))
        read.set()
        with anyio.fail_after(5), pytest.raises(WaitTokenInvalid):
            await late
    check_invariants(path)


async def test_a_runtime_closes_on_a_full_disk_and_the_next_one_goes_on(path: Path) -> None:
    """Closing does not wait for room; what could not be written is taken back by the next owner."""
    gate = asyncio.Event()

    async def play(turn: Turn) -> int:
        await gate.wait()
        return 1

    with anyio.fail_after(5):
        async with Runtime(path, [playing(play), filler], settings=FAST) as runtime:
            await runtime.tell("s", "play", None, key="k")
            await Disk(runtime).fill()
            gate.set()
        async with Runtime(path, [playing(play), filler], settings=FAST) as runtime:
            assert (await runtime.ask("s", "play", None, key="k")).value == 1
    check_invariants(path)


async def test_whichever_write_fails_nothing_is_lost_or_repeated(path: Path) -> None:
    """The 1st, 2nd, ... n-th write fails, until two turns pass untouched; the sender sends again under its key."""
    done: list[str] = []

    async def look_up(number: int) -> Happened | DidNotHappen:
        return Happened(number) if step_context().idempotency_key in done else DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, on_doubt=look_up)
    async def act(number: int) -> int:
        done.append(step_context().idempotency_key)
        return number

    async def play(turn: Turn) -> list:
        return [await turn.step("look", lambda: 0), await turn.call(act, 1), await turn.call(act, 2)]

    async with Runtime(path, [playing(play)], settings=FAST) as runtime:
        apply, write, fails = runtime._store.apply, 0, 0

        async def failing(points: list) -> object:
            nonlocal write
            write += 1
            if write != fails:
                return await apply(points)
            raise StorageFailed("store", "an I/O error")

        runtime._store.apply = failing  # type: ignore[method-assign]
        while write >= fails:
            write, fails = 0, fails + 1
            receipts: list[Receipt] = []
            with anyio.fail_after(5):
                while len(receipts) < 2:
                    with suppress(StorageFailed):
                        receipts.append(await runtime.tell(f"s{fails}", "play", None, key=str(len(receipts))))
                assert [(await receipt.deliverable()).value for receipt in receipts] == [[0, 1, 2]] * 2
            check_invariants(path)

    assert fails > 6
    assert len(done) == len(set(done)) == 4 * fails
    assert rows(path, "SELECT count(*) FROM turns") == [(2 * fails,)]
