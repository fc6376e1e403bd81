"""Handlers that would not stop lose their turns: the actor goes on, and what they still try is refused."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from looking import FAST, Said, check_invariants, playing, until
from looking import details as found

from turnkeeper import (
    DidNotHappen,
    Effect,
    Happened,
    OnDoubt,
    Runtime,
    Settings,
    Turn,
    step_context,
    tool,
)
from turnkeeper.kernel.edge import StepDoubt, decode_detail
from turnkeeper.kernel.errors import ContractViolation, ProcessDied, StaleEpoch, TurnkeeperError
from turnkeeper.testing import Faults, SimulatedWorld

Running = Callable[..., Any]


async def never() -> None:
    await asyncio.Event().wait()


async def doubts_of(runtime: Any) -> list[str]:
    """Return why steps of the first turn were in doubt."""
    details = [decode_detail(edge) for edge in await runtime.node.store.edges(1)]
    return [detail.why for detail in details if isinstance(detail, StepDoubt)]


async def swallow(gate: asyncio.Event) -> None:
    """Be deaf to every cancellation until the gate is open."""
    while not gate.is_set():
        try:
            await gate.wait()
        except asyncio.CancelledError:
            continue


class Deaf:
    """An agent `play` whose first turn swallows every cancellation until its `gate` is set."""

    def __init__(self, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.refused: list[BaseException] = []
        self.ended = asyncio.Event()
        self.play = playing(self._play, **options)
        self.begun = False

    async def _play(self, turn: Turn) -> str:
        if turn.turn_id > 1 or turn.attempt > 1:
            return f"attempt {turn.attempt}"
        self.begun = True
        await swallow(self.gate)
        for act in (self.step(turn), self.call(turn)):
            try:
                await act
            except Exception as error:  # noqa: BLE001 - what it is told is what is asked
                self.refused.append(error)
        try:
            turn.heartbeat()
        except Exception as error:  # noqa: BLE001 - as above
            self.refused.append(error)
        self.ended.set()
        return "too late"

    async def step(self, turn: Turn) -> None:
        await turn.step("late", int)

    async def call(self, turn: Turn) -> None:
        await turn.call(put)


@tool(effect=Effect.IDEMPOTENT)
async def put() -> None:
    raise ContractViolation("put", "must not be called")


@pytest.mark.parametrize(
    ("limits", "value", "failure"),
    [({"turn_s": 5.0}, None, "DeadlineExceeded"), ({"idle_s": 5.0}, "attempt 2", None)],
)
async def test_a_turn_is_taken_from_a_handler_that_would_not_stop(
    world: SimulatedWorld,
    runtime: Running,
    limits: dict[str, float],
    value: str | None,
    failure: str | None,
) -> None:
    """After `insist_s` the actor goes on; the log says where it stands, and whatever it still tries is stale."""
    deaf = Deaf(**limits)
    async with runtime([deaf.play], settings=Settings(insist_s=20)) as running:
        running.node.log = said = Said()
        first = await running.ask("s", "play", None)
        taken_s = world.now_s
        then = await running.ask("s", "play", None)
        edges = len(await running.node.store.edges(1))
        held = len(running.node.deaf)
        deaf.gate.set()
        await deaf.ended.wait()
        await asyncio.sleep(1)
        after = (len(await running.node.store.edges(1)), len(running.node.deaf))

    assert (first.failure and first.failure.type) == failure
    if value is not None:
        assert first.value == value
    assert then.value == "attempt 1"
    assert 25 <= taken_s < 26
    assert [type(error) for error in deaf.refused] == [StaleEpoch] * 3
    assert held == 1
    assert after == (edges, 0)
    (stuck,) = said.of("turn.would_not_stop")
    assert (stuck["turn_id"], stuck["address"]) == (1, "s/play")
    assert stuck["at"].endswith(" in swallow")


async def test_an_effect_under_way_in_a_turn_that_was_taken_is_in_doubt(runtime: Running) -> None:
    """The tool itself is deaf: nobody knows what becomes of it, and its late result is refused."""
    gate = asyncio.Event()
    late: list[str] = []
    asked_for: list[str] = []

    async def gone() -> DidNotHappen:
        asked_for.append("probe")
        return DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, on_doubt=gone)
    async def act() -> str:
        attempt = step_context().attempt
        if attempt == 1:
            await swallow(gate)
        return f"acted {attempt}"

    async def play(turn: Turn) -> str:
        try:
            return await turn.call(act)
        except StaleEpoch:
            late.append("refused")
            raise

    async with runtime([playing(play, idle_s=5.0)]) as running:
        asked = asyncio.ensure_future(running.ask("s", "play", None))
        await asyncio.sleep(17)  # taken after 15 s; until the tool has ended its effect may still come
        before = [*asked_for]
        gate.set()
        result = await asked
        doubts = await doubts_of(running)

    assert (before, asked_for) == ([], ["probe"])
    assert result.value == "acted 2"
    assert doubts == ["cut off because its turn was stuck"]
    assert late == ["refused"]


async def test_an_overdue_turn_with_a_deaf_effect_stands_on_its_doubt(runtime: Running) -> None:
    """Somebody can still say what became of it, as where the effect was cut off in good order."""
    gate = asyncio.Event()

    @tool(effect=Effect.EFFECTFUL)
    async def act() -> None:
        await swallow(gate)

    async def play(turn: Turn) -> None:
        await turn.call(act)

    async with runtime([playing(play, turn_s=5.0)]) as running:
        receipt = await running.tell("s", "play", None)
        await asyncio.sleep(30)
        (doubt,) = await running.doubts()
        assert doubt.turn_id == receipt.turn_id
        gate.set()
        await running.resolve(doubt.turn_id, DidNotHappen(), token=doubt.token)
        result = await receipt.deliverable()

    assert result.outcome == "completed"


async def test_a_handler_that_is_deaf_to_a_suspension_loses_its_turn_too(
    world: SimulatedWorld, runtime: Running
) -> None:
    """Whatever it was told to stop for: the turn stands on its doubt, and goes on when that is settled."""
    gate = asyncio.Event()
    runs: list[Turn] = []

    @tool(effect=Effect.EFFECTFUL, timeout_s=1)
    async def act() -> str:
        if len(runs) == 1:
            await never()
        return "acted"

    async def play(turn: Turn) -> str:
        runs.append(turn)
        while len(runs) == 1 and not gate.is_set():
            try:
                await turn.call(act)
            except asyncio.CancelledError:
                await swallow(gate)
        return await turn.call(act)

    async with runtime([playing(play)]) as running:
        receipt = await running.tell("s", "play", None)
        await asyncio.sleep(20)
        (doubt,) = await running.doubts()
        await running.resolve(receipt.turn_id, DidNotHappen(), token=doubt.token)
        result = await receipt.deliverable()
        gate.set()
        await asyncio.sleep(1)

    assert (result.value, len(runs)) == ("acted", 2)


async def test_what_a_turn_that_was_taken_leaves_beside_it_cannot_stop_the_next_run(runtime: Running) -> None:
    """A step in another task stands on a doubt of the old run: the new one is not suspended by it."""
    gate = asyncio.Event()
    runs: list[Turn] = []

    @tool(effect=Effect.EFFECTFUL, timeout_s=1, on_doubt=OnDoubt.ASK)
    async def doubtful() -> None:
        await never()

    @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.RETRY)
    async def deaf_one() -> None:
        await swallow(gate)

    async def play(turn: Turn) -> int:
        runs.append(turn)
        if len(runs) == 1:
            await asyncio.gather(turn.call(doubtful), turn.call(deaf_one))
        await asyncio.sleep(10)
        assert not turn.over
        return len(runs)

    async with runtime([playing(play, turn_s=30.0)]) as running:
        receipt = await running.tell("s", "play", None)
        await asyncio.sleep(60)
        (doubt,) = await running.doubts()
        await running.resolve(receipt.turn_id, DidNotHappen(), token=doubt.token)
        await asyncio.sleep(1)
        gate.set()
        result = await receipt.deliverable()

    assert result.value == 2
    assert runs[0].over


async def test_closing_takes_the_turn_from_a_handler_that_would_not_stop(path: Path) -> None:
    """It goes back to its queue, and the next runtime finishes it; the old task writes nothing more."""
    deaf = Deaf()
    async with Runtime(path, [deaf.play], settings=FAST) as running:
        await running.tell("s", "play", None, key="k")
        await until(lambda: deaf.begun)
    async with Runtime(path, [deaf.play], settings=FAST) as running:
        result = await running.ask("s", "play", None, key="k")
    deaf.gate.set()
    await deaf.ended.wait()

    check_invariants(path)
    assert (result.value, [one.reason for one in found(path, "turn_requeued")]) == ("attempt 2", ["shutdown"])
    assert [type(error) for error in deaf.refused] == [StaleEpoch] * 3


# ---------------------------------------------------------------- all of it, under any schedule


async def trouble(world: SimulatedWorld) -> None:
    """Hang, die, or have last words that are too long; mostly, just take a while."""
    match int(world.chance.random() * 12):
        case 0:
            await never()
        case 1:
            raise ProcessDied("play", 41, "signal 9")
        case 2:
            for _ in range(6):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(6)
    await asyncio.sleep(world.chance.random())


@pytest.mark.seeds(12, faults=Faults(crash_rate=0.01, fault_rate=0.02, crashes_max=10))
async def test_whatever_hangs_dies_or_would_not_stop_no_effect_happens_twice(
    world: SimulatedWorld, runtime: Running
) -> None:
    """The world's oracles look at every commit, start and effect; it is killed, and its disk fails, besides."""

    async def looked_up() -> Happened | DidNotHappen:
        return Happened(None) if world.happened(step_context().idempotency_key) else DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, on_doubt=looked_up)
    async def act() -> None:
        await trouble(world)
        world.happen(step_context().idempotency_key)
        await trouble(world)

    @tool(effect=Effect.IDEMPOTENT)
    async def put() -> None:
        await trouble(world)

    async def play(turn: Turn) -> None:
        await turn.gather(turn.call(act), turn.call(put))
        for _ in range(int(world.chance.random() * 3)):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(4)
        await turn.call(act)

    settings = Settings(insist_s=3.0, recoveries_max=10_000, retries_max=10_000, turn_s=100)
    async with runtime([playing(play, idle_s=5.0)], settings=settings) as running:
        for number in range(3):
            with suppress(TurnkeeperError):
                await running.ask("s", "play", None, key=f"{number}")
        while running.node.deaf:  # noqa: ASYNC110 - a set of tasks sets no event
            await asyncio.sleep(1)
