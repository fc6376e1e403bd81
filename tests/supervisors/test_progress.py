"""Progress: a turn that does not get on is taken back as after a crash, and so is one whose process died."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from looking import Once

from turnkeeper import Agent, DidNotHappen, Effect, OnDoubt, Retry, Settings, Turn, agent, step_context, tool
from turnkeeper.kernel.edge import Requeued, StepDoubt, decode_detail
from turnkeeper.kernel.errors import ProcessDied, StaleEpoch
from turnkeeper.testing import SimulatedWorld

IDLE_S = 30.0
BACKOFF_S = 5.0
Running = Callable[..., Any]


def playing(handler: Callable, **options: object) -> Agent:
    return agent("play", **options)(handler)


async def details(runtime: Any, kind: type, turn_id: int = 1) -> list[Any]:
    found = [decode_detail(edge) for edge in await runtime.node.store.edges(turn_id)]
    return [detail for detail in found if isinstance(detail, kind)]


async def reasons(runtime: Any, turn_id: int = 1) -> list[str]:
    return [detail.reason for detail in await details(runtime, Requeued, turn_id)]


async def never() -> None:
    await asyncio.Event().wait()


# ---------------------------------------------------------------- getting on


async def test_a_turn_that_does_not_get_on_is_taken_back_and_runs_again(
    world: SimulatedWorld, runtime: Running
) -> None:
    """After `idle_s`, at once, and not as a failure: no retry is used up."""
    started: list[float] = []

    async def play(turn: Turn) -> str:
        started.append(world.now_s)
        if turn.attempt == 1:
            await never()
        return "done"

    async with runtime([playing(play, idle_s=IDLE_S, retry=Retry(retries_max=0))]) as running:
        result = await running.ask("s", "play", None)
        why = await reasons(running)
        recovered = running.statistics().recovered

    assert result.value == "done"
    assert (why, recovered) == (["stuck"], 1)
    assert IDLE_S <= started[1] - started[0] < IDLE_S + 1


@pytest.mark.parametrize("how", ["heartbeat", "beside", "steps", "retries"])
async def test_a_turn_that_gets_on_is_left_alone_however_long_it_takes(runtime: Running, how: str) -> None:
    """By heartbeats, its own or those of a task beside it, by steps, and through the pauses of a step's retries."""
    tries: list[int] = []

    @tool(effect=Effect.PURE, retry=Retry(retries_max=9, base_s=3 * IDLE_S, cap_s=3 * IDLE_S))
    async def flaky() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError

    async def beat(turn: Turn) -> None:
        for _ in range(20):
            await asyncio.sleep(IDLE_S * 0.9)
            turn.heartbeat()

    async def play(turn: Turn) -> int:
        match how:
            case "heartbeat":
                await beat(turn)
            case "beside":
                await asyncio.gather(beat(turn), asyncio.sleep(18 * IDLE_S))
            case "steps":
                for number in range(20):
                    await turn.step(f"step {number}", asyncio.sleep, IDLE_S * 0.9)
            case _:
                await turn.call(flaky)
        return turn.attempt

    async with runtime([playing(play, idle_s=IDLE_S)]) as running:
        result = await running.ask("s", "play", None)

    assert result.value == 1


async def test_no_heartbeat_outlives_the_turns_own_limit(world: SimulatedWorld, runtime: Running) -> None:
    """A turn that beats for ever ends at `turn_s`: what puts off one limit moves no other."""

    async def play(turn: Turn) -> None:
        for _ in range(30):
            await asyncio.sleep(10)
            turn.heartbeat()

    async with runtime([playing(play, idle_s=IDLE_S, turn_s=100)]) as running:
        result = await running.ask("s", "play", None)

    assert result.failure.type == "DeadlineExceeded"
    assert world.now_s < 102


async def test_without_a_limit_a_slow_model_is_waited_for(runtime: Running) -> None:
    """Ten lease times without a sign are no reason: being alive is the runtime's business (10.3, 10.13)."""

    async def play(turn: Turn) -> int:
        await turn.step("model", asyncio.sleep, 10 * Settings().lease_s)
        return turn.attempt

    for limits in ({}, {"idle_s": 0}):
        async with runtime([playing(play, **limits)]) as running:
            assert (await running.ask("s", "play", None)).value == 1
    async with runtime([playing(play, idle_s=0)], settings=Settings(idle_s=1)) as running:
        assert (await running.ask("s", "play", None)).value == 1


async def test_the_settings_limit_holds_for_agents_that_say_nothing(runtime: Running) -> None:
    """`Settings.idle_s` is the default of `@agent(idle_s=...)`."""

    async def play(turn: Turn) -> int:
        if turn.attempt == 1:
            await never()
        return turn.attempt

    async with runtime([playing(play)], settings=Settings(idle_s=IDLE_S)) as running:
        result = await running.ask("s", "play", None)

    assert result.value == 2


async def test_a_turn_that_is_stuck_again_and_again_is_quarantined(world: SimulatedWorld, runtime: Running) -> None:
    """It is counted as a crash is, against `recoveries_max`; the second time and later there is a backoff."""
    started: list[float] = []

    async def play(turn: Turn) -> str:
        started.append(world.now_s)
        if turn.input == "stuck" and len(started) < 6:
            await never()
        return "fine"

    settings = Settings(recoveries_max=2, retry_base_s=BACKOFF_S, retry_cap_s=BACKOFF_S, idle_s=IDLE_S)
    async with runtime([playing(play)], settings=settings) as running:
        first = await running.ask("s", "play", "stuck")
        then = await running.ask("s", "play", "not")

    assert (first.failure.type, then.value) == ("Quarantined", "fine")
    assert len(started) == 4
    pauses = [after - before - IDLE_S for before, after in pairwise(started[:3])]
    assert pauses[0] < 1
    assert BACKOFF_S / 2 <= pauses[1] <= BACKOFF_S + 1


async def test_an_effect_under_way_in_a_stuck_run_is_in_doubt(world: SimulatedWorld, runtime: Running) -> None:
    """Its tool's rule decides, as after a crash; idempotent and pure calls run again."""
    called: list[str] = []

    async def looked_up() -> DidNotHappen:
        called.append("probe")
        return DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, on_doubt=looked_up)
    async def act() -> str:
        called.append(step_context().idempotency_key)
        if step_context().attempt == 1:
            await never()
        return "acted"

    @tool(effect=Effect.IDEMPOTENT)
    async def put() -> str:
        called.append(step_context().idempotency_key)
        if step_context().attempt == 1:
            await never()
        return "put"

    async def play(turn: Turn) -> list[str]:
        return await turn.gather(turn.call(act), turn.call(put))

    async with runtime([playing(play, idle_s=IDLE_S)]) as running:
        result = await running.ask("s", "play", None)
        doubts = await details(running, StepDoubt)

    assert result.value == ["acted", "put"]
    assert sorted(called) == sorted([*called[:2] * 2, "probe"])
    assert [doubt.why for doubt in doubts] == ["cut off because its turn was stuck"]


async def test_a_run_that_is_over_gets_on_no_more(runtime: Running) -> None:
    """A heartbeat of a task that outlives its run is refused: it must not keep the next one alive."""
    turns: list[Turn] = []

    async def play(turn: Turn) -> int:
        turns.append(turn)
        if turn.attempt == 1:
            raise Once
        with pytest.raises(StaleEpoch):
            turns[0].heartbeat()
        return turn.attempt

    async with runtime([playing(play)]) as running:
        assert (await running.ask("s", "play", None)).value == 2
    with pytest.raises(StaleEpoch):
        turns[1].heartbeat()


@pytest.mark.parametrize("idle_s", [-1, float("inf"), float("nan")])
def test_an_idle_limit_that_nothing_could_keep_is_refused_where_it_is_declared(idle_s: float) -> None:
    """0 means none."""
    with pytest.raises(ValueError, match="idle_s of agent a"):
        agent("a", idle_s=idle_s)(never)


# ---------------------------------------------------------------- the death of a process


def died() -> ProcessDied:
    return ProcessDied("play", 41, "signal 9")


async def test_a_turn_whose_process_died_runs_again_and_uses_up_no_retry(
    world: SimulatedWorld, runtime: Running
) -> None:
    """At once the first time, with a backoff then."""
    started: list[float] = []

    async def play(turn: Turn) -> str:
        started.append(world.now_s)
        if turn.attempt <= 3:
            raise died()
        return "done"

    settings = Settings(retries_max=0, retry_base_s=BACKOFF_S, retry_cap_s=BACKOFF_S)
    async with runtime([playing(play)], settings=settings) as running:
        result = await running.ask("s", "play", None)
        requeued = await details(running, Requeued)

    assert result.value == "done"
    assert [one.reason for one in requeued] == ["recovery"] * 3
    assert {one.failure.type for one in requeued} == {"ProcessDied"}
    pauses = [after - before for before, after in pairwise(started)]
    assert pauses[0] < 1
    assert all(BACKOFF_S / 2 <= pause <= BACKOFF_S + 1 for pause in pauses[1:])


async def test_a_turn_that_kills_its_process_every_time_is_quarantined(runtime: Running) -> None:
    """`recoveries_max` bounds it, and its session goes on."""
    attempts: list[int] = []

    async def play(turn: Turn) -> str:
        attempts.append(turn.attempt)
        if turn.input == "kills" and turn.attempt < 6:
            raise died()
        return "fine"

    async with runtime([playing(play)], settings=Settings(recoveries_max=2)) as running:
        first = await running.ask("s", "play", "kills")
        then = await running.ask("s", "play", "not")

    assert (first.failure.type, then.value, attempts) == ("Quarantined", "fine", [1, 2, 3, 1])


@pytest.mark.parametrize("grouped", [False, True])
async def test_steps_under_way_in_a_process_that_died_are_cut_off_and_have_not_failed(
    runtime: Running, grouped: bool
) -> None:
    """Their tools' awaits raise `ProcessDied`: a doubt for an effect, a second call for others, no failure."""
    called: list[str] = []

    def made(name: str, effect: Effect, **options: Any) -> Any:
        async def call() -> str:
            called.append(name)
            if step_context().attempt == 1:
                await asyncio.sleep(1)
                raise ExceptionGroup("tasks", [died()]) if grouped else died()
            return name

        return tool(name=name, effect=effect, **options)(call)

    tools = [
        made("pure", Effect.PURE, retry=Retry(retries_max=0)),
        made("idempotent", Effect.IDEMPOTENT),
        made("effectful", Effect.EFFECTFUL, on_doubt=OnDoubt.RETRY, retry=Retry(retries_max=3)),
    ]

    async def play(turn: Turn) -> list[str]:
        return await turn.gather(*(turn.call(one) for one in tools))

    async with runtime([playing(play)]) as running:
        result = await running.ask("s", "play", None)
        doubts = await details(running, StepDoubt)
        kinds = [edge.kind for edge in await running.node.store.edges(1)]

    assert result.value == ["pure", "idempotent", "effectful"]
    assert sorted(called) == sorted(result.value * 2)
    assert [doubt.why for doubt in doubts] == ["cut off by the end of its process"]
    assert "step_failed" not in kinds


async def test_an_effect_cut_off_by_the_end_of_its_process_is_not_repeated_without_knowing(runtime: Running) -> None:
    """Where the tool says to fail, it was called once, and the turn fails with the doubt."""
    called: list[int] = []

    @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.FAIL)
    async def act() -> None:
        called.append(1)
        raise died()

    async def play(turn: Turn) -> None:
        await turn.call(act)

    async with runtime([playing(play)]) as running:
        result = await running.ask("s", "play", None)

    assert (result.failure.type, called) == ("EffectInDoubt", [1])


async def test_a_handler_that_was_told_to_stop_may_lose_its_process(runtime: Running) -> None:
    """The reason to stop counts: an overdue run has failed, however its process ended."""

    async def play(_: Turn) -> None:
        try:
            await never()
        except asyncio.CancelledError:
            raise died() from None

    async with runtime([playing(play, turn_s=1)]) as running:
        result = await running.ask("s", "play", None)

    assert result.failure.type == "DeadlineExceeded"


async def test_a_tool_that_timed_out_has_timed_out_whatever_its_process_died_of(runtime: Running) -> None:
    """Who kills a process at the limit of its call is not surprised by its death."""

    @tool(effect=Effect.PURE, timeout_s=1)
    async def slow() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            raise died() from None

    async def play(turn: Turn) -> None:
        await turn.call(slow)

    async with runtime([playing(play, retry=Retry(retries_max=0))]) as running:
        result = await running.ask("s", "play", None)

    assert result.failure.type == "ToolTimedOut"
