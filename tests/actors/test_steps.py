"""Steps that go well: what is durable before a call, who a step is, and what a rerun is answered."""

import asyncio
import dataclasses
import datetime as dt
import math
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from looking import Once, details, kinds, played, playing

from turnkeeper import Effect, Settings, Turn, step_context, tool
from turnkeeper.kernel.errors import ContractViolation, PayloadTooLarge, ReplayDivergence, StepFailed, StepLimitExceeded

# ---------------------------------------------------------------- intents


@pytest.mark.parametrize("effect", [Effect.IDEMPOTENT, Effect.EFFECTFUL])
async def test_an_effect_starts_after_its_intent_is_durable(path: Path, effect: Effect) -> None:
    """Another connection sees the intent, and every result before it, when the tool is called (10.11)."""
    seen = []

    @tool(effect=Effect.PURE)
    async def look() -> int:
        return 7

    @tool(effect=effect)
    async def act(cents: int) -> str:
        seen.append((kinds(path), details(path, "step_intended")[-1], step_context()))
        return "acted"

    async def play(turn: Turn) -> str:
        return await turn.call(act, await turn.call(look))

    await played(path, playing(play))
    (kinds_then, intent, context) = seen[0]

    assert kinds_then == ["inbound_received", "lease_acquired", "step_succeeded", "step_intended"]
    assert (intent.name, intent.call_key, intent.effect, intent.issued) == ("act", "#0", effect, 1)
    assert msgspec.msgpack.decode(intent.arguments) == {"cents": 7}
    assert intent.idempotency_key == context.idempotency_key != ""
    assert (context.turn_id, context.session_id, context.agent_id, context.attempt) == (1, "s", "play", 1)
    assert kinds(path)[4:] == ["step_succeeded", "turn_completed"]


async def test_a_pure_step_has_no_intent_and_no_key(path: Path) -> None:
    """Nothing need be durable before a pure step; its outcome carries its arguments."""

    @tool(effect=Effect.PURE)
    async def look(at: str) -> str:
        return step_context().idempotency_key

    async def play(turn: Turn) -> list:
        return [await turn.call(look, "a"), await turn.step("add", lambda a, b: a + b, 1, b=2)]

    result = await played(path, playing(play))

    assert result.value == ["", 3]
    assert kinds(path)[2:] == ["step_succeeded", "step_succeeded", "turn_completed"]
    assert [msgspec.msgpack.decode(done.arguments) for done in details(path, "step_succeeded")] == [
        {"at": "a"},
        {"args": [1], "kwargs": {"b": 2}},
    ]
    with pytest.raises(LookupError):
        step_context()


# ---------------------------------------------------------------- what a rerun sees


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Order(msgspec.Struct):
    lines: list[Point]
    at: dt.datetime


NOW = dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ((1, (2, 3)), Any),
        ((1, "two"), tuple[int, str]),
        ({1: "one", 2: {3: "three"}}, Any),
        ({1: "one"}, dict[int, str]),
        (b"\0\xff", Any),
        (math.inf, float),
        ({2, 1}, set[int]),
        (Point(1, 2.5), Any),
        (Point(1, 2.5), Point),
        (Order([Point(1, 0.5)], NOW), Order),
        (Order([Point(1, 0.5)], NOW), Any),
        (NOW, dt.datetime),
        (None, None),
        ([1, True, None, "\0é", -(2**63), 2**64 - 1], list),
    ],
)
async def test_the_first_run_sees_what_a_rerun_sees(path: Path, value: object, hint: object) -> None:
    """A result is returned as the record holds it, so a handler behaves alike on every attempt; so are arguments."""
    seen, given = [], []

    async def make(again: Any) -> Any:
        given.append(again)
        return value

    make.__annotations__ = {"again": hint, "return": hint}
    made = tool(effect=Effect.PURE)(make)

    async def play(turn: Turn) -> Any:
        seen.append([await turn.call(made, value), await turn.step("plain", lambda given: given, value)])
        if turn.attempt == 1:
            raise Once
        return seen[0]

    await played(path, playing(play))

    assert len(given) == 1
    assert seen[0] == seen[1]
    assert [type(one) for one in seen[0]] == [type(one) for one in seen[1]]
    if hint is not Any:
        assert seen[0][0] == value


async def test_nan_comes_back_as_nan(path: Path) -> None:
    """What JSON loses is kept, in arguments, results and deliverables."""
    seen = []

    async def play(turn: Turn) -> float:
        seen.append(await turn.step("nan", lambda value: value, math.nan))
        if turn.attempt == 1:
            raise Once
        return seen[-1]

    result = await played(path, playing(play))

    assert [math.isnan(value) for value in (*seen, result.value)] == [True] * 3


async def test_recorded_steps_answer_a_rerun_in_any_order_of_code(path: Path) -> None:
    """A step's identity is its name and its call, never a position: code around it may change."""
    ran = []

    async def play(turn: Turn) -> list:
        async def step(name: str, value: int) -> int:
            return await turn.step(name, lambda: ran.append(name) or value)

        if turn.attempt == 1:
            await step("b", 1)
            await step("a", 2)
            await step("b", 3)
            raise Once
        return [await step("new", 0), await step("a", -1), await step("b", -1), await step("b", -1)]

    result = await played(path, playing(play))

    assert result.value == [0, 2, 1, 3]
    assert ran == ["b", "a", "b", "new"]


async def test_a_recorded_step_with_other_arguments_is_a_divergence(path: Path) -> None:
    """The rerun is refused, naming both; nothing is called, and retrying would not help."""
    ran = []

    @tool(effect=Effect.IDEMPOTENT)
    async def put(amount: int) -> None:
        ran.append(amount)

    async def play(turn: Turn) -> None:
        await turn.call(put, turn.attempt)
        raise Once

    result = await played(path, playing(play))

    assert ran == [1]
    assert result.failure.type == ReplayDivergence.__name__
    assert "put[#0]" in result.failure.message
    assert "{'amount': 1}" in result.failure.message
    assert "{'amount': 2}" in result.failure.message


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize("group", ["gather", "anyio", "asyncio"])
async def test_parallel_steps_keep_their_identities(path: Path, group: str) -> None:
    """Identities follow the order of asking, however the steps end; each runs once over two attempts."""
    ran: list[int] = []

    @tool(effect=Effect.EFFECTFUL)
    async def act(number: int) -> str:
        ran.append(number)
        for _ in range(10 - 3 * number):
            await checkpoint()
        return f"{number} {step_context().step}"

    async def play(turn: Turn) -> list:
        found: dict[int, str] = {}

        async def one(number: int) -> None:
            found[number] = await turn.call(act, number)

        if group == "gather":
            await asyncio.gather(*(one(number) for number in range(3)))
        elif group == "anyio":
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(one, number)
        else:
            async with asyncio.TaskGroup() as tasks:
                for number in range(3):
                    tasks.create_task(one(number))
        if turn.attempt == 1:
            raise Once
        return [found[number] for number in range(3)]

    result = await played(path, playing(play))

    assert result.value == ["0 act[#0]", "1 act[#1]", "2 act[#2]"]
    assert ran == [0, 1, 2]
    assert [intent.issued for intent in details(path, "step_intended")] == [0, 1, 2]


async def test_keyed_calls_may_change_their_order(path: Path) -> None:
    """A call key of one's own finds its record wherever the call stands."""
    ran = []

    @tool(effect=Effect.EFFECTFUL)
    async def pay(person: str) -> str:
        ran.append(person)
        return f"paid {person}"

    async def play(turn: Turn) -> list:
        people = ["ann", "bob"] if turn.attempt == 1 else ["bob", "cid", "ann"]
        paid = [await turn.call(pay.keyed(person), person) for person in people]
        if turn.attempt == 1:
            raise Once
        return paid

    result = await played(path, playing(play))

    assert result.value == ["paid bob", "paid cid", "paid ann"]
    assert ran == ["ann", "bob", "cid"]


async def test_a_key_called_twice_in_one_run_is_one_step(path: Path) -> None:
    """Name and call key are the identity: the second call is answered from the record, as a rerun's would be."""
    ran = []

    @tool(effect=Effect.EFFECTFUL)
    async def pay(cents: int) -> int:
        ran.append(cents)
        return len(ran)

    async def play(turn: Turn) -> list:
        return [await turn.call(pay.keyed("rent"), 5), await turn.call(pay.keyed("rent"), 5)]

    result = await played(path, playing(play))

    assert ran == [5]
    assert result.value == [1, 1]


async def test_a_key_of_ones_own_never_meets_a_counted_call(path: Path) -> None:
    """A caller's key "0" is another step than the first call without a key."""
    ran = []

    @tool(effect=Effect.EFFECTFUL)
    async def pay(cents: int) -> int:
        ran.append(step_context().idempotency_key)
        return cents

    async def play(turn: Turn) -> list:
        paid = [await turn.call(pay, 1), await turn.call(pay.keyed("0"), 2)]
        if turn.attempt == 1:
            raise Once
        return paid

    result = await played(path, playing(play))

    assert result.value == [1, 2]
    assert len(ran) == len(set(ran)) == 2


async def test_one_step_more_than_the_limit_is_refused(path: Path) -> None:
    """`steps_max` steps are run, the next is not, and the turn fails by name."""
    ran = []

    async def play(turn: Turn) -> None:
        for _ in range(20):
            await turn.step("loop", lambda: ran.append(1))

    result = await played(path, playing(play), settings=Settings(synchronous="OFF", steps_max=5))

    assert result.failure.type == StepLimitExceeded.__name__
    assert len(ran) == 5


# ---------------------------------------------------------------- contracts


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (("7",), {}, r"\$\.cents"),
        ((), {"cents": 7, "order": {"lines": ["no"], "at": NOW}}, r"\$\.order\.lines\[0\]"),
        ((), {"cents": 7, "colour": "red"}, "colour"),
        ((), {}, "cents"),
        ((7,), {"cents": 7}, "given twice: cents"),
        ((7, None, 9), {}, "takes 2 positional, got 3"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_by_their_path(path: Path, args, kwargs, said: str) -> None:
    """Nothing is called or recorded, and the error names the tool and the path."""
    ran = []

    @tool(effect=Effect.EFFECTFUL)
    async def pay(cents: int, order: Order | None = None) -> None:
        ran.append(cents)

    async def play(turn: Turn) -> str:
        with pytest.raises(ContractViolation, match=rf"arguments of pay.*{said}"):
            await turn.call(pay, *args, **kwargs)
        return "refused"

    result = await played(path, playing(play))

    assert (result.outcome, ran) == ("completed", [])
    assert kinds(path)[2:] == ["turn_completed"]


async def test_a_result_that_does_not_fit_is_recorded_and_not_repeated(path: Path) -> None:
    """The effect has happened: its turn fails, naming the path, and no retry runs it again."""
    ran = []

    @tool(effect=Effect.EFFECTFUL)
    async def pay() -> list[Point]:
        ran.append(1)
        return [{"x": 1, "y": "far"}]

    async def play(turn: Turn) -> None:
        await turn.call(pay)

    result = await played(path, playing(play))

    assert ran == [1]
    assert result.failure.type == StepFailed.__name__
    assert "ContractViolation: result of pay" in result.failure.message
    assert "$[0].y" in result.failure.message
    assert kinds(path)[2:] == ["step_intended", "step_failed", "turn_failed"]


async def test_values_past_the_limit_are_refused(path: Path) -> None:
    """Arguments past `payload_bytes_max` are refused before the call, a result past it is recorded as a failure."""
    ran = []

    @tool(effect=Effect.EFFECTFUL)
    async def grow(text: str, times: int) -> str:
        ran.append(times)
        return text * times

    async def play(turn: Turn) -> None:
        with pytest.raises(PayloadTooLarge, match="arguments of grow"):
            await turn.call(grow, "x" * 1000, 1)
        assert not ran
        assert len(await turn.call(grow, "x" * 900, 1)) == 900
        with pytest.raises(StepFailed, match="PayloadTooLarge: result of grow"):
            await turn.call(grow, "x" * 900, 2)

    settings = Settings(synchronous="OFF", payload_bytes_max=1000)
    result = await played(path, playing(play), settings=settings)

    assert (result.outcome, ran) == ("completed", [1, 2])
    assert kinds(path).count("step_failed") == 1


async def test_a_tools_defaults_and_context_are_its_own(path: Path) -> None:
    """A mutable default is made anew for each call; `keyed` and plain calls share a declaration."""

    @tool(effect=Effect.PURE)
    async def collect(one: int, into: list[int] = []) -> list[int]:  # noqa: B006 - that is the case in point
        into.append(one)
        return into

    async def play(turn: Turn) -> list:
        return [await turn.call(turn.tools["collect"], 1), await turn.call(collect, one=2), await collect(3, [])]

    result = await played(path, playing(play, tools=[collect]))

    assert result.value == [[1], [2], [3]]
