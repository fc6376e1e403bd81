"""What was broken once, each with the test that failed: doubts that were hidden, effects that were taken for undone."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import pytest
from looking import FakeClock, details, kinds, rows, token, until

from turnkeeper import (
    DidNotHappen,
    Effect,
    GiveUp,
    Happened,
    OnDoubt,
    Retry,
    Runtime,
    Settings,
    Turn,
    agent,
    tool,
)
from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.errors import (
    ContractViolation,
    StepFailed,
    StorageFailed,
    WaitTokenInvalid,
)

pytestmark = pytest.mark.anyio
FAST = Settings(synchronous="OFF", shutdown_s=0.02, retries_max=0)


class World:
    """What effects did, in order."""

    def __init__(self) -> None:
        self.done: list[Any] = []


# ---------------------------------------------------------------- an effect that returned has happened


async def test_an_effect_whose_result_does_not_fit_has_happened(path: Path) -> None:
    """No retry repeats it, no replay plan calls it safe, and a fork from before it names it."""
    world = World()

    @tool(effect=Effect.EFFECTFUL, retry=Retry(retries_max=3, base_s=0.001))
    async def pay(cents: int) -> int:
        world.done.append(cents)
        return "paid"  # type: ignore[return-value]

    @agent("desk", tools=[pay])
    async def desk(turn: Turn) -> int:
        return await turn.call(pay, 500)

    async with Runtime(path, [desk], settings=FAST) as runtime:
        result = await runtime.ask("s", "desk", None)
        plan = await runtime.replay_plan(result.turn_id)

        assert result.failure.type == "StepFailed"
        assert world.done == [500]
        assert plan.verdict == "blocked_processing"
        assert await runtime.effects_behind(result.turn_id, from_step=0) == ["pay[#0]"]
    assert [failed.returned for failed in details(path, "step_failed")] == [True]


# ---------------------------------------------------------------- doubts are shown and asked about


async def test_an_effect_that_its_handler_cancels_is_in_doubt(path: Path) -> None:
    """The handler goes on without it; the record says that nobody knows."""

    @tool(effect=Effect.EFFECTFUL)
    async def pay() -> None:
        await anyio.sleep_forever()

    @agent("desk", tools=[pay])
    async def desk(turn: Turn) -> str:
        with anyio.move_on_after(0.01):
            await turn.call(pay)
        return "went on"

    async with Runtime(path, [desk], settings=FAST) as runtime:
        result = await runtime.ask("s", "desk", None)
        shown = await runtime.checkpoint(result.turn_id)

    assert result.value == "went on"
    assert [(step.status, step.why) for step in shown.steps] == [("unknown", "cut off by its handler")]


@pytest.mark.parametrize(("on_doubt", "asked"), [(OnDoubt.ASK, True), (OnDoubt.RETRY, False)])
async def test_an_effect_that_runs_into_its_turns_deadline_is_in_doubt(
    path: Path, on_doubt: OnDoubt, asked: bool
) -> None:
    """A tool that says to ask makes the turn stand on it; otherwise the turn fails, and the doubt is on the record."""

    @tool(effect=Effect.EFFECTFUL, on_doubt=on_doubt)
    async def pay() -> str:
        await anyio.sleep_forever()
        return ""

    @agent("desk", tools=[pay], turn_s=0.05)
    async def desk(turn: Turn) -> str:
        return await turn.call(pay)

    async with Runtime(path, [desk], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", None)
        if asked:
            await until(lambda: runtime.statistics().suspended == 1)
            await runtime.resolve(1, Happened("paid"), token=await token(runtime, 1))
            assert (await receipt.deliverable()).value == "paid"
        else:
            assert (await receipt.deliverable()).failure.type == "DeadlineExceeded"
    assert [doubt.why for doubt in details(path, "step_unknown")] == ["cut off by the turn's deadline"]


async def test_a_doubt_beside_an_effect_that_hangs_is_asked_about_at_the_deadline(path: Path) -> None:
    """The turn waits for effects under way before it stands on a doubt, but not past its time."""

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def pay() -> str:
        await anyio.sleep_forever()
        return ""

    @tool(effect=Effect.EFFECTFUL)
    async def ship() -> str:
        await anyio.sleep_forever()
        return ""

    @agent("desk", tools=[pay, ship], turn_s=0.1)
    async def desk(turn: Turn) -> list[str]:
        return await turn.gather(turn.call(pay), turn.call(ship))

    async with Runtime(path, [desk], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", None)
        for said in ("paid", "shipped"):  # one after another
            await until(lambda: runtime.statistics().suspended == 1)
            await runtime.resolve(1, Happened(said), token=await token(runtime, 1))
        assert (await receipt.deliverable()).value == ["paid", "shipped"]


async def test_a_doubt_whose_wait_the_handler_cancels_stands_all_the_same(path: Path) -> None:
    """A timeout of the handler's own around the step does not wedge the turn."""
    gate = asyncio.Event()

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def pay() -> str:
        await anyio.sleep_forever()
        return ""

    @tool(effect=Effect.EFFECTFUL)
    async def ship() -> str:
        await gate.wait()
        return "shipped"

    @agent("desk", tools=[pay, ship])
    async def desk(turn: Turn) -> str:
        beside = asyncio.ensure_future(turn.call(ship))
        try:
            async with asyncio.timeout(0.05):
                paid = await turn.call(pay)
        except TimeoutError:
            paid = "unknown"
        return paid + await beside

    async with Runtime(path, [desk], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", None)
        await until(lambda: runtime.statistics().suspended == 1)
        gate.set()
        await runtime.resolve(1, Happened("paid "), token=await token(runtime, 1))
        await until(lambda: runtime.statistics().suspended or runtime.statistics().completed)
        if runtime.statistics().suspended:  # ship was cut off with its turn
            await runtime.resolve(1, Happened("shipped"), token=await token(runtime, 1))
        assert (await receipt.deliverable()).value == "paid shipped"


async def test_a_timeout_that_may_be_repeated_is_a_recorded_failure(path: Path) -> None:
    """A handler that went another way because of it is answered with it again: no rerun has both effects."""
    world = World()

    async def nothing_happened() -> DidNotHappen:
        return DidNotHappen()

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01, on_doubt=nothing_happened)
    async def pay() -> None:
        await anyio.sleep_forever()

    @tool(effect=Effect.EFFECTFUL)
    async def pay_other() -> None:
        world.done.append("pay_other")

    @agent("desk", tools=[pay, pay_other], retry=Retry(retries_max=1, base_s=0.001))
    async def desk(turn: Turn) -> str:
        try:
            await turn.call(pay)
        except StepFailed:
            await turn.call(pay_other)
        if turn.attempt == 1:
            raise ConnectionError
        return "done"

    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert (await runtime.ask("s", "desk", None)).value == "done"
    assert world.done == ["pay_other"]
    assert kinds(path).count("step_unknown") == 1


async def test_an_effect_that_may_be_retried_is_whatever_the_agents_policy_is_for(path: Path) -> None:
    """`OnDoubt.RETRY` says so; the agent's policy is about what its turns raise."""
    calls: list[int] = []

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.02, on_doubt=OnDoubt.RETRY, retry=Retry(retries_max=2, base_s=0.001))
    async def pay() -> str:
        calls.append(1)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return "paid"

    @agent("desk", tools=[pay], retry=Retry(on=(ConnectionError,)))
    async def desk(turn: Turn) -> str:
        return await turn.call(pay)

    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert (await runtime.ask("s", "desk", None)).value == "paid"
    assert len(calls) == 2


async def test_an_answer_that_comes_after_its_time_is_refused(path: Path, clock: FakeClock) -> None:
    """Also where nobody has ended the turn yet."""

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def pay() -> None:
        await anyio.sleep_forever()

    @agent("desk", tools=[pay])
    async def desk(turn: Turn) -> None:
        await turn.call(pay)

    async with Runtime(path, [desk], settings=FAST, clock=clock) as runtime:
        await runtime.tell("s", "desk", None)
        await until(lambda: runtime.statistics().suspended == 1)
    async with Runtime(path, [], settings=FAST, clock=clock) as operator:
        known = await token(operator, 1)
        clock.now += FAST.approval_s
        with pytest.raises(WaitTokenInvalid, match="time is over"):
            await operator.resolve(1, DidNotHappen(), token=known)
        assert (await operator.checkpoint(1)).status == "suspended"


# ---------------------------------------------------------------- retries


async def test_an_agents_own_pause_is_kept_however_long(path: Path) -> None:
    """Longer than the settings' cap: the next attempt is not before it."""
    attempts: list[int] = []

    @agent("desk", retry=Retry(retries_max=3, base_s=100, cap_s=600))
    async def desk(turn: Turn) -> None:
        attempts.append(turn.attempt)
        raise ConnectionError

    async with Runtime(path, [desk], settings=FAST) as runtime:
        await runtime.tell("s", "desk", None)
        await until(lambda: "turn_requeued" in kinds(path))
        await anyio.sleep(0.05)  # anything that is due at once has its chance
        assert attempts == [1]


async def test_an_error_raised_from_itself_is_judged_like_any_other(path: Path) -> None:
    """`raise error from error` makes a ring of causes."""

    @agent("desk", retry=Retry(retries_max=1, base_s=0.001))
    async def desk(turn: Turn) -> str:
        if turn.attempt == 1:
            try:
                raise ConnectionError
            except ConnectionError as error:
                raise error from error
        return "done"

    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert (await runtime.ask("s", "desk", None)).value == "done"


# ---------------------------------------------------------------- contracts


async def test_what_a_tool_is_called_with_is_what_was_recorded(path: Path) -> None:
    """Constraints hold, instances are looked into, and a retry does not get what the call before made of its list."""
    called: list[Any] = []

    class Order(msgspec.Struct):
        cents: int

    @tool(effect=Effect.IDEMPOTENT, retry=Retry(retries_max=1, base_s=0.001))
    async def pay(items: list[int], cents: Annotated[int, msgspec.Meta(ge=1)] = 1, order: Order | None = None) -> int:
        called.append(list(items))
        items.clear()
        if len(called) == 1:
            raise ConnectionError
        return cents

    @agent("desk", tools=[pay])
    async def desk(turn: Turn) -> Any:
        wrong = []
        for arguments in ({"cents": -5}, {"order": Order(cents="five")}):  # type: ignore[arg-type]
            try:
                await turn.call(pay, [1], **arguments)
            except ContractViolation as error:
                wrong.append(error.reason)
        return [await turn.call(pay, [1, 2, 3]), len(wrong)]

    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert (await runtime.ask("s", "desk", None)).value == [1, 2]
    assert called == [[1, 2, 3], [1, 2, 3]]


async def test_equal_values_are_equal_bytes_whatever_their_keys(path: Path) -> None:
    """Maps with keys that are not text have an order, too, and so have sets within them."""

    @agent("echo")
    async def echo(turn: Turn) -> int:
        return turn.turn_id

    def made(one: int, other: int) -> dict[Any, Any]:
        return {"lines": {one: "x", other: "x"}, "tags": {f"t{n}" for n in range(20)}}

    async with Runtime(path, [echo], settings=FAST) as runtime:
        first = await runtime.tell("s", "echo", made(1, 2), key="k")
        assert (await runtime.tell("s", "echo", made(2, 1), key="k")).turn_id == first.turn_id


async def test_an_answer_is_checked_by_the_version_that_asked(path: Path) -> None:
    """And a tool's bytes may be told as JSON tells them."""

    def release(kind: Any, version: str) -> Any:
        async def pay() -> Any:
            await anyio.sleep_forever()

        pay.__annotations__["return"] = kind
        pays = tool(effect=Effect.EFFECTFUL, timeout_s=0.01, version=version)(pay)

        @agent("desk", tools=[pays], version=version)
        async def desk(turn: Turn) -> Any:
            return await turn.call(pays)

        return desk

    older, newer = release(bytes, "1"), release(int, "2")
    async with Runtime(path, [older], settings=FAST) as runtime:
        await runtime.tell("s", "desk", None, key="k")
        await until(lambda: runtime.statistics().suspended == 1)
    async with Runtime(path, [older, newer], settings=FAST) as runtime:
        with pytest.raises(ContractViolation):
            await runtime.resolve(1, Happened(7), token=await token(runtime, 1))
        await runtime.resolve(1, Happened("cGFpZA=="), token=await token(runtime, 1))
        assert (await runtime.ask("s", "desk", None, key="k")).value == b"paid"


async def test_a_turn_belongs_to_the_version_that_recorded_its_first_step(path: Path) -> None:
    """An older one that was cut off before its first step has no claim on it."""

    @agent("desk", version="1")
    async def idle(turn: Turn) -> None:
        await anyio.sleep_forever()

    @agent("desk", version="2", retry=Retry(retries_max=1, base_s=0.001))
    async def desk(turn: Turn) -> str:
        found = await turn.step("think", str.upper, "w1")
        if turn.attempt == 2:
            raise ConnectionError
        return found

    async with Runtime(path, [idle], settings=FAST) as runtime:
        await runtime.tell("s", "desk", None, key="k")
        await until(lambda: runtime.statistics().running == 1)
    async with Runtime(path, [desk], settings=FAST) as runtime:
        assert (await runtime.ask("s", "desk", None, key="k")).value == "W1"
        assert (await runtime.checkpoint(1)).version == "2"


# ---------------------------------------------------------------- around them


async def test_events_end_with_the_reason_when_the_writer_has_crashed(path: Path) -> None:
    """They do not spin, and do not wait for ever."""

    @agent("echo")
    async def echo(turn: Turn) -> None: ...

    async with Runtime(path, [echo], settings=FAST) as runtime:

        async def broken(points: object) -> None:
            raise ZeroDivisionError

        runtime._store.apply = broken  # type: ignore[assignment, method-assign]
        with pytest.raises(StorageFailed):
            await runtime.tell("s", "echo", None)
        with anyio.fail_after(5), pytest.raises(StorageFailed, match="crashed"):
            async for _ in runtime.events():
                pass


async def test_a_receipt_that_leads_to_another_turn_is_damage(path: Path) -> None:
    """Its key would be answered with somebody else's deliverable."""

    @agent("echo")
    async def echo(turn: Turn) -> Any:
        return turn.input

    async with Runtime(path, [echo], settings=FAST) as runtime:
        for number in (1, 2):
            await runtime.ask("s", "echo", number, key=f"k{number}")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE receipts SET turn_id = 3 - turn_id")

    assert {found.rule for found in audit(path).violations} == {"receipt = inbound", "what joined is there once"}


async def test_given_up_is_a_recorded_outcome(path: Path) -> None:
    """The handler may catch it, and no rerun asks again."""

    @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
    async def pay() -> None:
        await anyio.sleep_forever()

    @agent("desk", tools=[pay], retry=Retry(retries_max=1, base_s=0.001))
    async def desk(turn: Turn) -> str:
        try:
            await turn.call(pay)
        except Exception as error:  # noqa: BLE001 - which one is asserted below
            said = type(error).__name__
        if len(rows(path, "SELECT 1 FROM edges WHERE kind = 'turn_requeued'")) == 0:
            raise ConnectionError
        return said

    async with Runtime(path, [desk], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "desk", None)
        await until(lambda: runtime.statistics().suspended == 1)
        await runtime.resolve(1, GiveUp(), token=await token(runtime, 1))
        assert (await receipt.deliverable()).value == "EffectInDoubt"
    assert kinds(path).count("turn_suspended") == 1
