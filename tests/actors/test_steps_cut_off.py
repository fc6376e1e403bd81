"""Steps that are cut off, beside others or in the middle of a run, and errors nobody can judge."""

import asyncio
from pathlib import Path

import anyio
import pytest
from looking import Once, kinds, played, playing

from turnkeeper import (
    Effect,
    OnDoubt,
    Turn,
    agent,
    tool,
)
from turnkeeper.kernel.errors import (
    EffectInDoubt,
)


async def test_a_probe_that_answers_neither_repeats_nothing(path: Path) -> None:
    """A forgotten return is no answer: the turn fails, and the effect is not called again."""
    calls = []

    async def forgets() -> None:
        calls.append("asked")

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01, on_doubt=forgets)  # type: ignore[arg-type]
    async def act() -> None:
        calls.append("acted")
        await asyncio.Event().wait()

    async def play(turn: Turn) -> None:
        await turn.call(act)

    result = await played(path, playing(play))

    assert calls == ["acted", "asked"]
    assert result.failure.type == "ContractViolation"
    assert "must return Happened(...) or DidNotHappen(), not None" in result.failure.message


def test_what_is_no_async_function_is_refused_where_it_is_declared() -> None:
    """Not at its first call, and not after the first crash."""
    with pytest.raises(TypeError, match="tool <lambda> must be an async function"):
        tool(effect=Effect.PURE)(lambda: 1)
    with pytest.raises(TypeError, match="the handler of agent a must be an async function"):
        agent("a")(lambda _: 1)
    with pytest.raises(TypeError, match='write @agent\\("name"\\)'):
        agent(playing)
    with pytest.raises(TypeError, match="write @tool"):
        tool(playing, effect=Effect.PURE)


async def test_an_effect_beside_a_failure_is_waited_for_and_not_repeated(path: Path) -> None:
    """`asyncio.gather` leaves the others running when one has raised: their results are recorded, not doubted."""
    acted = []
    begun, gate = asyncio.Event(), asyncio.Event()

    @tool(effect=Effect.EFFECTFUL)
    async def act() -> int:
        acted.append(1)
        begun.set()
        await gate.wait()
        return len(acted)

    async def boom(turn: Turn) -> None:
        await begun.wait()
        asyncio.get_running_loop().call_later(0.01, gate.set)
        if turn.attempt == 1:
            raise Once

    async def play(turn: Turn) -> int:
        return (await asyncio.gather(turn.call(act), boom(turn)))[0]

    result = await played(path, playing(play))

    assert (result.value, acted) == (1, [1])
    assert kinds(path).count("step_succeeded") == 1
    assert "step_unknown" not in kinds(path)


@pytest.mark.parametrize("caught", [TimeoutError, EffectInDoubt])
async def test_a_key_cut_off_in_a_run_is_in_doubt_in_the_same_run(path: Path, caught: type[Exception]) -> None:
    """Asked for again under its key, an effect that was cut off is not simply called again."""
    acted = []

    @tool(effect=Effect.EFFECTFUL, on_doubt=OnDoubt.FAIL, timeout_s=0.01 if caught is EffectInDoubt else None)
    async def act() -> None:
        acted.append(1)
        await asyncio.Event().wait()

    async def play(turn: Turn) -> None:
        with pytest.raises(caught):
            async with asyncio.timeout(0.05):
                await turn.call(act.keyed("one"))
        await turn.call(act.keyed("one"))

    result = await played(path, playing(play))

    assert (result.failure.type, acted) == ("EffectInDoubt", [1])


async def test_an_error_that_cannot_be_judged_ends_its_turn(path: Path) -> None:
    """A group nested deeper than the stack is still an end."""

    async def play(_: Turn) -> None:
        error: Exception = LookupError("deep")
        for _ in range(5_000):
            error = ExceptionGroup("one more", [error])
        raise error

    with anyio.fail_after(10):
        result = await played(path, playing(play))

    assert result.outcome == "failed"
