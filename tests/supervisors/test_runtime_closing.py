"""The runtime as a guest of its process: what it holds, and what is left of it when it closes or crashes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from looking import rows, until

from turnkeeper import Agent, Receipt, Runtime, Settings, Turn, agent
from turnkeeper.actors.node import Node
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed, StoreInUse
from turnkeeper.kernel.supervision.child import Exited
from turnkeeper.supervisors import writer

QUICK = Settings(synchronous="OFF", shutdown_s=0.02)
PATIENT = Settings(synchronous="OFF", shutdown_s=30)

seen: ContextVar[str] = ContextVar("seen", default="nothing")


class Stage:
    """An agent `play` that notes its starts and ends, and holds every turn until `gate` is set."""

    def __init__(self, *, held: bool = True) -> None:
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()
        self.started: list[Turn] = []
        self.cleaned: list[Turn] = []

        @agent("play")
        async def play(turn: Turn) -> object:
            self.started.append(turn)
            try:
                await self.gate.wait()
            finally:
                await checkpoint()
                self.cleaned.append(turn)
            return turn.input

        self.play: Agent = play

    def attempts(self) -> list:
        return [(turn.input, turn.attempt) for turn in self.started]


class Tasks:
    """Tells the tasks that have come since it was made."""

    def __init__(self) -> None:
        self._before = asyncio.all_tasks()

    def left(self) -> set:
        return asyncio.all_tasks() - self._before


def slow_to_end(order: list[str], may_end: Callable[[Node], bool]) -> Callable[[Node], Awaitable[None]]:
    """Return a heartbeat that, cancelled, ends some cycles after it may, and notes that in the order of events."""

    async def beat(node: Node) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await until(lambda: may_end(node))
            for _ in range(5):
                await checkpoint()
            order.append("ended")

    return beat


async def clean_up(runtime: Runtime) -> None:
    """Close what a failed test left open: aiosqlite's thread would keep the test process from ending."""
    for connection in (runtime._store._reader, runtime._store._writer):
        if connection is not None:
            connection.stop()


# ---------------------------------------------------------------- closing


async def test_a_runtime_that_is_not_open_accepts_nothing(path: Path) -> None:
    """Before it is entered and after it is left, every door says `ShuttingDown`."""
    runtime = Runtime(path, [Stage().play], settings=QUICK)
    doors = (
        lambda: runtime.tell("s", "play", 1),
        lambda: runtime.ask("s", "play", 1),
        lambda: runtime.receipt("s", "play", "k"),
        lambda: runtime.resolve(1, None, token="x"),
    )
    for door in doors:
        with pytest.raises(ShuttingDown):
            await door()
    with pytest.raises(ShuttingDown):
        runtime.statistics()
    async with runtime:
        pass
    for door in doors:
        with pytest.raises(ShuttingDown):
            await door()

    assert rows(path, "SELECT count(*) FROM receipts") == [(0,)]


async def test_closing_refuses_new_work_and_lets_running_turns_finish(path: Path) -> None:
    """Within `shutdown_s` a running turn ends, and who waits for it is answered; nothing new starts."""
    tasks = Tasks()
    stage = Stage()
    runtime = await Runtime(path, [stage.play], settings=PATIENT).__aenter__()
    asking = asyncio.create_task(runtime.ask("s", "play", "runs"))
    await until(lambda: stage.started)
    await runtime.tell("s", "play", "waits")
    leaving = asyncio.create_task(runtime.aclose())
    for _ in range(10):
        await checkpoint()
    with pytest.raises(ShuttingDown):
        await runtime.tell("s", "play", "late")
    stage.gate.set()
    await leaving

    assert (await asking).value == "runs"
    assert stage.attempts() == [("runs", 1)]
    assert rows(path, "SELECT state, attempt FROM turns ORDER BY turn_id") == [("completed", 1), ("queued", 1)]
    assert tasks.left() == set()


async def test_what_closing_cuts_off_goes_back_and_finishes_in_the_next_runtime(path: Path) -> None:
    """After `shutdown_s` a running turn returns to the head of its queue; every waiting ask resolves."""
    tasks = Tasks()
    stage = Stage()
    with anyio.fail_after(5):
        async with Runtime(path, [stage.play], settings=QUICK) as runtime:
            waiting = [
                asyncio.create_task(runtime.ask(session, "play", f"{session}{n}", key=f"{session}{n}"))
                for session in "ab"
                for n in range(3)
            ]
            await until(lambda: runtime.statistics().accepted == 6 and len(stage.started) == 2)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [ShuttingDown] * 6
    assert len(stage.cleaned) == 2
    assert rows(path, "SELECT DISTINCT state FROM turns") == [("queued",)]
    assert rows(path, "SELECT count(*) FROM nodes WHERE stopped_at IS NOT NULL") == [(1,)]
    assert tasks.left() == set()

    stage.gate.set()
    stage.started.clear()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        results = await asyncio.gather(*(runtime.ask(key[0], "play", key, key=key) for key in ("a0", "a2", "b2")))
        await until(lambda: runtime.statistics().completed == 6)

    assert [result.value for result in results] == ["a0", "a2", "b2"]
    for session in "ab":
        order = [attempt for attempt in stage.attempts() if attempt[0].startswith(session)]
        assert order == [(f"{session}0", 2), (f"{session}1", 1), (f"{session}2", 1)]


async def test_a_tell_that_meets_the_closing_is_accepted_for_good_or_refused(path: Path) -> None:
    """No letter is lost: what got a receipt runs, here or in the next runtime; the others were refused."""
    tasks = Tasks()
    stage = Stage(held=False)
    outcomes: list = []
    for _ in range(5):
        runtime = await Runtime(path, [stage.play], settings=QUICK).__aenter__()
        telling = [asyncio.create_task(runtime.tell(f"s{n}", "play", n)) for n in range(20)]
        for _ in range(len(outcomes) // 10):
            await checkpoint()
        with anyio.fail_after(5):
            await runtime.aclose()
            outcomes += await asyncio.gather(*telling, return_exceptions=True)
    accepted = [outcome.turn_id for outcome in outcomes if isinstance(outcome, Receipt)]

    assert {type(outcome) for outcome in outcomes} <= {Receipt, ShuttingDown}
    assert sorted(accepted) == [row[0] for row in rows(path, "SELECT receipt_id FROM receipts ORDER BY 1")]
    assert tasks.left() == set()

    async with Runtime(path, [stage.play], settings=PATIENT) as runtime:
        await until(lambda: runtime.statistics().running + runtime.statistics().queued == 0)
    assert {turn.turn_id for turn in stage.started} == set(accepted)


async def test_a_tell_that_the_closing_overtakes_is_refused(path: Path) -> None:
    """A caller whose actor is still being read when the runtime closes hears `ShuttingDown`."""
    tasks = Tasks()
    gate = asyncio.Event()
    runtime = await Runtime(path, [Stage().play], settings=QUICK).__aenter__()
    read = runtime._store.actor_id

    async def slow(address: object) -> object:
        found = await read(address)
        await gate.wait()
        return found

    runtime._store.actor_id = slow  # type: ignore[method-assign]
    asking = asyncio.create_task(runtime.ask("s", "play", 1))
    await checkpoint()
    await runtime.aclose()
    gate.set()
    with anyio.fail_after(5), pytest.raises(ShuttingDown):
        await asking

    assert tasks.left() == set()
    assert rows(path, "SELECT count(*) FROM receipts") == [(0,)]


async def test_a_handler_that_swallows_cancellation_does_not_hang_the_closing(path: Path) -> None:
    """Closing is bounded; a handler that is deaf to it changes nothing later, and leaves no task once it ends."""
    tasks = Tasks()
    gate, begun, deaf = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent("play")
    async def play(turn: Turn) -> str:
        begun.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                deaf.set()
        return "too late"

    with anyio.fail_after(5):
        async with Runtime(path, [play], settings=QUICK) as runtime:
            waiting = asyncio.create_task(runtime.ask("s", "play", 1))
            await begun.wait()
        with pytest.raises(ShuttingDown):
            await waiting

    assert deaf.is_set()
    assert len(tasks.left()) == 1

    gate.set()
    for _ in range(100):
        await checkpoint()
    assert tasks.left() == set()
    assert rows(path, "SELECT count(*) FROM deliverables") == [(0,)]


async def test_closing_twice_at_once_closes_once(path: Path) -> None:
    """`aclose` may be called again, one after the other or side by side."""
    tasks = Tasks()
    runtime = await Runtime(path, [Stage().play], settings=QUICK).__aenter__()
    try:
        with anyio.fail_after(5):
            await asyncio.gather(runtime.aclose(), runtime.aclose())
            await runtime.aclose()
    finally:
        await clean_up(runtime)

    assert tasks.left() == set()
    assert rows(path, "SELECT count(*) FROM nodes WHERE stopped_at IS NOT NULL") == [(1,)]


# ---------------------------------------------------------------- bodies that end badly


async def test_a_body_that_raises_still_closes_the_file(path: Path) -> None:
    """The error passes through, the file is free, the turn goes on in the next runtime."""
    tasks = Tasks()
    stage = Stage()

    async def body() -> None:
        async with Runtime(path, [stage.play], settings=QUICK) as runtime:
            await runtime.tell("s", "play", 1, key="k")
            raise LookupError("the body's own")

    with pytest.raises(LookupError, match="the body's own"):
        await body()

    assert tasks.left() == set()
    stage.gate.set()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        assert (await runtime.ask("s", "play", 1, key="k")).value == 1


async def test_a_body_that_is_cancelled_still_closes_the_file(path: Path) -> None:
    """Cancelled by a scope around it, the runtime closes as in good order."""
    tasks = Tasks()
    stage = Stage()
    with anyio.CancelScope() as scope:
        async with Runtime(path, [stage.play], settings=QUICK) as runtime:
            receipt = await runtime.tell("s", "play", 1)
            await until(lambda: bool(stage.started))
            scope.cancel()
            await receipt.deliverable()

    assert scope.cancelled_caught
    assert tasks.left() == set()
    assert rows(path, "SELECT state FROM turns") == [("queued",)]


async def test_a_closing_that_is_cancelled_still_closes_the_file(path: Path) -> None:
    """A task cancelled twice (a second Ctrl-C) leaves no open connection behind."""
    tasks = Tasks()
    stage = Stage()
    runtime = Runtime(path, [stage.play], settings=Settings(synchronous="OFF", shutdown_s=0.1))

    async def body() -> None:
        async with runtime:
            await runtime.ask("s", "play", 1)

    living = asyncio.create_task(body())
    try:
        await until(lambda: stage.started)
        living.cancel()
        for _ in range(10):
            await checkpoint()
        living.cancel()
        await asyncio.wait([living])
        await until(lambda: not tasks.left())
    finally:
        await clean_up(runtime)

    assert living.cancelled()
    assert rows(path, "SELECT state FROM turns") == [("queued",)]
    async with Runtime(path, [stage.play], settings=QUICK):
        pass


async def test_a_store_in_use_is_refused_and_its_owner_goes_on(path: Path) -> None:
    """One runtime owns a file, by whatever path; the second changes nothing and may come later."""
    stage = Stage(held=False)
    (path.parent / "other").symlink_to(path)
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        second = Runtime(path.parent / "other", [stage.play], settings=QUICK)
        with pytest.raises(StoreInUse) as caught:
            await second.__aenter__()
        await second.aclose()

        assert caught.value.path.endswith(path.name)
        assert (await runtime.ask("s", "play", 1)).value == 1
        assert rows(path, "SELECT count(*) FROM nodes") == [(1,)]
    async with second:
        assert (await second.ask("s", "play", 2)).value == 2


async def test_the_heartbeat_has_ended_before_the_store_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes its time: what is closed runs no more."""
    order: list[str] = []

    async def close() -> None:
        order.append("closed")
        await closing()

    monkeypatch.setattr(writer, "beat", slow_to_end(order, lambda node: node.persistence._stopped is not None))
    async with Runtime(path, [], settings=QUICK) as runtime:
        closing, runtime._store.close = runtime._store.close, close  # type: ignore[method-assign]

    assert order[:2] == ["ended", "closed"]


# ---------------------------------------------------------------- a writer that crashes


class Crash:
    """Makes the store raise what no store should: a bug of ours."""

    def __init__(self, runtime: Runtime) -> None:
        runtime._store.apply = self.apply  # type: ignore[method-assign]

    async def apply(self, points: list) -> None:
        raise ZeroDivisionError("a bug in the store")


async def test_a_writer_that_crashes_tells_the_caller_what_it_was(path: Path) -> None:
    """The caller whose commit it was, and all who come later, hear what crashed and what to do."""
    tasks = Tasks()
    stage = Stage()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        Crash(runtime)
        with pytest.raises(StorageFailed, match=r"ZeroDivisionError: a bug in the store.*send again"):
            await runtime.tell("s", "play", 1)
        with pytest.raises(StorageFailed):  # it is started anew, and crashes at once
            await runtime.tell("s", "play", 1)

    assert tasks.left() == set()
    async with Runtime(path, [stage.play], settings=QUICK):
        pass


async def test_a_writer_starts_anew_only_when_the_heartbeat_of_the_one_that_crashed_has_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two boots never share a store."""
    order: list[str] = []
    start = writer.Writer.start

    async def close() -> None:
        order.append("closed")
        await closing()

    def starting(self: writer.Writer, exited: Exited) -> Awaitable[None]:
        order.append("start")
        return start(self, exited)

    monkeypatch.setattr(writer, "beat", slow_to_end(order, lambda _: order.count("start") > 1))
    monkeypatch.setattr(writer.Writer, "start", starting)
    async with Runtime(path, [Stage().play], settings=QUICK) as runtime:
        closing, apply, runtime._store.close = runtime._store.close, runtime._store.apply, close  # type: ignore[method-assign]
        Crash(runtime)
        with pytest.raises(StorageFailed):
            await runtime.tell("s", "play", 1)
        runtime._store.apply = apply  # type: ignore[method-assign]
        await until(lambda: "closed" in order)

    assert order[:4] == ["start", "start", "ended", "closed"]


async def test_a_writer_that_crashes_tells_everyone_who_waits(path: Path) -> None:
    """Whoever waits for a deliverable is told at once, not when the runtime is left; the turns stand in the file."""
    tasks = Tasks()
    stage = Stage()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        waiting = [asyncio.create_task(runtime.ask("s", "play", n, key=str(n))) for n in range(3)]
        await until(lambda: runtime.statistics().accepted == 3)
        Crash(runtime)
        with pytest.raises(StorageFailed):
            await runtime.tell("other", "play", 1)
        with anyio.fail_after(2):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)

        assert {type(outcome) for outcome in outcomes} == {StorageFailed}

    assert tasks.left() == set()
    stage.gate.set()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        assert [(await runtime.ask("s", "play", n, key=str(n))).value for n in range(3)] == [0, 1, 2]


async def test_a_writer_that_crashes_under_a_running_turn_publishes_nothing(path: Path) -> None:
    """A turn whose end could not be committed has no deliverable; it ends in the next runtime, once."""
    stage = Stage()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        waiting = asyncio.create_task(runtime.ask("s", "play", 1, key="k"))
        await until(lambda: stage.started)
        Crash(runtime)
        stage.gate.set()
        with anyio.fail_after(2), pytest.raises(StorageFailed, match="a bug in the store"):
            await waiting

    assert rows(path, "SELECT state FROM turns") == [("running",)]
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        assert (await runtime.ask("s", "play", 1, key="k")).value == 1
        assert rows(path, "SELECT count(*) FROM deliverables") == [(1,)]


# ---------------------------------------------------------------- what a runtime holds


async def test_idle_agents_are_bounded_and_come_back(path: Path) -> None:
    """At most `idle_agents_max` idle agents are in memory; those that left answer, and deduplicate, as before."""
    stage = Stage(held=False)
    settings = Settings(synchronous="OFF", idle_agents_max=3)
    async with Runtime(path, [stage.play], settings=settings) as runtime:
        for n in range(10):
            await runtime.ask(f"s{n}", "play", n, key="k")
        await until(lambda: runtime.statistics().agents == 3)
        again = await runtime.tell("s0", "play", 0, key="k")

        assert again.duplicate
        assert (await again.deliverable()).value == 0
        assert (await runtime.ask("s0", "play", "more")).value == "more"
        assert rows(path, "SELECT count(*) FROM actors") == [(10,)]
        await until(lambda: runtime.statistics().agents == 3)


async def test_callers_who_leave_before_acceptance_leave_no_agents_behind(path: Path) -> None:
    """An agent that was opened for a caller who is gone is idle, and bounded as such."""
    stage = Stage(held=False)
    async with Runtime(path, [stage.play], settings=Settings(synchronous="OFF", idle_agents_max=3)) as runtime:
        for n in range(10):
            telling = asyncio.create_task(runtime.tell(f"s{n}", "play", n))
            await checkpoint()
            telling.cancel()
            await asyncio.wait([telling])
        await runtime.ask("last", "play", 1)

        await until(lambda: runtime.statistics().agents <= 3)


async def test_statistics_count_what_happened_and_what_is(path: Path) -> None:
    """Running, queued and suspended are now; the others since the runtime started."""
    stage = Stage()

    @agent("trip")
    async def trip(turn: Turn) -> None:
        await turn.step("one", lambda: 1)
        raise LookupError

    settings = Settings(synchronous="OFF", retries_max=0, shutdown_s=0.02)
    async with Runtime(path, [stage.play, trip], settings=settings) as runtime:
        for session in ("one", "two"):
            for n in range(3):
                await runtime.tell(session, "play", n, key=str(n))
        await runtime.tell("one", "play", 0, key="0")
        await runtime.ask("one", "trip", 1)
        now = runtime.statistics()

        assert (now.boot_id, now.agents, now.running, now.queued, now.suspended) == (1, 3, 2, 4, 0)
        assert (now.accepted, now.duplicates, now.completed, now.failed, now.steps) == (7, 1, 0, 1, 1)
        assert now.persistence.commits <= now.persistence.points
        assert not now.persistence.failing

        stage.gate.set()
        await until(lambda: runtime.statistics().completed == 6)
        assert (runtime.statistics().running, runtime.statistics().queued) == (0, 0)


async def test_a_handlers_context_is_its_own(path: Path) -> None:
    """Context variables of callers and of other turns do not reach a handler; its own do not leave it."""

    @agent("play")
    async def play(turn: Turn) -> str:
        before = seen.get()
        seen.set(f"turn {turn.input}")
        await checkpoint()
        return before

    seen.set("opener")
    async with Runtime(path, [play], settings=QUICK) as runtime:
        seen.set("caller")
        receipts = await asyncio.gather(*(runtime.tell(session, "play", n) for session in "ab" for n in range(3)))
        values = [(await receipt.deliverable()).value for receipt in receipts]

        assert values == ["opener"] * 6
        assert seen.get() == "caller"
