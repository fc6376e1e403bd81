"""Waits in trouble: crashes, refusals, floods of signals, damage; none is lost, and none is answered twice."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import FakeClock, Said, check_invariants, kinds, passed, rows, until
from msgspec import structs
from ways import (
    STANDING,
    SUSPENDED,
    WAYS,
    Way,
    each,
    other,
    suspended,
    token,
    waiting,
)

from turnkeeper import Runtime, Turn, agent
from turnkeeper.actors import nudges
from turnkeeper.kernel.errors import (
    ContractViolation,
    HandoffRefused,
    IdempotencyConflict,
    InvalidName,
    MailboxFull,
    ShuttingDown,
    StorageFailed,
    TurnkeeperError,
    TurnNotFound,
    WaitTokenInvalid,
)
from turnkeeper.kernel.names import Address
from turnkeeper.supervisors import recovery
from turnkeeper.testing import Fault, Faults, World, run

# ---------------------------------------------------------------- trouble


@pytest.mark.parametrize("fault", [Fault.FULL, Fault.FAIL, Fault.BUG_BEFORE, Fault.BUG_AFTER])
def test_an_answer_that_could_not_be_stored_is_told_so_and_can_be_sent_again(fault: Fault) -> None:
    """At whichever commit the disk is full: the turn is approved once, by whom it says."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        return (await turn.approval("pay")).by

    async def life(world: World) -> None:
        async with world.runtime([play]) as runtime:

            async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
                while True:
                    try:
                        return await call()
                    except StorageFailed:
                        await asyncio.sleep(0.5)

            receipt = await insist(lambda: runtime.tell("s", "play", None, key="k"))
            while not (found := await insist(runtime.approvals)):  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
            try:
                await insist(lambda: runtime.approve(found[0].token, by="ann"))
            except WaitTokenInvalid:  # it had been stored, and its writer crashed then
                assert fault is Fault.BUG_AFTER
            result = await insist(receipt.deliverable)
            assert result.value == "ann"

    for commit in range(2, 9):
        run(life, seed=commit, faults=Faults(at={commit: fault}))


async def test_an_answered_turn_of_a_paused_agent_waits_in_its_queue(path: Path) -> None:
    """It goes on once the agent does."""
    async with Runtime(path, waiting(WAYS["approval"]), settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        await runtime.say("agents/play", "pause")
        await runtime.approve(await token(path), by="ann")
        states = rows(path, "SELECT state FROM turns")
        await runtime.say("agents/play", "resume")
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert states == [("queued",)]
    assert result.value == "ann"


@each
async def test_a_turn_that_stands_in_its_run_when_the_runtime_closes_goes_on_in_the_next_one(
    path: Path, way: Way
) -> None:
    """And nobody answers a closed runtime."""
    async with Runtime(path, waiting(way), settings=STANDING) as runtime:
        await runtime.tell("s", "play", None, key="k")
        await until(lambda: "step_intended" in kinds(path))
    with pytest.raises(ShuttingDown):
        await runtime.cancel(1)
    states = rows(path, "SELECT DISTINCT state FROM turns")
    async with Runtime(path, waiting(way), settings=STANDING) as runtime:
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None, key="k")

    assert states == [("queued",)]
    assert result.value == way.comes_to


async def test_a_gathering_whose_timeout_is_refused_says_why(path: Path) -> None:
    """The timeout is a step: one too many is not a time that is over."""

    @agent("play")
    async def play(turn: Turn) -> str:
        go = turn.signal("go")
        try:
            await turn.gather(go, timeout_s=60.0)
        except TurnkeeperError as error:
            return type(error).__name__
        return "gathered"

    async with Runtime(path, [play], settings=structs.replace(STANDING, steps_max=1)) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)

    assert result.value == "StepLimitExceeded"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 10**400, "1"])
async def test_a_time_that_is_none_is_refused_at_once(path: Path, seconds: Any) -> None:
    """Nothing is recorded of it."""
    refused: list[TurnkeeperError] = []

    @agent("play")
    async def play(turn: Turn) -> None:
        for ask in (turn.sleep, lambda given: turn.signal("go", timeout_s=given)):
            try:
                await ask(seconds)
            except ContractViolation as error:
                refused.append(error)

    async with Runtime(path, [play], settings=STANDING) as runtime:
        await runtime.ask("s", "play", None)

    assert len(refused) == 2
    assert "step_intended" not in kinds(path)


NO_WAIT: dict[str, Callable[[Turn], object]] = {
    "signal's name": lambda turn: turn.signal(5),  # type: ignore[arg-type]
    "signal's name, none": lambda turn: turn.signal(""),
    "who": lambda turn: turn.approval("x", who=[5]),  # type: ignore[list-item]
    "who, one of them": lambda turn: turn.approval("x", who=["anna", ""]),
    "who, no list": lambda turn: turn.approval("x", who=5),  # type: ignore[arg-type]
    "who, of an escalation": lambda turn: turn.escalate(reason="r", summary="s", goal="g", who=[None]),  # type: ignore[list-item]
    "next who": lambda turn: turn.approval("x", at_deadline="escalate", next_who=["\ud800"]),
    "what": lambda turn: turn.approval(5),  # type: ignore[arg-type]
    "packet": lambda turn: turn.escalate(reason=5, summary="s", goal="g"),  # type: ignore[arg-type]
    "packet, no text": lambda turn: turn.escalate(reason="\ud800", summary="s", goal="g"),
    "handoff": lambda turn: turn.handoff("other", reason="r", summary=None, goal="g"),  # type: ignore[arg-type]
    "handoff to nobody": lambda turn: turn.handoff(5, reason="r", summary="s", goal="g"),  # type: ignore[arg-type]
    "agent": lambda turn: turn.ask(5),  # type: ignore[arg-type]
    "agent, unhashable": lambda turn: turn.ask([]),  # type: ignore[arg-type]
    "session": lambda turn: turn.ask("other", session_id=5),  # type: ignore[arg-type]
    "key": lambda turn: turn.sleep(1.0, key=5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrong", NO_WAIT.values(), ids=NO_WAIT)
async def test_a_wait_for_what_can_be_nobody_is_refused_and_leaves_a_record_that_can_be_read(
    path: Path, wrong: Callable[[Turn], Any]
) -> None:
    """In the handler, by an error of the tree; or it would stand on what nobody can ever read again."""
    refused: list[TurnkeeperError] = []

    @agent("play")
    async def play(turn: Turn) -> str:
        try:
            await wrong(turn)
        except (ContractViolation, InvalidName, HandoffRefused) as error:
            refused.append(error)
        await turn.sleep(0.001)
        return "on"

    async with Runtime(path, [play, other], settings=STANDING) as runtime:
        result = await runtime.ask("s", "play", None)

    assert (result.value, len(refused)) == ("on", 1)
    check_invariants(path)


async def test_people_who_can_be_gone_through_once_are_asked_all_the_same(path: Path) -> None:
    """Or a generator would be empty when the wait is opened, and anybody could answer."""

    @agent("play")
    async def play(turn: Turn) -> str:
        return (await turn.approval("x", who=iter(["anna"]))).by  # type: ignore[arg-type]

    async with Runtime(path, [play], settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", None)
        given = await token(path)
        with pytest.raises(WaitTokenInvalid):
            await runtime.approve(given, by="bob")
        await runtime.approve(given, by="anna")
        result = await receipt.deliverable()

    assert result.value == "anna"


# ---------------------------------------------------------------- signals under load, and damage


def in_the_way(runtime: Runtime) -> asyncio.Event:
    """Hold up every write of a runtime until the event is set."""
    apply, gate = runtime._store.apply, asyncio.Event()

    async def late(points: Any) -> Any:
        await gate.wait()
        return await apply(points)

    runtime._store.apply = late  # type: ignore[method-assign]
    return gate


async def test_a_signal_whose_sender_goes_away_meanwhile_wakes_who_waits(path: Path) -> None:
    """It is durable: nobody else would ever tell of it in this process."""
    async with Runtime(path, waiting(WAYS["signal"]), settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        gate = in_the_way(runtime)
        sending = asyncio.create_task(runtime.signal("s", "play", "go", [1]))
        await passed(0.02)
        sending.cancel()
        gate.set()
        with anyio.fail_after(5):
            assert (await receipt.deliverable()).value == [1]


async def test_a_signal_sent_twice_at_once_with_two_payloads_is_a_conflict(path: Path) -> None:
    """The second is not dropped in silence; and the message says what the key stands for."""
    async with Runtime(path, [other], settings=STANDING) as runtime:
        sent = [runtime.signal("s", "other", "go", number, key="k") for number in (1, 2)]
        first, second = await asyncio.gather(*sent, return_exceptions=True)

    assert first is True
    assert str(second) == "key 'k' already stands for another payload (signal 1); use a new key"


async def test_a_signals_key_stands_for_something_new_once_its_time_is_over(path: Path, clock: FakeClock) -> None:
    """Both signals are given; the older one first."""
    settings = structs.replace(STANDING, idempotency_s=60.0)

    @agent("play")
    async def play(turn: Turn) -> list[Any]:
        return [await turn.signal("go"), await turn.signal("go")]

    async with Runtime(path, [play], settings=settings, clock=clock) as runtime:
        assert await runtime.signal("s", "play", "go", 1, key="k")
        clock.now += 61
        assert await runtime.signal("s", "play", "go", 2, key="k")
        assert not await runtime.signal("s", "play", "go", 2, key="k")
        with pytest.raises(IdempotencyConflict):
            await runtime.signal("s", "play", "go", 1, key="k")
        assert (await runtime.ask("s", "play", None)).value == [1, 2]
    assert rows(path, "SELECT signal_id, retired FROM signals") == [(1, 1), (2, 0)]


async def test_no_more_signals_wait_than_signals_max_however_many_are_sent_at_once(path: Path) -> None:
    settings = structs.replace(STANDING, signals_max=2)
    async with Runtime(path, [other], settings=settings) as runtime:
        sent = [runtime.signal("s", "other", "go", number) for number in range(10)]
        came = await asyncio.gather(*sent, return_exceptions=True)

    assert came.count(True) == 2
    said = {str(error) for error in came if isinstance(error, MailboxFull)}
    waiting = "signals that no turn has taken (signals_max)"
    assert said == {f"the mailbox of s/other holds its limit of 2 {waiting}; send again later"}


def damage(path: Path, turn_id: int) -> None:
    """Make the intent of a turn's first step unreadable."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS edges_never_change")
        said = "UPDATE edges SET detail = x'93c0c0c0' WHERE turn_id = ? AND kind = 'step_intended'"
        assert connection.execute(said, (turn_id,)).rowcount == 1
        connection.commit()


async def test_a_turn_that_cannot_be_read_holds_up_no_deadline(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again by itself, and said."""
    said = Said()
    monkeypatch.setattr("turnkeeper.actors.node.logger", lambda: said)

    @agent("play")
    async def play(turn: Turn) -> None:
        await turn.sleep(turn.input)

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        await runtime.tell("a", "play", 0.2)
        await suspended(path)
        damage(path, 1)
        with anyio.fail_after(5):
            await runtime.ask("b", "play", 0.3)
        await until(lambda: len(said.of("turn.unreadable")) > 1)

    assert {one["turn_id"] for one in said.of("turn.unreadable")} == {1}
    assert "alarm.failed" not in said.events


async def test_a_turn_that_cannot_be_read_hides_no_question_of_others(path: Path) -> None:
    async with Runtime(path, waiting(WAYS["approval"]), settings=SUSPENDED) as runtime:
        for number, session in enumerate("ab", 1):
            await runtime.tell(session, "play", None)
            await suspended(path, number)
        damage(path, 1)
        assert [one.turn_id for one in await runtime.approvals()] == [2]


async def test_what_a_task_fails_of_that_nobody_waits_for_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    monkeypatch.setattr("turnkeeper.actors.node.logger", lambda: said)

    async def fail() -> None:
        raise ZeroDivisionError

    async with Runtime(path, [other], settings=STANDING) as runtime:
        runtime._node.start(fail())
        await until(lambda: "task.failed" in said.events)

    assert said.of("task.failed")[0]["error"] == "ZeroDivisionError"


async def test_a_nudge_insists_on_what_passes_only(path: Path) -> None:
    """The store may come back; a turn that was pruned does not."""
    tried: list[type[TurnkeeperError]] = []

    async def act(error: TurnkeeperError) -> None:
        tried.append(type(error))
        if len(tried) < 3:
            raise error

    async with Runtime(path, [other], settings=STANDING) as runtime:
        await nudges._insist(runtime._node, lambda: act(StorageFailed("store", "busy")), 1)
        assert tried == [StorageFailed] * 3
        tried.clear()
        with pytest.raises(TurnNotFound):
            await nudges._insist(runtime._node, lambda: act(TurnNotFound(1)), 1)
        assert tried == [TurnNotFound]


async def test_the_count_of_suspended_turns_does_not_drift(path: Path) -> None:
    """Not where one is read again, answered, or ended."""
    async with Runtime(path, waiting(WAYS["signal"]), settings=SUSPENDED) as runtime:
        for number, session in enumerate("st", 1):
            await runtime.tell(session, "play", None)
            await suspended(path, number)
        await until(lambda: runtime.statistics().suspended == 2)
        async with runtime._node.hold(Address("", "s", "play")) as actor:
            await actor.resync_turn(actor.current)
            assert runtime.statistics().suspended == 2
        await runtime.cancel(2)
        assert runtime.statistics().suspended == 1
        await runtime.signal("s", "play", "go", 1)
        await until(lambda: runtime.statistics().completed == 1)
        assert runtime.statistics().suspended == 0


async def test_one_thing_that_is_owed_and_never_ends_holds_up_nothing_else(path: Path) -> None:
    """At the start of a runtime: what an earlier one owed turns."""
    done = []

    async def owed(number: int) -> None:
        if number % 20 == 0:
            await asyncio.Event().wait()
        done.append(number)

    async with Runtime(path, [other], settings=STANDING) as runtime:
        await recovery._catch_up(runtime._node, [partial(owed, number) for number in range(500)])
        await until(lambda: len(done) == 475)
