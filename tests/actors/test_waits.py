"""Waits: each answered in the run, after a suspension, after a restart and early; deadlines, and what a wait costs."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from looking import FakeClock, Said, check_invariants, details, kinds, passed, rows, until
from msgspec import structs

from turnkeeper import Agent, Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors import nudges
from turnkeeper.kernel.errors import (
    ApprovalDenied,
    ContractViolation,
    HandoffRefused,
    IdempotencyConflict,
    InvalidName,
    MailboxFull,
    ShuttingDown,
    StorageFailed,
    TurnkeeperError,
    TurnNotFound,
    WaitExpired,
    WaitTokenInvalid,
)
from turnkeeper.kernel.names import Address
from turnkeeper.supervisors import recovery
from turnkeeper.testing import Fault, Faults, World, run

STANDING = Settings(synchronous="OFF", retry_base_s=0.001, shutdown_s=0.02, suspend_s=60.0)
"""Nothing is suspended."""
SUSPENDED = structs.replace(STANDING, suspend_s=0.001)


class Way(NamedTuple):
    """A wait: how a turn asks for it, who brings its answer, and what it comes to."""

    ask: Callable[[Turn], Awaitable[Any]]
    answer: Callable[[Runtime, Path], Awaitable[object]]
    comes_to: Any


async def token(path: Path) -> str:
    """Return the token that the first turn's last wait is answered by, once it is on the disk."""
    await until(lambda: any(intent.wait for intent in details(path, "step_intended")))
    return details(path, "step_intended")[-1].wait.token


async def approved(turn: Turn) -> str:
    return (await turn.approval("pay", {"cents": 5})).by


async def denied(turn: Turn) -> str:
    try:
        await turn.approval("pay")
    except ApprovalDenied as error:
        return error.reason
    return "not denied"


async def escalated(turn: Turn) -> Any:
    return await turn.escalate(reason="lost", summary="a parcel", goal="find it")


WAYS = {
    "approval": Way(approved, lambda runtime, path: _by_token(runtime.approve, path), "ann"),
    "denial": Way(denied, lambda runtime, path: _by_token(runtime.deny, path), "because"),
    "escalation": Way(escalated, lambda runtime, path: _by_token(runtime.answer, path, {"found": 7}), {"found": 7}),
    "signal": Way(lambda turn: turn.signal("go"), lambda runtime, _: runtime.signal("s", "play", "go", [1]), [1]),
    "ask": Way(lambda turn: turn.ask("other"), lambda runtime, _: runtime.signal("s", "other", "go", 8), 8),
    "timer": Way(lambda turn: turn.sleep(0.3), lambda runtime, _: passed(0.0), None),
}


async def _by_token(say: Callable[..., Awaitable[None]], path: Path, *value: object) -> None:
    await say(await token(path), *value, by="ann", reason="because")


@agent("other")
async def other(turn: Turn) -> Any:
    return await turn.signal("go")


def waiting(way: Way, runs: list[int] | None = None) -> list[Agent]:
    """An agent whose turn waits in that way, and the one that it may ask; `runs` are its runs' attempts."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        if runs is not None:
            runs.append(turn.attempt)
        return await way.ask(turn)

    return [play, other]


async def suspended(path: Path, turn_id: int = 1) -> None:
    """Wait until a turn is suspended, by what is on the disk."""
    state = "SELECT state FROM turns WHERE turn_id = ?"
    await until(lambda: path.exists() and rows(path, state, turn_id) == [("suspended",)])


each = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# ---------------------------------------------------------------- answers


@each
async def test_a_wait_is_answered_in_its_run(path: Path, way: Way) -> None:
    """The turn is never suspended."""
    async with Runtime(path, waiting(way), settings=STANDING) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == way.comes_to
    assert "turn_suspended" not in kinds(path)
    check_invariants(path)


@each
async def test_a_wait_is_answered_after_its_turn_was_suspended(path: Path, way: Way) -> None:
    """Its handler runs twice; while it is suspended its waits are there, and not before or after."""
    runs: list[int] = []
    async with Runtime(path, waiting(way, runs), settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        stood = rows(path, "SELECT turn_id, issued FROM waits WHERE turn_id = 1")
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == way.comes_to
    assert stood == [(1, 0)]
    assert rows(path, "SELECT * FROM waits") == []
    assert runs == [1, 1]
    check_invariants(path)


@each
async def test_a_wait_is_answered_after_a_restart(path: Path, way: Way) -> None:
    """Nothing of the turn was in memory."""
    async with Runtime(path, waiting(way), settings=SUSPENDED) as runtime:
        await runtime.tell("s", "play", None, key="k")
        await suspended(path)
    async with Runtime(path, waiting(way), settings=SUSPENDED) as runtime:
        await way.answer(runtime, path)
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None, key="k")

    assert result.value == way.comes_to
    check_invariants(path)


async def test_a_signal_that_comes_before_anything_else_of_its_actor_is_kept_across_a_restart(path: Path) -> None:
    """And is given to one wait."""
    way = WAYS["signal"]
    async with Runtime(path, waiting(way), settings=STANDING) as runtime:
        new = [await runtime.signal("s", "play", "go", [1], key="once") for _ in range(2)]
    async with Runtime(path, waiting(way), settings=SUSPENDED) as runtime:
        with anyio.fail_after(5):
            first = await runtime.ask("s", "play", None)
        await runtime.tell("s", "play", None)
        await suspended(path, 2)

    assert new == [True, False]
    assert first.value == [1]


@pytest.mark.parametrize("settings", [STANDING, SUSPENDED], ids=["standing", "suspended"])
async def test_two_waits_of_one_name_side_by_side_have_a_signal_each(path: Path, settings: Settings) -> None:
    """However they came: before both, between them, at once."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        return await turn.gather(turn.signal("go"), turn.signal("go"), turn.signal("go"))

    async with Runtime(path, [play], settings=settings) as runtime:
        await runtime.signal("s", "play", "go", 1)
        await runtime.signal("s", "play", "go", 2)
        receipt = await runtime.tell("s", "play", None)
        await runtime.signal("s", "play", "go", 3)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert sorted(result.value) == [1, 2, 3]
    check_invariants(path)


async def test_a_signal_without_a_name_is_refused_at_both_ends(path: Path) -> None:
    """It could be taken for the answer of a wait that has no name."""
    refused: list[TurnkeeperError] = []

    @agent("play")
    async def play(turn: Turn) -> None:
        try:
            await turn.signal("")
        except TurnkeeperError as error:
            refused.append(error)

    async with Runtime(path, [play], settings=STANDING) as runtime:
        await runtime.ask("s", "play", None)
        with pytest.raises(TurnkeeperError):
            await runtime.signal("s", "play", "")

    assert len(refused) == 1


async def test_an_answer_that_comes_while_a_step_runs_beside_the_wait_is_kept(path: Path) -> None:
    """There is no suspension meanwhile, however short `suspend_s` is."""
    gate = asyncio.Event()

    @agent("play")
    async def play(turn: Turn) -> Any:
        approval, _ = await turn.gather(turn.approval("pay"), turn.step("work", gate.wait))
        return approval.by

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await runtime.approve(await token(path), by="ann")
        await passed(0.05)
        gate.set()
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == "ann"
    assert "turn_suspended" not in kinds(path)


async def test_waits_side_by_side_are_resumed_in_order_and_steps_beside_them_run_once(path: Path) -> None:
    """One answer resumes the turn, which stands on the others again; nothing is done twice."""
    done: list[str] = []

    @tool(effect=Effect.EFFECTFUL)
    async def act(name: str) -> str:
        done.append(name)
        return name

    @agent("play")
    async def play(turn: Turn) -> Any:
        before = await turn.call(act, "before")
        sums = await turn.gather(turn.signal("a"), turn.call(act, "beside"), turn.signal("b"))
        return [before, *sums, await turn.call(act, "after")]

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        await runtime.signal("s", "play", "b", 2)
        await until(lambda: kinds(path).count("turn_suspended") == 2)
        await runtime.signal("s", "play", "a", 1)
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.value == ["before", 1, "beside", 2, "after"]
    assert done == ["before", "beside", "after"]
    check_invariants(path)


def test_an_answer_and_the_deadline_at_one_moment_have_one_winner() -> None:
    """Under many schedules: the turn is told one of the two, and a signal that came too late is still there."""
    outcomes = set()

    def life_of(late: list[bool]) -> Callable[[World], Awaitable[None]]:
        @agent("play")
        async def play(turn: Turn) -> Any:
            try:
                return await turn.signal("go", timeout_s=10.0)
            except WaitExpired:
                return "late"

        async def life(world: World) -> None:
            async with world.runtime([play]) as runtime:
                receipt = await runtime.tell("s", "play", None, key="k")
                due_at = 10.0
                while not world.disk.waits:  # type: ignore[attr-defined]  # noqa: ASYNC110 - virtual time
                    await asyncio.sleep(0.01)
                due_at = next(iter(world.disk.waits[1].values())).due_at  # type: ignore[attr-defined]
                await asyncio.sleep(due_at - world.clock.time())  # type: ignore[attr-defined]
                await runtime.signal("s", "play", "go", "in time", key="s")
                result = await receipt.deliverable()
                taken = [signal.taken_by for signal in world.disk.signals.values()]  # type: ignore[attr-defined]
                assert taken == ([None] if result.value == "late" else [1])
                late.append(result.value == "late")

        return life

    for seed in range(60):
        late: list[bool] = []
        run(life_of(late), seed=seed)
        outcomes.add(late[0])

    assert outcomes == {True, False}


# ---------------------------------------------------------------- what is refused


async def test_a_wait_within_a_step_is_refused(path: Path) -> None:
    """A step cannot be left and come back to."""

    @agent("play")
    async def play(turn: Turn) -> Any:
        return await turn.step("inner", turn.signal, "go")

    async with Runtime(path, [play], settings=structs.replace(STANDING, retries_max=0)) as runtime:
        result = await runtime.ask("s", "play", None)

    assert result.failure is not None
    assert "within a step" in result.failure.message
    assert rows(path, "SELECT * FROM waits") == []


async def test_a_rerun_that_asks_for_something_else_is_refused(path: Path) -> None:
    """What was approved is what was asked then."""
    cents = 5

    @agent("play")
    async def play(turn: Turn) -> Any:
        return (await turn.approval("pay", {"cents": cents})).by

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await suspended(path)
        cents = 500
        await runtime.approve(await token(path), by="ann")
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.failure is not None
    assert result.failure.type == "ReplayDivergence"


async def test_a_second_answer_and_a_wrong_one_are_refused(path: Path) -> None:
    """The wait stands as it was, or is over."""
    async with Runtime(path, waiting(WAYS["approval"]), settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", None)
        right = await token(path)
        for wrong in (f"{right}0", "1.0.", "", right.replace("1.0", "1.7", 1), right.replace("1.", "9.", 1)):
            with pytest.raises(WaitTokenInvalid):
                await runtime.approve(wrong, by="eve")
        answers = [runtime.approve(right, by=f"ann {number}") for number in range(10)]
        told = await asyncio.gather(*answers, return_exceptions=True)
        result = await receipt.deliverable()

    assert [type(one) for one in told].count(WaitTokenInvalid) == 9
    assert result.value == next(f"ann {number}" for number, one in enumerate(told) if one is None)


# ---------------------------------------------------------------- time


async def test_what_a_turn_spends_suspended_does_not_count(path: Path) -> None:
    """A limit of half a second is no limit on a wait of one."""

    @agent("play", turn_s=0.4)
    async def play(turn: Turn) -> Any:
        await turn.sleep(0.8)
        return "done"

    async with Runtime(path, [play], settings=SUSPENDED) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None)

    assert result.value == "done"


def test_all_runs_of_a_turn_count_together() -> None:
    """Each is within the limit, and both together are not."""

    @agent("play", turn_s=1.0)
    async def play(turn: Turn) -> Any:
        await turn.step("work", asyncio.sleep, 0.7)
        await turn.sleep(100.0)
        await turn.step("more work", asyncio.sleep, 0.7)

    async def life(world: World) -> None:
        async with world.runtime([play]) as runtime:
            result = await runtime.ask("s", "play", None, key="k")
            assert result.failure is not None
            assert result.failure.type == "DeadlineExceeded"

    run(life)


async def test_a_suspended_turn_leaves_no_task_and_no_timer(path: Path) -> None:
    """However many there are."""
    loop = asyncio.get_running_loop()

    def held() -> tuple[int, int]:
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        return len(asyncio.all_tasks()), len(timers)

    async with Runtime(path, waiting(WAYS["approval"]), settings=SUSPENDED) as runtime:
        await runtime.tell("s", "play", None)
        await until(lambda: runtime.statistics().suspended == 1)
        await until(lambda: held()[0] <= 12)
        before = held()
        for number in range(50):
            await runtime.tell(f"s{number}", "play", None)
        await until(lambda: runtime.statistics().suspended == 51)
        await until(lambda: held()[0] <= before[0])

        assert held()[1] <= before[1] + 2
        assert rows(path, "SELECT count(*) FROM waits") == [(51,)]


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
