"""The runtime's own parts: a writer that crashes is started anew, and brings back what stood on it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import check_invariants, rows, until

from turnkeeper import Effect, OnDoubt, Receipt, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed, StoreInUse
from turnkeeper.kernel.supervision.child import ChildSpec
from turnkeeper.kernel.supervision.desired import Verb
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.view import ChildView
from turnkeeper.supervisors.service import Service
from turnkeeper.supervisors.supervisor import Supervisor

QUICK = Settings(synchronous="OFF", shutdown_s=0.02, insist_s=0.05)


class Bug:
    """Makes the store raise what no store should, so often, before it has written or after."""

    def __init__(self, runtime: Runtime, *, times: int = 1, after: bool = False) -> None:
        self._apply = runtime._store.apply
        self._times = times
        self._after = after
        runtime._store.apply = self.apply  # type: ignore[method-assign]

    async def apply(self, points: Any) -> Any:
        if not self._times:
            return await self._apply(points)
        self._times -= 1
        if self._after:
            await self._apply(points)
        raise ZeroDivisionError("a bug in the store")


class Stage:
    """An agent whose turns wait for `gate`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.attempts: list[tuple[object, int]] = []

        @agent("play")
        async def play(turn: Turn) -> object:
            self.attempts.append((turn.input, turn.attempt))
            await self.gate.wait()
            return turn.input

        self.play = play


@asynccontextmanager
async def watched(runtime: Runtime) -> AsyncGenerator[Runtime, None]:
    """Run it; no task of it may be left."""
    before = asyncio.all_tasks()
    async with runtime:
        yield runtime
    assert asyncio.all_tasks() == before


async def patiently(send: Callable[[], Any]) -> Any:
    """Send again until the runtime is up again."""
    with anyio.fail_after(5):
        while True:
            try:
                return await send()
            except StorageFailed:
                await asyncio.sleep(0.001)


def part(runtime: Runtime, name: str) -> ChildView:
    return next(child for child in runtime.tree().children if child.name == name)


async def crashed(runtime: Runtime) -> None:
    """Crash the writer, and wait until it is up again."""
    boot_id = runtime.statistics().boot_id
    with pytest.raises(StorageFailed, match="ZeroDivisionError: a bug in the store"):
        await runtime.tell("crash", "play", None)
    await until(lambda: runtime.statistics().boot_id > boot_id)
    await patiently(runtime.doubts)


@pytest.mark.parametrize("after", [False, True])
async def test_a_crashed_writer_comes_back_and_brings_its_turns_with_it(path: Path, *, after: bool) -> None:
    """Without new traffic, and each with one deliverable; who sends again under its key is answered."""
    stage = Stage()
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        receipts = [await runtime.tell("s", "play", n, key=str(n)) for n in range(3)]
        await until(lambda: stage.attempts)
        Bug(runtime, after=after)
        with pytest.raises(StorageFailed, match="send again") as told:
            await runtime.tell("s", "play", 3, key="3")
        with pytest.raises(StorageFailed) as told_again:
            await runtime.tell("s", "play", 3, key="3")
        assert told.value is not told_again.value  # or its traceback would grow with each
        stage.gate.set()
        await until(lambda: rows(path, "SELECT count(*) FROM deliverables WHERE turn_id <= 3") == [(3,)])

        assert [(await patiently(receipt.deliverable)).value for receipt in receipts] == [0, 1, 2]
        again = await patiently(lambda: runtime.tell("s", "play", 3, key="3"))
        assert again.duplicate is after
        assert (await again.deliverable()).value == 3
        assert rows(path, "SELECT count(*) FROM turns") == [(4,)]
        assert stage.attempts[:2] == [(0, 1), (0, 2)]
        assert runtime.statistics().boot_id == 2
        assert runtime.statistics().recovered == 1
        assert runtime.statistics().completed == 4
    check_invariants(path)
    assert rows(path, "SELECT boot_id, stopped_at IS NULL FROM nodes") == [(1, 1), (2, 0)]


async def test_the_crash_of_a_writer_is_an_event_that_the_next_one_writes(path: Path) -> None:
    """Beside the restart; that parts come and go with their runtime is none."""
    stage = Stage()
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        Bug(runtime)
        await crashed(runtime)
        events = await runtime.child_events()

        assert [(event.path, event.kind, event.boot_id) for event in events] == [
            ("writer", "crashed", 2),
            ("writer", "restarted", 2),
        ]
        assert (part(runtime, "writer").incarnation, part(runtime, "writer").why) == (2, "crashed")


async def test_who_waits_is_told_at_once_and_who_asks_again_gets_the_deliverable(path: Path) -> None:
    """Not when the handlers that are cut off have ended; and a receipt leads to the next incarnation."""
    stage = Stage()
    cleaning = asyncio.Event()

    @agent("slow")
    async def slow(turn: Turn) -> object:
        try:
            await stage.gate.wait()
        finally:
            await cleaning.wait()
        return turn.input

    async with watched(Runtime(path, [stage.play, slow], settings=QUICK)) as runtime:
        receipt: Receipt = await runtime.tell("s", "slow", 7)
        waiting = asyncio.create_task(receipt.deliverable())
        await until(lambda: runtime.statistics().running == 1)
        Bug(runtime)
        with pytest.raises(StorageFailed):
            await runtime.tell("s", "play", None)
        with anyio.fail_after(0.5), pytest.raises(StorageFailed, match="send again"):
            await waiting
        cleaning.set()
        stage.gate.set()

        assert (await patiently(receipt.deliverable)).value == 7


async def test_turns_under_a_crashed_writer_get_no_grace(path: Path) -> None:
    """Nothing that they could end with would be written: they are cut off, and recovered."""
    stage = Stage()
    async with watched(Runtime(path, [stage.play], settings=Settings(synchronous="OFF", shutdown_s=6.0))) as runtime:
        receipt = await runtime.tell("s", "play", 1)
        await until(lambda: stage.attempts)
        Bug(runtime)
        with anyio.fail_after(3):
            await crashed(runtime)
        stage.gate.set()

        assert (await patiently(receipt.deliverable)).value == 1


async def test_an_effect_is_not_repeated_and_one_under_way_is_in_doubt(path: Path) -> None:
    """As after a kill: what is recorded is answered from the record."""
    stage, called = Stage(), list[str]()

    @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.FAIL)
    async def pay(name: str) -> str:
        called.append(name)
        if name == "second":
            await asyncio.Event().wait()
        return name

    @agent("payer", tools=[pay])
    async def payer(turn: Turn) -> list[str]:
        return [await turn.call(pay, name) for name in ("first", "second")]

    async with watched(Runtime(path, [stage.play, payer], settings=QUICK)) as runtime:
        receipt = await runtime.tell("s", "payer", None)
        await until(lambda: called == ["first", "second"])
        Bug(runtime)
        await crashed(runtime)
        result = await patiently(receipt.deliverable)

        assert (result.outcome, result.failure.type) == ("failed", "EffectInDoubt")
        assert called == ["first", "second"]


async def test_a_call_that_would_not_stop_is_waited_for_across_the_restart(path: Path) -> None:
    """Its effect may still come: the next boot must not call it beside the first."""
    stage, released, inside = Stage(), asyncio.Event(), list[int]()

    @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.RETRY)
    async def deaf() -> int:
        inside.append(1)
        assert len(inside) == 1
        try:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
        finally:
            inside.pop()
        return 1

    asked: list[int] = []

    @agent("caller", tools=[deaf])
    async def caller(turn: Turn) -> int:
        asked.append(turn.attempt)
        return await turn.call(deaf)

    async with watched(Runtime(path, [stage.play, caller], settings=QUICK)) as runtime:
        receipt = await runtime.tell("s", "caller", None)
        await until(lambda: inside)
        Bug(runtime)
        try:
            await crashed(runtime)
            await until(lambda: asked == [1, 2])
            stage.gate.set()
            for number in range(5):  # what the second run is to write before its call is written with these
                await runtime.ask("neighbour", "play", number)
            assert inside == [1]
        finally:
            released.set()
        assert (await patiently(receipt.deliverable)).value == 1


async def test_children_stand_on_the_writer_and_come_up_with_it_in_order(path: Path) -> None:
    """rest_for_one: what was started after it goes down in reverse, and comes up in order."""
    stage, said = Stage(), list[str]()

    def child(name: str) -> ChildSpec:
        async def work() -> None:
            said.append(f"{name} up")
            try:
                await asyncio.Event().wait()
            finally:
                said.append(f"{name} down")

        return ChildSpec(name=name, child=Service(work))

    children = [child("a"), child("b")]
    async with watched(Runtime(path, [stage.play], children=children, settings=QUICK)) as runtime:
        await until(lambda: len(said) == 2)
        Bug(runtime)
        await crashed(runtime)
        await until(lambda: len(said) == 6)

        assert said == ["a up", "b up", "b down", "a down", "a up", "b up"]


async def test_what_is_wanted_survives_the_restart_of_the_writer(path: Path) -> None:
    """A paused agent stays paused."""
    stage = Stage()
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        await runtime.say("agents/play", Verb.PAUSE)
        Bug(runtime)
        await crashed(runtime)
        await runtime.tell("s", "play", 1)

        assert part(runtime, "agents").children[0].desired == "paused"
        assert stage.attempts == []


async def test_a_writer_that_crashes_again_and_again_is_given_up(path: Path) -> None:
    """Callers are told what to do; closing is in good order, and the next runtime goes on."""
    stage = Stage()
    runtime = Runtime(path, [stage.play], settings=QUICK)
    runtime._root.intensity = Intensity(restarts_max=2, pauses_s=(0.0,))
    async with watched(runtime):
        receipt = await runtime.tell("s", "play", 1, key="k")
        Bug(runtime, times=100)
        with pytest.raises(StorageFailed, match="a bug in the store"):
            await runtime.tell("s", "play", 2)
        await until(lambda: "given up" in str(runtime._node.failed))
        with pytest.raises(StorageFailed, match="its writer crashed too often; restart it"):
            await receipt.deliverable()
        assert {one.state for one in runtime.tree().children} == {"idle"}
    with pytest.raises(ShuttingDown):
        await runtime.tell("s", "play", 2)

    stage.gate.set()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        assert (await runtime.ask("s", "play", 1, key="k")).value == 1


async def test_a_writer_that_crashes_while_the_runtime_closes_keeps_it_from_nothing(path: Path) -> None:
    """The turn whose end was not written ends in the next runtime."""
    stage = Stage()
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        receipt = await runtime.tell("s", "play", 1, key="k")
        await until(lambda: stage.attempts)
        Bug(runtime)
    with pytest.raises((StorageFailed, ShuttingDown)):
        await receipt.deliverable()
    with pytest.raises(ShuttingDown):
        await runtime.tell("s", "play", 1, key="k")

    stage.gate.set()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        assert (await runtime.ask("s", "play", 1, key="k")).value == 1


async def test_callers_between_two_incarnations_never_overtake_what_was_accepted(path: Path) -> None:
    """Whoever keeps sending through the restart comes behind what the store holds; nothing is lost or run twice."""
    order: list[int] = []
    gate = asyncio.Event()

    @agent("play")
    async def play(turn: Turn) -> object:
        await gate.wait()
        order.append(turn.input)
        return turn.input

    async with watched(Runtime(path, [play], settings=QUICK)) as runtime:
        for number in range(5):
            await runtime.tell("s", "play", number, key=str(number))
        Bug(runtime)

        async def send(number: int) -> Receipt:
            return await patiently(lambda: runtime.tell("s", "play", number, key=str(number)))

        sending = [asyncio.create_task(send(number)) for number in range(5, 15)]
        gate.set()
        for receipt in await asyncio.gather(*sending):
            await patiently(receipt.deliverable)
    started = list(dict.fromkeys(order))  # the run whose end the crash took was run again
    assert started[:5] == [0, 1, 2, 3, 4]
    assert sorted(started) == list(range(15))
    assert len(order) <= 16
    assert rows(path, "SELECT count(*) FROM deliverables") == [(15,)]
    check_invariants(path)


async def test_an_upkeep_that_gives_up_again_and_again_touches_no_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stands on it."""
    stage, prunings = Stage(), list[int]()

    async def retain(node: object, prune: object) -> None:
        prunings.append(1)
        if len(prunings) < 5:
            raise ArithmeticError
        await asyncio.Event().wait()

    monkeypatch.setattr("turnkeeper.supervisors.runtime.retain", retain)
    runtime = Runtime(path, [stage.play], settings=Settings(synchronous="OFF", shutdown_s=0.02, retention_s=1.0))
    upkeep = runtime._root.child("upkeep").child
    assert isinstance(upkeep, Supervisor)
    upkeep.intensity = Intensity(restarts_max=1, pauses_s=(0.0,))
    runtime._root.intensity = Intensity(restarts_max=10, pauses_s=(0.0,))
    async with watched(runtime):
        receipt = await runtime.tell("s", "play", 1)
        await until(lambda: len(prunings) == 5)
        stage.gate.set()

        assert (await receipt.deliverable()).value == 1
        assert stage.attempts == [(1, 1)]
        assert (part(runtime, "upkeep").incarnation, part(runtime, "agents").incarnation) == (3, 1)


async def test_a_receipt_goes_on_over_a_boot_that_never_opened(path: Path) -> None:
    """The disk was full when the writer came up again, and had room at the next try."""
    stage = Stage()
    runtime = Runtime(path, [stage.play], settings=QUICK)
    runtime._root.intensity = Intensity(pauses_s=(0.0,))
    async with watched(runtime):
        receipt = await runtime.tell("s", "play", 1)
        apply, left = runtime._store.apply, [ZeroDivisionError("a bug"), StorageFailed(str(path), "the disk is full")]

        async def failing(points: Any) -> Any:
            if left:
                raise left.pop(0)
            return await apply(points)

        runtime._store.apply = failing  # type: ignore[method-assign]
        with pytest.raises(StorageFailed):
            await runtime.tell("s", "play", 2)
        stage.gate.set()

        assert (await patiently(receipt.deliverable)).value == 1
        assert runtime.statistics().boot_id == 2
        assert part(runtime, "writer").incarnation == 3


@pytest.mark.parametrize(
    "end", [asyncio.CancelledError(), BaseExceptionGroup("many", [KeyError()]), GeneratorExit(), None, "unsayable"]
)
async def test_however_a_writer_ends_everybody_is_told_and_it_comes_back(path: Path, end: object) -> None:
    """Also where what it raised is no exception of programs, cannot be said, or is not raised at all."""

    class UnsayableError(Exception):
        def __str__(self) -> str:
            raise ArithmeticError

    stage = Stage()
    stage.gate.set()
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        apply, left = runtime._store.apply, [UnsayableError() if end == "unsayable" else end]

        async def ending(points: Any) -> Any:
            if not left:
                return await apply(points)
            how = left.pop()
            if isinstance(how, BaseException):
                raise how
            return None

        runtime._store.apply = ending  # type: ignore[method-assign]
        with anyio.fail_after(5), pytest.raises(StorageFailed, match="the writer has crashed"):
            await runtime.tell("s", "play", 1, key="k")
        receipt = await patiently(lambda: runtime.tell("s", "play", 1, key="k"))

        assert (await patiently(receipt.deliverable)).value == 1


async def test_a_runtime_whose_every_task_is_cancelled_still_closes(path: Path) -> None:
    """The usual recipe of programs that end in a hurry."""
    stage = Stage()
    runtime = Runtime(path, [stage.play], settings=QUICK)
    before = asyncio.all_tasks()
    await runtime.__aenter__()
    await runtime.tell("s", "play", 1)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with anyio.fail_after(5):
        await runtime.aclose()
    async with Runtime(path, [stage.play], settings=QUICK):
        pass


async def test_a_writer_that_falls_while_the_runtime_starts_leaves_nothing_behind(path: Path) -> None:
    """Whoever enters is told; the file is free."""
    stage = Stage()
    entered, runtime = asyncio.Event(), Runtime(path, [stage.play], settings=QUICK)

    class Slow:
        def start(self, exited: object) -> Any:
            return self._start()

        async def _start(self) -> None:
            entered.set()
            Bug(runtime)
            with pytest.raises(StorageFailed):
                await runtime._node.persistence.commit([])

        def stop(self, shutdown_s: float) -> None:
            return None

    runtime._tree.add(ChildSpec(name="slow", child=Slow()))
    before = asyncio.all_tasks()
    with pytest.raises(StorageFailed):
        await runtime.__aenter__()
    assert entered.is_set()
    assert asyncio.all_tasks() == before
    async with Runtime(path, [stage.play], settings=QUICK):
        pass


async def test_a_child_that_cannot_be_started_with_the_next_writer_falls_alone(path: Path) -> None:
    """It is put away; its neighbours, and the runtime, go on."""
    stage, starts = Stage(), list[int]()

    class Fragile:
        def start(self, exited: object) -> None:
            starts.append(1)
            if len(starts) > 1:
                raise OSError("no port left")

        def stop(self, shutdown_s: float) -> None:
            return None

    async def steady() -> None:
        await asyncio.Event().wait()

    children = [ChildSpec(name="fragile", child=Fragile()), ChildSpec(name="steady", child=Service(steady))]
    borne = Intensity(restarts_max=3, pauses_s=(0.0,))
    runtime = Runtime(path, [stage.play], children=children, intensity=borne, settings=QUICK)
    async with watched(runtime):
        Bug(runtime)
        await crashed(runtime)
        await until(lambda: runtime.desired("tree/fragile") == "quarantined")
        shown = {child.name: child.state for child in part(runtime, "tree").children}

        assert shown == {"fragile": "idle", "steady": "running"}
        assert len(starts) == 5
        assert part(runtime, "tree").incarnation == 2


async def test_a_child_whose_stop_never_ends_does_not_keep_the_writer_down(path: Path) -> None:
    """It is named and left to itself, a second after its time."""
    stage, released = Stage(), asyncio.Event()

    class Endless:
        def start(self, exited: object) -> None:
            return None

        def stop(self, shutdown_s: float) -> Any:
            return released.wait()

    children = [ChildSpec(name="endless", child=Endless(), shutdown_s=0.01)]
    async with Runtime(path, [stage.play], children=children, settings=QUICK) as runtime:
        try:
            Bug(runtime)
            await crashed(runtime)
            assert runtime.statistics().boot_id == 2
        finally:
            released.set()


async def test_a_runtime_that_is_entered_twice_refuses_and_goes_on(path: Path) -> None:
    """The first one is untouched."""
    stage = Stage()
    stage.gate.set()
    async with Runtime(path, [stage.play], settings=QUICK) as runtime:
        with pytest.raises(StoreInUse, match="this very runtime"):
            await runtime.__aenter__()
        assert (await runtime.ask("s", "play", 1)).value == 1
    async with runtime:
        assert (await runtime.ask("s", "play", 2)).value == 2


async def test_a_heartbeat_that_crashes_is_a_boot_that_crashes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot that could not say that it lives must not work on."""
    stage = Stage()
    beats: list[int] = []
    crash = asyncio.Event()

    async def beat(node: object) -> None:
        beats.append(1)
        if len(beats) == 1:
            await crash.wait()
            raise ArithmeticError
        await asyncio.Event().wait()

    monkeypatch.setattr("turnkeeper.supervisors.writer.beat", beat)
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        crash.set()
        await until(lambda: len(beats) == 2)
        receipt = await patiently(lambda: runtime.tell("s", "play", 1))
        stage.gate.set()

        assert (await receipt.deliverable()).value == 1
        assert part(runtime, "writer").incarnation == 2


async def test_a_runtime_that_cannot_start_raises_what_it_was_and_leaves_nothing(path: Path) -> None:
    """Not the supervisors around it."""

    async def no() -> None:
        raise NotImplementedError

    class Stubborn:
        def start(self, exited: object) -> Any:
            return no()

        def stop(self, shutdown_s: float) -> None:
            return None

    runtime = Runtime(path, [], children=[ChildSpec(name="stubborn", child=Stubborn())], settings=QUICK)
    before = asyncio.all_tasks()
    with pytest.raises(NotImplementedError):
        await runtime.__aenter__()
    assert asyncio.all_tasks() == before
    async with Runtime(path, [], settings=QUICK) as other:
        assert other.statistics().boot_id == 2


async def test_the_store_can_be_taken_again_by_the_next_incarnation_alone(path: Path) -> None:
    """The file is closed and opened anew: no connection of the crashed incarnation goes on writing."""
    stage = Stage()
    async with watched(Runtime(path, [stage.play], settings=QUICK)) as runtime:
        store = runtime._store
        assert isinstance(store, SqliteStore)
        before = store._writer
        Bug(runtime)
        await crashed(runtime)

        assert store._writer is not before
